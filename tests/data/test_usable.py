"""Clips that can be used, and those that cannot: counted and named, never labels."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
from tests.videos import numbered_frames, write_video

from kinema.data.decoding import Video, probe
from kinema.data.usable import probe_splits, split_readable
from kinema.types import Clip, DataError, Dataset, Split


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos of one second, and three files that are none."""
    folder = tmp_path_factory.mktemp("usable")
    for name in ("a.mp4", "b.mp4"):
        write_video(folder / name, numbered_frames(10), fps=10)
    (folder / "empty.mp4").touch()
    (folder / "text.avi").write_text("not a video")
    return folder


def clips(folder: Path, *names: str) -> tuple[Clip, ...]:
    return tuple(Clip(clip_id=name, video=folder / name, labels={"action": 0}) for name in names)


def dataset(splits: dict[Split, tuple[Clip, ...]]) -> Dataset:
    return Dataset(classes={"action": ("one",)}, splits=splits)


def test_broken_videos_are_left_out_and_named(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("kinema"), "propagate", True)
    data = dataset(
        {"train": clips(folder, "a.mp4", "empty.mp4", "text.avi"), "test": clips(folder, "b.mp4", "gone.mp4")}
    )
    usable, videos, skipped = probe_splits(data, ["train", "test"], workers=0)
    assert [clip.clip_id for clip in usable["train"]] == ["a.mp4"]
    assert [clip.clip_id for clip in usable["test"]] == ["b.mp4"]
    assert videos.keys() == {folder / "a.mp4", folder / "b.mp4"}
    assert skipped["train"].keys() == {"empty.mp4", "text.avi"}
    assert skipped["test"] == {"gone.mp4": f"{folder / 'gone.mp4'}: no such file"}
    assert [record.getMessage() for record in caplog.records] == [
        "train: 2 of 3 clips cannot be read and are left out, the first because of "
        f"{folder / 'empty.mp4'}: empty (0 bytes)",
        f"test: 1 of 2 clips cannot be read and are left out, the first because of {folder / 'gone.mp4'}: no such file",
    ]


def test_damaged_videos_are_counted(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("kinema"), "propagate", True)
    path = write_video(tmp_path / "damaged.ts", numbered_frames(60), fps=10)
    content = bytearray(path.read_bytes())
    content[3000:3400] = bytes(400)
    path.write_bytes(content)
    whole = folder / "a.mp4"
    train = tuple(Clip(clip_id=video.name, video=video, labels={"action": 0}) for video in (whole, path))
    usable, videos, _ = probe_splits(dataset({"train": train}), ["train"], workers=0)
    assert len(usable["train"]) == 2
    assert [videos[video].damaged for video in (whole, path)] == [False, True]
    (record,) = caplog.records
    assert record.getMessage() == (
        f"train: videos of 1 of 2 clips are damaged in places; what decodes of them is used, such as {path}"
    )


def test_only_the_splits_that_were_asked_for_are_probed(folder: Path) -> None:
    data = dataset({"train": clips(folder, "a.mp4"), "test": clips(folder, "gone.mp4")})
    usable, videos, skipped = probe_splits(data, ["train"], workers=0)
    assert (list(usable), list(videos), skipped) == (["train"], [folder / "a.mp4"], {"train": {}})


def test_a_split_without_a_usable_clip_is_an_error(folder: Path) -> None:
    data = dataset({"train": clips(folder, "a.mp4"), "test": clips(folder, "text.avi", "empty.mp4")})
    with pytest.raises(DataError, match=r"^none of the 2 test clips can be read; the first: .*text\.avi: "):
        probe_splits(data, ["train", "test"], workers=0)


def test_a_split_without_clips_is_none(folder: Path) -> None:
    data = dataset({"train": clips(folder, "a.mp4"), "validation": ()})
    usable, _, skipped = probe_splits(data, ["train", "validation"], workers=0)
    assert (usable["validation"], skipped["validation"]) == ([], {})


def test_times_outside_a_video_are_an_error_before_anything_is_read(folder: Path) -> None:
    late = Clip(clip_id="late", video=folder / "a.mp4", start_s=0.5, stop_s=3.0, labels={"action": 0})
    with pytest.raises(
        DataError, match=r"the clip 'late' is annotated from 0\.5 to 3 s, but the video is 1\.000 s long"
    ):
        probe_splits(dataset({"train": (late,)}), ["train"], workers=0)


def test_clips_are_sorted_by_what_probing_found(folder: Path) -> None:
    found: dict[Path, Video | DataError] = {
        folder / "a.mp4": probe(folder / "a.mp4"),
        folder / "x.mp4": DataError("x.mp4: broken"),
    }
    first, *others = clips(folder, "a.mp4", "x.mp4")
    again = Clip(clip_id="again", video=folder / "a.mp4", start_s=0.5)
    readable, videos, skipped = split_readable([first, *others, again], found)
    assert readable == [first, again]
    assert list(videos) == [folder / "a.mp4"]
    assert skipped == {"x.mp4": "x.mp4: broken"}


def test_published_clips_that_end_behind_their_video_are_left_out(folder: Path) -> None:
    long = Clip(clip_id="long", video=folder / "a.mp4", stop_s=3.0, labels={"action": 0})
    data = dataset({"train": (*clips(folder, "b.mp4"), long)})
    with pytest.raises(DataError, match="mend its times"):
        probe_splits(data, ["train"], workers=0)
    usable, _, skipped = probe_splits(replace(data, published=True), ["train"], workers=0)
    assert [clip.clip_id for clip in usable["train"]] == ["b.mp4"]
    assert skipped["train"].keys() == {"long"}
    assert skipped["train"]["long"].endswith("but the video is 1.000 s long")
