"""A screen that nobody sees, for windows."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

_PROGRAMS = ("Xvfb", "xdotool", "import")
_START_S = 20.0


class Screen:
    """An X server.

    Args:
        name: As programs find it.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def press(self, key: str, *, title: str = "kinema watch") -> None:
        """Press a key in the window of that title."""
        self._tell("xdotool", "search", "--sync", "--name", title, "windowfocus", "--sync", "key", key)

    def click_away(self, *, title: str = "kinema watch") -> None:
        """Close the window of that title, as a window manager does."""
        self._tell("xdotool", "search", "--sync", "--name", title, "windowquit")

    def picture(self, path: Path) -> NDArray[np.uint8]:
        """All that is to be seen on it: (H, W, 3)."""
        self._tell("import", "-window", "root", str(path))
        return np.asarray(Image.open(path).convert("RGB"))

    def _tell(self, *command: str) -> None:
        environment = {**os.environ, "DISPLAY": self.name}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr


@contextmanager
def virtual_screen(folder: Path, *, size: str = "1280x900") -> Iterator[Screen]:
    """An X server without a monitor; the test is skipped where it is not installed."""
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    if missing:
        message = f"windows are not tested: {', '.join(missing)} (xvfb, xdotool, imagemagick) is not installed"
        if os.environ.get("KINEMA_REQUIRE_TEST_DATA") == "1":
            pytest.fail(message)
        pytest.skip(message)
    told = folder / "display"
    with told.open("w") as file:
        # It looks for a free number itself.
        server = subprocess.Popen(
            ["Xvfb", "-displayfd", str(file.fileno()), "-screen", "0", f"{size}x24", "-nolisten", "tcp"],
            pass_fds=[file.fileno()],
            stderr=subprocess.DEVNULL,
        )
    try:
        end_s = time.monotonic() + _START_S
        while not (number := told.read_text().strip()):
            assert server.poll() is None, "Xvfb has ended"
            assert time.monotonic() < end_s, "Xvfb does not start"
            time.sleep(0.02)
        yield Screen(f":{number}")
    finally:
        server.terminate()
        server.wait()
