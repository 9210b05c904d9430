"""Decoding by OpenCV: every frame is decoded from the first on, wanted ones are converted.

Exact where its own FFmpeg has the codec: it gives frames in the order in which they come out, whatever timestamps and
headers say. It cannot start in the middle, so that the end of a long file costs its whole length.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from kinema.data.decoders.common import (
    check_size,
    checked_indices,
    common_refusal,
    failed,
    in_order,
    refused,
    stream_facts,
    upright,
)
from kinema.data.video import Video
from kinema.types import ConfigError

R = TypeVar("R")

# Found by trying, with OpenCV 5.0: its wheels decode AV1 on a graphics card only.
_NO_DECODER = frozenset({"av1"})

# OpenCV gives times as floating-point numbers of milliseconds; frames are not as close together as this.
_SAME_TIME_S = 1e-4


class OpenCV:
    """See `Decoder`.

    Raises:
        ConfigError: OpenCV is not installed.
    """

    name = "opencv"

    def __init__(self) -> None:
        try:
            import cv2
        except ImportError as error:
            raise ConfigError(
                f'clips.decoder=opencv needs OpenCV ({error}): pip install "kinema[opencv]"; or set clips.decoder=pyav'
            ) from None
        self._cv2 = cv2

    def refusal(self, video: Video) -> str | None:
        """See `Decoder`."""
        reason = common_refusal(video)
        if reason is None and video.codec in _NO_DECODER:
            reason = f"OpenCV has no decoder for {video.codec}"
        return reason

    def take(self, video: Video, indices: Iterable[int], take: Callable[[NDArray[np.uint8]], R]) -> list[R]:
        """See `Decoder`."""
        asked = checked_indices(video, indices)
        if not asked:
            return []
        reason = self.refusal(video)
        if reason is not None:
            raise refused(self.name, video, reason)
        cv2 = self._cv2
        if stream_facts(video).video_index != 0:
            raise refused(self.name, video, "its video does not come first (a cover picture does)")
        # Made absolute, `a:b.avi` is not taken for a protocol.
        capture = cv2.VideoCapture(os.fspath(Path(video.path).absolute()), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
        results: dict[int, R] = {}
        try:
            capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)  # it knows no mirrors
            wanted = set(asked)
            first_s = 0.0
            for index in range(max(wanted) + 1):
                if not capture.grab():
                    raise failed(self.name, video, index, "does not come out")
                time_s = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                first_s = time_s if index == 0 else first_s
                if index not in wanted:
                    continue
                # Where only their order tells frames apart, times say nothing.
                if video.first_pts is not None and abs(time_s - first_s - video.times_s[index]) > _SAME_TIME_S:
                    raise failed(self.name, video, index, f"comes out as that of {time_s - first_s:.3f} s")
                there, image = capture.retrieve()
                if not there or image.ndim != 3:
                    raise failed(self.name, video, index, "cannot be converted to RGB")
                pixels = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)
                pixels = upright(pixels, video.orientation)
                check_size(self.name, video, index, pixels)
                results[index] = take(pixels)
        finally:
            capture.release()
        return in_order(asked, results)
