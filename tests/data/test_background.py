"""A class that stands for nothing, made of the clips that there are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.videos import numbered_frames, write_video

from kinema.config import resolve_evaluation
from kinema.data.background import background_labels
from kinema.data.load_dataset import load_dataset
from kinema.data.reading import plan_clip
from kinema.data.usable import probe_splits
from kinema.types import ConfigError, Dataset, Preprocessing

RGB = Preprocessing(num_frames=4, size_px=16, resize_px=16, fit="squash", mean=(0, 0, 0), std=(1, 1, 1))


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
    frames = [plan_clip(clip, videos[clip.video], RGB).indices for clip in made]
    assert frames[0] == (0, 0, 0, 0)
    assert (min(frames[1]), max(frames[1])) == (1, 7)  # of the first 8 of 40
    assert frames[2] == (39, 39, 39, 39)
    assert (min(frames[3]), max(frames[3])) == (26, 29)  # of the last 4 of frames 10 to 29
    assert np.all(np.diff(frames[3]) >= 0)


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
