"""Still images and folders of frames, read like videos."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.videos import numbered_frame, numbered_frames, read_number, write_video

from kinema.data import images
from kinema.data.decoding import Video, probe, read_frames
from kinema.data.hashing import content_hash
from kinema.data.probing import frame_rates, probe_all
from kinema.data.reading import clip_interval_s, read_clip
from kinema.data.usable import probe_splits
from kinema.types import Clip, DataError, Dataset, Preprocessing

PREPROCESSING = Preprocessing(
    num_frames=20, size_px=32, resize_px=32, fit="crop", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
)
RED_GREEN_BLUE = np.repeat(np.eye(3, dtype=np.uint8)[None] * 255, 2, axis=0)  # 2 rows, 3 columns


def write_frames(folder: Path, num_frames: int, *, first: int = 1, name: str = "frame_%010d.jpg") -> Path:
    """A folder of frames painted with 0, 1, ..."""
    folder.mkdir(parents=True)
    for i in range(num_frames):
        Image.fromarray(numbered_frame(i)).save(folder / (name % (first + i)), quality=95)
    return folder


def error_of(path: Path, *, fps: float | None = None) -> str:
    with pytest.raises(DataError) as caught:
        probe(path, fps=fps)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["a.jpg", "a.JPEG", "a.png", "a.PNG", "a.bmp", "a.webp"])
def test_a_still_image_is_a_video_of_one_frame(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    Image.fromarray(numbered_frame(1234)).save(path)
    video = probe(path)
    assert video.times_s.tolist() == [0.0]
    assert (video.duration_s, video.fps) == (1.0, 1.0)
    assert (video.width_px, video.height_px, video.container) == (64, 48, "image")
    first, again = read_frames(video, [0, 0])
    assert first is again
    assert first.dtype == np.uint8
    assert read_number(first) == 1234
    with pytest.raises(IndexError, match="frame 1 asked for, there are 1"):
        read_frames(video, [1])


def test_a_clip_of_one_frame_repeats_it(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(numbered_frame(77)).save(path)
    clip, video = Clip(clip_id="a", video=path), probe(path)
    assert clip_interval_s(clip, video) == (0.0, 1.0)
    frames = read_clip(clip, video, PREPROCESSING)
    assert frames.shape == (20, 3, 32, 32)
    assert (frames == frames[:1]).all()
    assert frames.float().std() > 10


def gradient(levels: int) -> np.ndarray:
    return (np.arange(16).reshape(4, 4) * (levels - 1) // 15).astype(np.uint16 if levels > 256 else np.uint8)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(gradient(256)), gradient(256)),
        (Image.fromarray(gradient(65536)), gradient(65536) >> 8),
        (Image.fromarray(gradient(256) > 100), (gradient(256) > 100) * 255),
        (Image.merge("LA", [Image.fromarray(gradient(256)), Image.new("L", (4, 4), 9)]), gradient(256)),
        (Image.merge("RGBA", [*[Image.fromarray(gradient(256))] * 3, Image.new("L", (4, 4), 0)]), gradient(256)),
        (Image.fromarray(gradient(256)).convert("P"), gradient(256)),
    ],
    ids=["grey", "16 bits", "1 bit", "grey and alpha", "transparent", "palette"],
)
def test_every_kind_of_png_becomes_rgb(tmp_path: Path, image: Image.Image, expected: np.ndarray) -> None:
    image.save(tmp_path / "a.png")
    (frame,) = read_frames(probe(tmp_path / "a.png"), [0])
    assert frame.shape == (4, 4, 3)
    assert np.array_equal(frame, np.repeat(expected[:, :, None], 3, axis=2))


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    (frame,) = read_frames(probe(tmp_path / "a.jpg"), [0])
    assert np.abs(frame.astype(int) - [255, 0, 0]).max() < 8


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [
        (1, lambda stored: stored),
        (2, lambda stored: stored[:, ::-1]),
        (3, lambda stored: stored[::-1, ::-1]),
        (4, lambda stored: stored[::-1]),
        (5, lambda stored: stored.transpose(1, 0, 2)),
        (6, lambda stored: np.rot90(stored, -1)),
        (7, lambda stored: np.rot90(stored, -1)[:, ::-1][::-1, ::-1]),
        (8, lambda stored: np.rot90(stored)),
    ],
)
def test_orientation_of_cameras_is_respected(
    tmp_path: Path, orientation: int, turned: Callable[[np.ndarray], np.ndarray]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RED_GREEN_BLUE).save(tmp_path / "a.png", exif=exif)
    video = probe(tmp_path / "a.png")
    (frame,) = read_frames(video, [0])
    expected = turned(RED_GREEN_BLUE)
    assert (video.height_px, video.width_px) == expected.shape[:2]
    assert np.array_equal(frame, expected)
    assert np.rot90(RED_GREEN_BLUE, video.rotation_deg // 90).shape == frame.shape


def test_what_is_not_an_image_is_named(tmp_path: Path) -> None:
    text, empty, moving = (tmp_path / name for name in ("text.jpg", "empty.png", "moving.webp"))
    text.write_text("not found")
    empty.touch()
    pictures = [Image.fromarray(numbered_frame(i)) for i in range(3)]
    pictures[0].save(moving, save_all=True, append_images=pictures[1:])
    assert error_of(text) == f"{text}: not an image, or damaged from its start"
    assert error_of(empty) == f"{empty}: empty (0 bytes)"
    assert error_of(moving) == f"{moving}: a moving picture, not an image; convert it to a video"
    assert error_of(tmp_path / "gone.jpg") == f"{tmp_path / 'gone.jpg'}: no such file"


def test_of_two_views_in_one_file_the_first_is_the_picture(tmp_path: Path) -> None:
    """Cameras write such files, with the suffix .jpg."""
    views = [Image.fromarray(numbered_frame(i)) for i in (21, 22)]
    views[0].save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=views[1:])
    video = probe(tmp_path / "a.jpg")
    assert (video.codec, len(video.times_s)) == ("mpo", 1)
    assert read_number(read_frames(video, [0])[0]) == 21


def test_a_suffix_that_lies_does_no_harm(tmp_path: Path) -> None:
    Image.fromarray(numbered_frame(5)).save(tmp_path / "a.jpg", format="PNG")
    video = probe(tmp_path / "a.jpg")
    assert video.codec == "png"
    assert read_number(read_frames(video, [0])[0]) == 5


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.bmp", "a.webp"])
def test_cut_and_damaged_images_are_refused_or_read_but_never_crash(tmp_path: Path, name: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, size=(48, 64, 3), dtype=np.uint8)
    path = tmp_path / name
    Image.fromarray(noise).save(path)
    content = path.read_bytes()
    for share in (0.1, 0.5, 0.9):
        path.write_bytes(content[: int(len(content) * share)])
        assert error_of(path).startswith(f"{path}: ")
    chance = random.Random(0)
    for _ in range(60):
        spoilt = bytearray(content)
        for _ in range(8):
            spoilt[chance.randrange(len(spoilt))] = chance.randrange(256)
        path.write_bytes(spoilt)
        try:
            probe(path)
        except DataError as error:
            assert str(error).startswith(f"{path}: ")  # noqa: PT017


@pytest.mark.parametrize(
    ("name", "first"),
    [("frame_%010d.jpg", 1), ("img_%05d.jpg", 0), ("%d.png", 1), ("v2_%d.JPG", 1), ("100%%_%03d.webp", 1)],
)
def test_frames_of_a_folder_are_in_the_order_of_their_numbers(tmp_path: Path, name: str, first: int) -> None:
    folder = write_frames(tmp_path / "P01_01", 12, first=first, name=name)
    (folder / "notes.txt").touch()
    (folder / ".hidden_9.jpg").touch()
    (folder / "u").mkdir()
    video = probe(folder, fps=50)
    assert video.times_s.tolist() == [i / 50 for i in range(12)]
    assert (video.duration_s, video.fps, video.container) == (12 / 50, 50.0, "frames")
    assert (video.width_px, video.height_px) == (64, 48)
    assert [read_number(frame) for frame in read_frames(video, range(12))] == list(range(12))
    assert [read_number(frame) for frame in read_frames(video, [11, 0, 11])] == [11, 0, 11]


def test_numbers_may_outgrow_their_width(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "frames", 12, name="%01d.png")
    assert [read_number(frame) for frame in read_frames(probe(folder, fps=1), [8, 9, 11])] == [8, 9, 11]


@pytest.mark.parametrize("fps", [50, Fraction(60_000, 1001), Fraction(30_000, 1001), Fraction(48_000, 1001), 90])
def test_times_of_a_folder_equal_those_of_the_video(tmp_path: Path, fps: Fraction | int) -> None:
    file = write_video(tmp_path / "a.mp4", numbered_frames(150, width_px=32, height_px=24), fps=Fraction(fps))
    folder = write_frames(tmp_path / "a", 2)
    for i in range(2, 150):
        os.link(folder / "frame_0000000001.jpg", folder / f"frame_{i + 1:010d}.jpg")
    told = float(str(float(fps))[:16])  # what a table says: EPIC_100_video_info.csv has 59.9400599400599
    assert np.array_equal(probe(folder, fps=told).times_s, probe(file).times_s)
    assert probe(folder, fps=told).duration_s == probe(file).duration_s


def test_a_folder_needs_its_rate(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "frames", 2)
    assert error_of(folder) == (
        f"{folder}: a folder, not a video file; if it is a folder of frames, say their rate (fps)"
    )
    assert "has to be above 0, not 0" in error_of(folder, fps=0)
    assert "has to be above 0, not nan" in error_of(folder, fps=float("nan"))


@pytest.mark.parametrize(
    ("removed", "missing"),
    [((1,), 1), ((1, 2, 3), 1), ((4,), 4), ((6, 7, 3), 3)],
)
def test_the_first_gap_of_a_folder_is_named(tmp_path: Path, removed: tuple[int, ...], missing: int) -> None:
    folder = write_frames(tmp_path / "frames", 9)
    for number in removed:
        (folder / f"frame_{number:010d}.jpg").unlink()
    assert error_of(folder, fps=50) == (
        f"{folder}: frame_{missing:010d}.jpg is missing, and the last frame is frame_0000000009.jpg; "
        "unpack or extract the frames again"
    )


def test_frames_are_not_taken_from_two_series(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "frames", 3)
    for name, message in {
        "frame_1.jpg": "are not of one series",
        "frame_0000000004.png": "are not of one series",
        "flow_0000000004.jpg": "are not of one series",
        "cover.jpg": "'cover.jpg' has no number",
        "frame_4.jpg": "is not numbered like the others",
    }.items():
        (folder / name).touch()
        assert message in error_of(folder, fps=50), name
        (folder / name).unlink()
    (tmp_path / "empty").mkdir()
    assert "holds no frames (.bmp, .jpeg, .jpg, .png, .webp)" in error_of(tmp_path / "empty", fps=50)


def test_optical_flow_beside_the_frames_is_passed_over(tmp_path: Path) -> None:
    """As mmaction2 lays them out: `img_00001.jpg`, `flow_x_00001.jpg` and `flow_y_00001.jpg` in one folder."""
    folder = write_frames(tmp_path / "frames", 3, name="img_%05d.jpg")
    for name in ("flow_x_00001.jpg", "flow_x_00002.jpg", "flow_y_00001.jpg", "flow_y_00002.jpg"):
        Image.new("L", (64, 48)).save(folder / name)
    video = probe(folder, fps=50)
    assert [read_number(frame) for frame in read_frames(video, [0, 1, 2])] == [0, 1, 2]
    only_flow = write_frames(tmp_path / "flow", 2, name="flow_x_%05d.jpg")
    assert len(probe(only_flow, fps=50).times_s) == 2
    (only_flow / "flow_y_00001.jpg").touch()
    assert "are not of one series" in error_of(only_flow, fps=50)


def test_frames_of_another_size_and_broken_ones_are_named_when_they_are_read(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "frames", 4)
    Image.fromarray(numbered_frame(2, width_px=32)).save(folder / "frame_0000000003.jpg")
    (folder / "frame_0000000004.jpg").write_bytes(b"")
    video = probe(folder, fps=50)
    with pytest.raises(DataError, match=r"frame_0000000003\.jpg: is 32x48 px and was expected to be 64x48"):
        read_frames(video, [2])
    with pytest.raises(DataError, match=r"frame_0000000004\.jpg: not an image"):
        read_frames(video, [0, 3])
    (folder / "frame_0000000001.jpg").unlink()
    with pytest.raises(DataError, match=r"frame_0000000001\.jpg: no such file"):
        read_frames(video, [0])


def test_only_frames_that_are_asked_for_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_frames(tmp_path / "frames", 30)
    opened: list[str] = []
    real = Image.open

    def counted(file: Path, *args: Any, **kwargs: Any) -> Any:
        opened.append(file.name)
        return real(file, *args, **kwargs)

    monkeypatch.setattr(images.Image, "open", counted)
    video = probe(folder, fps=50)
    read_frames(video, [20, 7, 20])
    assert opened == [f"frame_{number:010d}.jpg" for number in (1, 21, 8)]


def test_a_folder_is_probed_again_when_its_files_or_its_rate_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, cache = write_frames(tmp_path / "frames", 5), tmp_path / "cache"

    def probed(fps: float) -> Video:
        result = probe_all([folder], fps={folder: fps}, index=cache)[folder]
        assert isinstance(result, Video)
        return result

    first = probed(50)
    with monkeypatch.context() as patch:
        patch.setattr("kinema.data.probing.probe", None)
        again = probed(50)
    assert (again.names, again.first_pts, again.container) == ("frame_%010d.jpg", 1, "frames")
    assert np.array_equal(again.times_s, first.times_s)
    assert [read_number(frame) for frame in read_frames(again, [4, 1])] == [4, 1]
    assert probed(25).duration_s == 2 * first.duration_s
    stat = folder.stat()
    Image.fromarray(numbered_frame(5)).save(folder / "frame_0000000006.jpg")
    os.utime(folder, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as unpacking an archive does
    assert len(probed(50).times_s) == 6
    assert isinstance(probe_all([folder], index=cache)[folder], DataError)
    (folder / "frame_0000000002.jpg").unlink()
    assert isinstance(probe_all([folder], fps={folder: 50.0}, index=cache)[folder], DataError)


def test_clips_of_one_folder_agree_on_its_rate(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "P01_01", 20)
    clips = [Clip(clip_id=str(i), video=folder, stop_s=0.2, fps=fps, labels={"a": 0}) for i, fps in enumerate([50, 60])]
    file = Clip(clip_id="file", video=tmp_path / "a.mp4")
    assert frame_rates([clips[0], file]) == {folder: 50}
    with pytest.raises(DataError, match="P01_01: clips of this folder of frames say different rates: 50 and 60 frames"):
        frame_rates(clips)
    dataset = Dataset(classes={"a": ("x",)}, splits={"train": tuple(clips[:1])})
    usable, videos, skipped = probe_splits(dataset, ["train"], workers=1)
    assert [clip.clip_id for clip in usable["train"]] == ["0"]
    assert videos[folder].fps == 50
    assert not skipped["train"]


def test_a_folder_has_a_hash_of_its_content(tmp_path: Path) -> None:
    one = write_frames(tmp_path / "one", 6)
    same = write_frames(tmp_path / "same", 6, first=0, name="img_%05d.jpg")
    assert content_hash(one) == content_hash(same)
    assert len(content_hash(one)) == 24
    (same / "img_00005.jpg").unlink()
    assert content_hash(one) != content_hash(same)
    other = write_frames(tmp_path / "other", 6)
    Image.fromarray(numbered_frame(99)).save(other / "frame_0000000001.jpg")
    assert content_hash(one) != content_hash(other)
    with pytest.raises(OSError, match="holds no frames"):
        content_hash(tmp_path)
