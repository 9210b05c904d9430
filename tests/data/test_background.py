"""A class that stands for nothing, made of the clips that there are."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.videos import numbered_frames, write_video

from kinema.config import resolve_evaluation
from kinema.data.background import background_clips, background_labels
from kinema.data.load_dataset import load_dataset
from kinema.data.reading import plan_clip, read_clip
from kinema.data.usable import probe_splits
from kinema.preprocessing import make_preprocessing
from kinema.sections import ClipsSection
from kinema.types import ConfigError, DataError, Dataset, Modality, Preprocessing

RGB = Preprocessing(num_frames=4, size_px=16, resize_px=16, fit="squash", mean=(0, 0, 0), std=(1, 1, 1))


KINDS = {"first frame", "first fifth", "last frame", "last fifth"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("background")
    rows = ["path,label,split,start_s,stop_s,group"]
    for number in range(4):
        write_video(root / f"{number}.mp4", numbered_frames(40), fps=10)
        times = "1.0,3.0" if number == 3 else ","
        rows.append(f"{number}.mp4,{'open' if number % 2 else 'close'},train,{times},g{number}")
    write_video(root / "test.mp4", numbered_frames(40), fps=10)
    rows.append("test.mp4,open,test,,,t")
    (root / "clips.csv").write_text("\n".join(rows))
    return root


def listed(root: Path, *overrides: str) -> Dataset:
    section, _ = resolve_evaluation({"name": "table", "root": str(root)}, overrides, clips={})
    return load_dataset(section, seed=0)


def test_one_clip_is_made_of_each(root: Path) -> None:
    dataset = listed(root, "data.background=nothing")
    assert dataset.classes == {"action": ("close", "open", "nothing")}
    assert background_labels(dataset) == {"action": 2}
    clips, videos, _ = probe_splits(dataset, ["train", "test"], workers=0, background=True)
    assert [clip.clip_id for clip in clips["test"]] == [clip.clip_id for clip in dataset.splits["test"]]
    given, made = clips["train"][:4], clips["train"][4:]
    assert [clip.clip_id for clip in made] == [f"{clip.clip_id}#background" for clip in given]
    assert all(clip.labels == {"action": 2} for clip in made)
    assert [clip.group for clip in made] == [clip.group for clip in given]
    whole = [(0, 39), (0, 39), (0, 39), (10, 29)]  # frames of the clips as they are given
    for clip, (first, last) in zip(made, whole, strict=True):
        assert _kind(plan_clip(clip, videos[clip.video], RGB).indices, first, last) in KINDS


def _kind(frames: tuple[int, ...], first: int, last: int) -> str:
    """Which part of a clip these frames are."""
    fifth = (last - first + 1) // 5
    assert np.all(np.diff(frames) >= 0)
    if set(frames) in ({first}, {last}):
        return "first frame" if frames[0] == first else "last frame"
    if first <= frames[0] < frames[-1] < first + fifth:
        return "first fifth"
    return "last fifth" if last - fifth < frames[0] < frames[-1] <= last else f"no part: {frames}"


def test_every_part_is_taken_and_the_same_in_each_fold(root: Path) -> None:
    dataset = listed(root, "data.background=nothing")
    clips, videos, _ = probe_splits(dataset, ["train"], workers=0)
    many = [replace(clips["train"][0], clip_id=f"clip {number}") for number in range(400)]
    labels = background_labels(dataset)
    made = background_clips(many, videos, labels)
    kinds = Counter(_kind(plan_clip(clip, videos[clip.video], RGB).indices, 0, 39) for clip in made)
    assert kinds.keys() == KINDS
    assert min(kinds.values()) > 70
    assert background_clips(many[1::3], videos, labels) == made[1::3]


def test_a_still_image_does_not_show_less_than_itself(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3):
        Image.fromarray(numbered_frames(1, first=number)[0]).save(tmp_path / f"{number}.png")
    (tmp_path / "images.csv").write_text("path,label\n" + "".join(f"{number}.png,open\n" for number in range(3)))
    images = listed(tmp_path / "images.csv", "data.background=nothing")
    message = r"^data\.background: all of the 3 training clips are still images or of one frame, such as .*0\.png"
    with pytest.raises(DataError, match=message):
        probe_splits(images, ["train"], workers=0, background=True)
    rows = [f"{root / '0.mp4'},open,0,0.1", f"{root / '1.mp4'},close,0,0.11", f"{root / '2.mp4'},open,,"]
    (tmp_path / "one.csv").write_text("\n".join(["path,label,start_s,stop_s", *rows, ""]))
    mixed = listed(tmp_path / "one.csv", "data.background=nothing")
    with caplog.at_level(logging.WARNING, logger="kinema"):
        logging.getLogger("kinema").propagate = True
        made = probe_splits(mixed, ["train"], workers=0, background=True)[0]["train"][3:]
    assert [clip.video.name for clip in made] == ["1.mp4", "2.mp4"]
    assert "of 1 of 3 clips, which are still images or of one frame, no clip of nothing is made" in caplog.text


def test_otherwise_nothing_is_made(root: Path) -> None:
    dataset = listed(root)
    assert background_labels(dataset) == {}
    assert len(probe_splits(dataset, ["train"], workers=0, background=True)[0]["train"]) == 4
    made = listed(root, "data.background=nothing")  # what is not trained on is what was filmed
    assert len(probe_splits(made, ["train"], workers=0)[0]["train"]) == 4


def test_a_validation_split_is_what_was_filmed(root: Path) -> None:
    dataset = listed(root, "data.background=nothing", "data.validation=0.5")
    clips, _, _ = probe_splits(dataset, ["train", "validation"], workers=0, background=True)
    assert [clip.clip_id for clip in clips["validation"]] == [clip.clip_id for clip in dataset.splits["validation"]]
    assert len(clips["train"]) == 2 * len(dataset.splits["train"])


def test_a_class_of_that_name_is_not_taken_over(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.background: action has a class 'open' already"):
        listed(root, "data.background=open")


@pytest.mark.parametrize("modality", ["flow", "flow_magnitude", "rgb_difference"])
def test_a_frame_throughout_has_no_motion(root: Path, modality: Modality) -> None:
    section = ClipsSection.model_validate({"num_frames": 4, "size_px": 16, "fit": "squash", "motion": {"stack": 2}})
    wanted = make_preprocessing(section, modality, mean=(0.5,) * 3, std=(0.5,) * 3)
    clips, videos, _ = probe_splits(listed(root, "data.background=nothing"), ["train"], workers=0)
    clips["train"] = [replace(clips["train"][0], clip_id=f"clip {number}") for number in range(8)]
    made = background_clips(clips["train"], videos, {"action": 2})
    assert {clip.still for clip in made} == {True, False}
    for clip in made:
        found = read_clip(clip, videos[clip.video], wanted)
        plan = plan_clip(clip, videos[clip.video], wanted)
        assert len(set(plan.indices)) == 1 or not clip.still
        zero = 0 if modality == "flow_magnitude" else 128
        assert bool((found == zero).all()) is clip.still
    stored = make_preprocessing(
        ClipsSection.model_validate({**section.model_dump(), "motion": {"method": "stored"}}),
        "flow",
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
    )
    still = next(clip for clip in made if clip.still)
    assert bool((read_clip(still, videos[still.video], stored) == 128).all())  # no file of flow is asked for


def test_a_fifth_of_a_single_frame_stands_still(root: Path) -> None:
    clips, videos, _ = probe_splits(listed(root), ["train"], workers=0)
    short = [replace(clips["train"][0], clip_id=f"clip {number}", stop_s=0.4) for number in range(16)]
    made = background_clips(short, videos, {"action": 2})
    assert all(clip.still for clip in made)
