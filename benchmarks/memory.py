"""Memory of all processes over 50 epochs of a decoded set, against what it was after the second.

    python benchmarks/memory.py [--json FILE] [--data FOLDER] [--rounds N] [--quick]

The loader with 2 workers reads real videos, 16 frames at 112, and each batch becomes a model's input. After each epoch
what this process and all its children hold is added up (`memory_use.py`): pages that several share count once. The
ratio is that of the mean after the last five epochs to what it was after the second; 1.03 at most is asked for.
`--rounds` is the number of epochs.
"""

from __future__ import annotations

import gc
import tempfile
from pathlib import Path
from typing import Any

import media
import memory_use
import pipeline
from harness import Report, options, say
from kinema.data.device import to_model_input

MOST = 1.03
WORKERS = 2


def main() -> None:
    given = options(__doc__, rounds=50)
    report = Report(name="memory", options=given)
    epochs = max(given.rounds, 4)
    with tempfile.TemporaryDirectory() as place:
        pipeline.own_cache(Path(place))
        found = media.avi_files(given.data, num=1 if given.quick else 20)
        paths = [path for of_collection in found.values() for path in of_collection]
        wanted = pipeline.preprocessing(num_frames=16, size_px=112, resize_px=128)
        videos, _ = pipeline.index(paths, Path(place))
        task = pipeline.uniform(paths * (1 if given.quick else 4), videos, wanted)
        loader = pipeline.Loader(task, pixels="i420", batch_size=8, workers=WORKERS)
        used_mb: list[float] = []
        try:
            for epoch in range(epochs):
                for batch in loader.loader:
                    to_model_input(batch.streams, {"rgb": wanted})
                gc.collect()
                used_mb.append(memory_use.megabytes(memory_use.family()))
                say(f"epoch {epoch + 1}: {used_mb[-1]:.0f} MB")
        finally:
            loader.close()
    report.facts["epochs_mb"] = [round(value, 1) for value in used_mb]
    report.rows.append(_row(used_mb, len(paths)))
    report.finish()


def _row(used_mb: list[float], num_clips: int) -> dict[str, Any]:
    last = used_mb[-5:] if len(used_mb) > 8 else used_mb[-1:]
    after = sum(last) / len(last)
    return {
        "job": f"memory of all processes after {len(used_mb)} epochs of {num_clips} videos, {WORKERS} workers",
        "kinema": after,
        "peer": used_mb[1],
        "peer_name": "itself after epoch 2 (at most 1.03 is asked for)",
        "ratio": after / used_mb[1],
        "unit": "MB",
        "target": MOST,
        "at_most": True,
    }


if __name__ == "__main__":
    main()
