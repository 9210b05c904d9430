"""Lists a table of 100,000 clips in 1,000 folders: seconds of the whole command, and its peak memory.

python benchmarks/list_clips.py
"""

from __future__ import annotations

import csv
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NUM_FOLDERS, NUM_FILES = 1000, 100


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        root = Path(place, "clips")
        root.mkdir()
        with (root / "clips.csv").open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["path", "label", "start_s", "stop_s", "group"])
            for folder in range(NUM_FOLDERS):
                (root / f"{folder}").mkdir()
                for number in range(NUM_FILES):
                    path = root / f"{folder}" / f"{number}.mp4"
                    path.touch()
                    rows.writerow([path.relative_to(root), f"class {folder % 200}", 0.5, 2 + number % 5, folder])
        kinema = Path(sys.executable).with_name("kinema")
        for _ in range(3):
            began_s = time.perf_counter()
            command = [str(kinema), "data", "list", "table", str(root), "--json", f"{place}/clips.json"]
            subprocess.run(command, check=True, capture_output=True)
            peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
            print(f"{NUM_FOLDERS * NUM_FILES:,} clips: {time.perf_counter() - began_s:.1f} s, {peak_mb:.0f} MB")


if __name__ == "__main__":
    main()
