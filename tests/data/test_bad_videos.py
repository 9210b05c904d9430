"""Files that are no videos, or damaged or cut ones: refused with one line, or read as far as they go."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import cast

import av
import numpy as np
import pytest
from tests.decoded import MADE, Make, made_in
from tests.videos import numbered_frames, read_number, write_video

from kinema.data.decoding import probe, read_frames
from kinema.types import DataError


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    return made_in(tmp_path_factory.mktemp("made"))


def test_refused_with_one_line(tmp_path: Path, make: Make) -> None:
    (tmp_path / "empty.avi").touch()
    (tmp_path / "text.avi").write_text("This is not a video.\n" * 500)
    (tmp_path / "noise.mp4").write_bytes(random.Random(0).randbytes(5000))
    (tmp_path / "folder.avi").mkdir()
    whole = make("b_frames.mp4").read_bytes()  # its table of frames is at its end
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "unknown_codec.mp4").write_bytes(whole.replace(b"avc1", b"zzzz"))
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    for name, reason in {
        "empty.avi": "empty",
        "text.avi": "not a video",
        "noise.mp4": "not a video",
        "folder.avi": "a folder",
        "cut.mp4": "cut short",
        "unknown_codec.mp4": "video stream",
        "sound.mp4": "no video stream",
        "missing.avi": "no such file",
    }.items():
        with pytest.raises(DataError) as caught:
            probe(tmp_path / name)
        message = str(caught.value)
        assert message.startswith(f"{tmp_path / name}: ")
        assert reason in message
        assert "\n" not in message


@pytest.mark.parametrize("name", ["mpeg4.avi", "h264.ts"])
def test_cut_file_of_unknown_length_gives_what_is_there(tmp_path: Path, name: str) -> None:
    noise = np.random.default_rng(0).integers(0, 40, (60, 48, 64, 3), dtype=np.uint8)
    frames = [image - 20 + grain for image, grain in zip(numbered_frames(60), noise, strict=True)]
    options = {**cast("dict[str, str]", MADE[name]["options"]), "b": "2000k"}
    path = write_video(tmp_path / name, frames, **{"fps": 25, **MADE[name], "options": options})  # type: ignore[arg-type]
    whole = path.read_bytes()
    for share in (0.4, 0.6, 0.8, 0.95):
        cut = whole[: int(len(whole) * share)]
        if name.endswith(".avi"):  # like a recorder that was switched off
            cut = cut[:4] + bytes(4) + cut[8:]
        path.write_bytes(cut)
        video = probe(path)
        images = read_frames(video, range(len(video.times_s)))
        assert 10 < len(images) <= 60
        assert len(images) < 60 or share > 0.9  # of AVI, the end is an index
        assert video.damaged or share > 0.9 or name.endswith(".avi")
        good = images[:-4]  # of the last, parts or references may be gone
        assert [read_number(image) for image in good] == list(range(len(good)))


def test_damaged_files_never_give_more_than_an_error(
    tmp_path: Path, make: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(5)
    num_read = 0
    refused: list[bool] = []
    for name in ("b_frames.mp4", "mpeg4.avi", "hevc.mkv", "vp9.webm", "vp8.webm", "h264.ts"):
        whole = make(name).read_bytes()
        for _ in range(8):
            noisy = bytearray(whole)
            for _ in range(15):
                noisy[rng.randrange(len(noisy))] = rng.randrange(256)
            path = tmp_path / name
            path.write_bytes(noisy)
            try:
                video = probe(path)
                read_frames(video, range(len(video.times_s)))
                num_read += 1
            except DataError as error:
                refused.append(str(error).startswith(f"{path}: "))
    assert all(refused)
    assert len(refused) > 0
    assert num_read > 0
    assert capfd.readouterr().err == ""  # FFmpeg has much to say about such files


def test_frame_that_does_not_decode(make: Make, tmp_path: Path) -> None:
    short, long = make("variable_rate.mp4"), make("b_frames.mp4")
    path = Path(shutil.copy(long, tmp_path / "a.mp4"))
    video = probe(path)
    shutil.copy(short, path)
    with pytest.raises(DataError, match=r"a\.mp4: frame 29 of 30 \(at 1\.160 s\) does not decode"):
        read_frames(video, [0, 29])
    path.unlink()
    with pytest.raises(DataError, match="no such file"):
        read_frames(video, [0])
