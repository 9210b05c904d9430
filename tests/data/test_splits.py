from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinema.data.splits import cut_validation, take_fraction
from kinema.types import Clip, ConfigError, Dataset


def make(*clips: tuple[str | None, int], num_classes: int = 2, group_name: str | None = "recording") -> Dataset:
    """A data set of training clips, each given by its group and label."""
    train = tuple(
        Clip(clip_id=str(number), video=Path(f"{number}.mp4"), labels={"action": label}, group=group)
        for number, (group, label) in enumerate(clips)
    )
    return Dataset(
        classes={"action": tuple(f"class {number}" for number in range(num_classes))},
        splits={"train": train},
        group_name=group_name,
        absent={"train": train[:5]},
        notes=("a note",),
    )


def labels(dataset: Dataset, split: str) -> Counter[int]:
    return Counter(clip.labels["action"] for name, clips in dataset.splits.items() for clip in clips if name == split)


def test_groups_stay_whole_and_classes_stay_balanced() -> None:
    dataset = make(*((f"r{number // 6}", number % 6) for number in range(60)), num_classes=6)
    cut = cut_validation(dataset, 0.2, seed=0)
    assert list(cut.splits) == ["train", "validation"]
    train, validation = ({clip.group for clip in cut.splits[split]} for split in ("train", "validation"))
    assert (len(train), len(validation)) == (8, 2)
    assert not train & validation
    assert labels(cut, "validation") == dict.fromkeys(range(6), 2)
    assert cut.notes == ("a note", "validation split: 12 of 60 training clips, 2 of 10 groups by recording")
    assert cut.num_listed == {"train": 53, "validation": 12}


def test_clips_without_a_group_go_by_video_and_the_note_says_so() -> None:
    cut = cut_validation(make(*((None, number % 2) for number in range(40)), group_name=None), 0.25, seed=1)
    assert labels(cut, "validation") == {0: 5, 1: 5}
    assert cut.notes[1] == (
        "validation split: 10 of 40 training clips, 10 of 40 groups by video; "
        "training clips without a group: 40, each video counts as one"
    )


def test_clips_of_one_video_are_not_torn_apart() -> None:
    clips = tuple(
        Clip(clip_id=f"{number}", video=Path(f"{number // 4}.mp4"), labels={"action": number % 2})
        for number in range(40)
    )
    cut = cut_validation(Dataset(classes={"action": ("a", "b")}, splits={"train": clips}), 0.2, seed=0)
    train, validation = ({clip.video for clip in cut.splits[split]} for split in ("train", "validation"))
    assert (len(train), len(validation)) == (8, 2)
    assert not train & validation
    assert cut.num_listed == {"train": 32, "validation": 8}


def test_groups_that_share_a_video_stay_together() -> None:
    # Clip n is of group n, and of the same video as its neighbour; the last two also of one group.
    clips = tuple(
        Clip(clip_id=f"{n}", video=Path(f"{n // 2}.mp4"), labels={"action": 0}, group=f"take {min(n, 18)}")
        for n in range(20)
    )
    for seed in range(10):
        dataset = Dataset(classes={"action": ("a",)}, splits={"train": clips}, group_name="take")
        cut = cut_validation(dataset, 0.3, seed=seed)
        train, validation = ({clip.video for clip in cut.splits[split]} for split in ("train", "validation"))
        assert (len(train), len(validation)) == (7, 3)
        assert not train & validation


def test_rare_classes_keep_their_share() -> None:
    cut = cut_validation(make(*((None, int(number < 10)) for number in range(200))), 0.1, seed=0)
    assert labels(cut, "validation") == {0: 19, 1: 1}


def test_several_tasks_are_balanced_at_once() -> None:
    clips = tuple(
        Clip(clip_id=str(n), video=Path(f"{n}.mp4"), labels={"verb": n % 4, "noun": (n // 4) % 5}) for n in range(400)
    )
    classes = {"verb": tuple("abcd"), "noun": tuple("vwxyz")}
    validation = cut_validation(Dataset(classes=classes, splits={"train": clips}), 0.1, seed=0).splits["validation"]
    assert Counter(clip.labels["verb"] for clip in validation) == dict.fromkeys(range(4), 10)
    assert Counter(clip.labels["noun"] for clip in validation) == dict.fromkeys(range(5), 8)


def test_the_seed_decides_and_nothing_else() -> None:
    dataset = make(*((None, number % 2) for number in range(100)))

    def ids(seed: int) -> list[str]:
        return [clip.clip_id for clip in cut_validation(dataset, 0.1, seed=seed).splits["validation"]]

    assert ids(3) == ids(3)
    assert ids(3) != ids(4)


def test_a_class_keeps_a_training_clip_where_it_can() -> None:
    alone = [("only", 0), *((f"r{number}", 1) for number in range(9))]
    assert labels(cut_validation(make(*alone), 0.3, seed=0), "train")[0] == 1
    cut = cut_validation(make(("r0", 0), ("r1", 1), num_classes=2), 0.5, seed=0)
    assert "classes left without a training clip: 1, such as 'class " in cut.notes[1]


def test_groups_larger_than_the_share_give_one_group() -> None:
    cut = cut_validation(make(*(("big" if number < 6 else "small", number % 2) for number in range(10))), 0.01, seed=0)
    assert {clip.group for clip in cut.splits["validation"]} == {"small"}


def test_a_test_split_is_not_touched() -> None:
    dataset = make(("a", 0), ("b", 1), ("c", 0), ("d", 1))
    test = (Clip(clip_id="t", video=Path("t.mp4"), labels={"action": 0}),)
    dataset = Dataset(classes=dataset.classes, splits={**dataset.splits, "test": test})
    cut = cut_validation(dataset, 0.5, seed=0)
    assert list(cut.splits) == ["train", "validation", "test"]
    assert cut.splits["test"] == test


def test_what_cannot_be_cut_names_the_key() -> None:
    with pytest.raises(ConfigError, match=r"^data\.validation: all 2 training clips are of one recording"):
        cut_validation(make(("a", 0), ("a", 1)), 0.5, seed=0)


def test_a_validation_split_of_its_own_stays() -> None:
    cut = cut_validation(make(("a", 0), ("b", 1)), 0.5, seed=0)
    again = cut_validation(cut, 0.9, seed=0)
    assert again.splits == cut.splits
    assert again.notes[-1] == "data.validation is not used: the data set has a validation split of its own"


@settings(max_examples=60, deadline=None)
@given(
    clips=st.lists(st.tuples(st.none() | st.sampled_from("abcdef"), st.integers(0, 3)), min_size=2, max_size=40),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 5),
)
def test_any_cut_is_a_partition_into_whole_groups(clips: list[tuple[str | None, int]], share: float, seed: int) -> None:
    dataset = make(*clips, num_classes=4)
    if len({group if group is not None else number for number, (group, _) in enumerate(clips)}) < 2:
        with pytest.raises(ConfigError):
            cut_validation(dataset, share, seed=seed)
        return
    cut = cut_validation(dataset, share, seed=seed)
    train, validation = cut.splits["train"], cut.splits["validation"]
    assert train
    assert validation
    assert sorted([*train, *validation], key=lambda clip: int(clip.clip_id)) == list(dataset.splits["train"])
    assert not {clip.group for clip in train if clip.group} & {clip.group for clip in validation if clip.group}


def test_a_fraction_keeps_whole_groups_and_every_class() -> None:
    # 20 classes with 5 to 24 groups each, 3 clips a group, as in UCF101.
    clips = [(f"c{label}/g{group}", label) for label in range(20) for group in range(5 + label) for _ in range(3)]
    whole = make(*clips, num_classes=20)
    part = take_fraction(whole, 0.2, seed=0)
    assert len(part.splits["train"]) == pytest.approx(0.2 * len(clips), abs=3)
    chosen = {clip.group for clip in part.splits["train"]}
    assert part.splits["train"] == tuple(clip for clip in whole.splits["train"] if clip.group in chosen)
    for label, num in labels(part, "train").items():
        assert num == pytest.approx(0.2 * 3 * (5 + label), abs=3)
    assert len(labels(part, "train")) == 20
    assert part.absent == whole.absent
    assert part.notes[-1] == (
        f"data.fraction: {len(part.splits['train'])} of {len(clips)} training clips are used, "
        f"{len(chosen)} of {len(clips) // 3} groups by recording"
    )
    assert take_fraction(whole, 0.2, seed=0) == part
    assert take_fraction(whole, 0.2, seed=1) != part


def test_a_fraction_leaves_other_splits_alone() -> None:
    dataset = cut_validation(make(*((f"r{n}", n % 2) for n in range(40))), 0.25, seed=0)
    part = take_fraction(dataset, 0.5, seed=0)
    assert part.splits["validation"] == dataset.splits["validation"]
    assert len(part.splits["train"]) == 15


def test_a_fraction_of_one_group_names_the_key() -> None:
    with pytest.raises(
        ConfigError, match=r"^data\.fraction: all 2 training clips are of one recording.*set it to 1, or"
    ):
        take_fraction(make(("a", 0), ("a", 1)), 0.5, seed=0)
