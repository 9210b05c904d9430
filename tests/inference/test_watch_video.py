"""A video of what was watched that cannot be written."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from av.video.frame import VideoFrame

from kinema.inference import watch_video
from kinema.inference.live_types import Picture
from kinema.inference.watch_figures import Figures
from kinema.inference.watch_video import VideoSaver
from kinema.inference.watching import Seen


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (RuntimeError("no\nidea"), "RuntimeError: no idea"),
        (MemoryError(), "MemoryError"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (ValueError("no encoder"), "no encoder"),
    ],
)
def test_whatever_goes_wrong_nobody_waits_for_ever(
    error: Exception, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(watch_video, "annotated", fail)
    saver = VideoSaver(tmp_path / "a.mp4", {"action": ("a", "b")}, Figures(), waits=True)
    image = VideoFrame.from_ndarray(np.zeros((72, 64), dtype=np.uint8), format="yuv420p")
    seen = Seen(picture=Picture(image=image, time_s=0.0, duration_s=0.1, captured_s=0.0), decision=None)

    def work() -> None:
        for _ in range(50):
            saver.put(seen)
        saver.close()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    assert saver.problem == problem
    assert not saver.is_written
    assert not list(tmp_path.iterdir())
