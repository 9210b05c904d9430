"""A store several times as large as the memory that a process may have."""

from __future__ import annotations

import os
import resource
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.videos import numbered_frame, write_video

from kinema.data.decoding import probe
from kinema.data.frame_store import KIND, Files, FrameFormat, FrameStore, frames_key
from kinema.data.loading import ClipReader, EpochOrder, clip_loader
from kinema.data.reading import plan_clip
from kinema.data.shards import ShardWriter, Store
from kinema.data.video import Video
from kinema.preparation.frames import FrameSettings, prepare_frames
from kinema.types import Clip, Preprocessing, Split

FORM = Preprocessing(
    num_frames=20, size_px=224, resize_px=224, fit="crop", pixels="i420", mean=(0, 0, 0), std=(1, 1, 1)
)
CLIP_BYTES = 20 * 224 * 224 * 3 // 2
MEMORY = 160 * 2**20
"""That a process may have beside what it has already."""
NUM = 4 * MEMORY // CLIP_BYTES

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits on memory hold on Linux")


def limited(function: Callable[[], None]) -> None:
    """Do something in a process that may have `MEMORY` more than this one, mapped files included, and see that it kept
    to that."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, resource.RLIM_INFINITY))
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            function()
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
            assert grown < MEMORY, grown
            code = 0
        except BaseException:  # noqa: BLE001 - the parent says that it failed
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0


def test_all_frames_of_a_clip_larger_than_memory(tmp_path: Path) -> None:
    """At 240 px, 2,000 frames are 173 MB as I420 and 346 MB as RGB."""
    path = write_video(
        tmp_path / "long.mp4", (numbered_frame(n % 4096, width_px=240, height_px=240) for n in range(2000)), fps=25
    )
    video = probe(path)
    settings = FrameSettings(form=FrameFormat(pixels="i420", short_side_px=240), rate_fps=25)
    clips: dict[Split, list[Clip]] = {"train": [Clip(clip_id="long", video=path)]}
    folder = tmp_path / "store"

    def store() -> None:
        done = prepare_frames(clips, {path: video}, settings, folder, root=tmp_path, workers=0)
        assert (done.num_new, done.failures) == (1, {})

    try:
        limited(store)
        assert Store.open(folder).num_bytes == 2000 * 240 * 240 * 3 // 2
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_a_store_larger_than_memory(tmp_path: Path) -> None:
    path = tmp_path / "video.avi"
    path.write_bytes(b"a video")
    times_s = np.arange(NUM * 20) / 20
    video = Video(
        path=path,
        times_s=times_s,
        duration_s=float(NUM),
        fps=20,
        width_px=320,
        height_px=240,
        rotation_deg=0,
        codec="mpeg4",
        container="avi",
    )
    clips = [Clip(clip_id=str(second), video=path, start_s=second, stop_s=second + 1) for second in range(NUM)]
    files, form = Files(tmp_path), FrameFormat.of(FORM)
    keys = [frames_key(files.state(path), plan_clip(clip, video, FORM), form) for clip in clips]
    folder = tmp_path / "store"

    def write() -> None:
        with ShardWriter(folder, kind=KIND, settings=form.facts) as writer:
            for number, key in enumerate(keys):
                writer.append(key, np.full(CLIP_BYTES, number % 251, dtype=np.uint8), {"clip": number})

    def get() -> None:
        store = Store.open(folder)
        assert store.num_bytes > 3.9 * MEMORY
        for number in np.random.default_rng(0).permutation(NUM).tolist():
            assert np.all(store.get(keys[number]) == number % 251)
        assert store.damaged() == []

    def load() -> None:
        plain = ClipReader(clips, {path: video}, {"rgb": FORM}, augmentation=None, seed=0)
        ready = FrameStore(plain, [Store.open(folder)], files)
        assert ready.whole
        reader = ClipReader(clips, {path: video}, {"rgb": FORM}, augmentation=None, seed=0, store=ready)
        for workers in (0, 2):
            num_read = 0
            with clip_loader(reader, EpochOrder(NUM, batch_size=8, seed=0), workers=workers) as loader:
                for batch in loader:
                    expected = (batch.indices % 251).to(batch.streams["rgb"].dtype)
                    assert bool((batch.streams["rgb"] == expected[:, None, None]).all())
                    num_read += len(batch)
            assert num_read == NUM

    try:
        for function in (write, get, load):
            limited(function)
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # pytest would keep it
