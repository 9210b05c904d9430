"""Folds: every clip is held out once, groups stay whole, the test split stays out."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinema.config import resolve
from kinema.data.folds import divided, hold_out, parts_of
from kinema.data.load_dataset import load_dataset
from kinema.data.reading import plan_of_view
from kinema.sections import FoldSection
from kinema.types import Clip, ConfigError, Dataset


def dataset(sizes: list[int], *, num_test: int = 2) -> Dataset:
    """Groups of so many clips, of two classes in turn, and some clips of a test split."""
    clips = [
        Clip(
            clip_id=f"{group}-{number}",
            video=Path(f"{group}.avi"),
            labels={"action": number % 2},
            group=f"g{group}",
            attributes={"day": str(group % 3), "empty": ""},
        )
        for group, size in enumerate(sizes)
        for number in range(size)
    ]
    test = [Clip(clip_id=f"t{n}", video=Path("t.avi"), labels={"action": 0}, group="t") for n in range(num_test)]
    half = len(clips) // 2
    return Dataset(
        classes={"action": ("a", "b")},
        splits={"train": tuple(clips[:half]), "validation": tuple(clips[half:]), "test": tuple(test)},
    )


@given(st.lists(st.integers(1, 6), min_size=3, max_size=12), st.integers(2, 5), st.integers(0, 5))
def test_every_clip_is_held_out_once_and_groups_stay_whole(sizes: list[int], k: int, seed: int) -> None:
    whole = dataset(sizes)
    section = FoldSection(k=min(k, len(sizes)), seed=seed)
    held: Counter[str] = Counter()
    for fold in range(len(parts_of(whole, section))):
        found = hold_out(whole, section.model_copy(update={"fold": fold})).splits
        assert set(found) == {"train", "test"}
        assert found["test"]
        assert found["train"]
        assert {c.group for c in found["train"]}.isdisjoint({c.group for c in found["test"]})
        assert len(found["train"]) + len(found["test"]) == sum(sizes)
        held.update(clip.clip_id for clip in found["test"])
    assert held == Counter({f"{g}-{n}": 1 for g, size in enumerate(sizes) for n in range(size)})


def test_parts_are_alike_in_size_and_classes() -> None:
    whole = dataset([4] * 20)
    section = FoldSection(k=5)
    for fold in range(5):
        labels = [c.labels["action"] for c in hold_out(whole, section.model_copy(update={"fold": fold})).splits["test"]]
        assert Counter(labels) == {0: 8, 1: 8}


def test_groups_alone_and_by_column() -> None:
    whole = dataset([2] * 12)
    assert [part for part, *_ in parts_of(whole, FoldSection())][:3] == ["g0", "g1", "g2"]
    assert parts_of(whole, FoldSection(by="day")) == [("0",), ("1",), ("2",)]
    assert parts_of(whole, FoldSection(by=("day", "group")))[0] == ("0/g0",)
    note = hold_out(whole, FoldSection(by="day", fold=1)).notes[-1]
    assert "part 2 of 3" in note
    assert "day 1" in note
    assert "2 clips of the test split take no part" in note


def test_groups_that_parts_divide_are_named() -> None:
    whole = dataset([2] * 6)
    assert divided(whole, FoldSection(by="day")) == []
    clips = tuple(replace(clip, group="same") for clip in whole.splits["train"])
    assert divided(replace(whole, splits={"train": clips}), FoldSection(by="day")) == ["same"]


def test_a_clip_keeps_its_number_in_every_fold() -> None:
    """And with it its random versions, so that what is stored of them serves all folds."""
    whole = dataset([3] * 4)
    numbers: dict[str, set[int | None]] = {}
    for fold in range(4):
        for clips in hold_out(whole, FoldSection(fold=fold)).splits.values():
            for clip in clips:
                numbers.setdefault(clip.clip_id, set()).add(clip.number)
    assert all(len(found) == 1 for found in numbers.values())
    assert len({next(iter(found)) for found in numbers.values()}) == 12


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (FoldSection(by="dya"), r"^data\.folds\.by: the data set has no column 'dya'; did you mean 'day'\?"),
        (FoldSection(by="empty"), r"^data\.folds\.by: clip '0-0' says nothing in column 'empty'"),
        (FoldSection(k=9), r"^data\.folds\.k: 9 parts of 4 groups cannot be made"),
        (FoldSection(fold=4), r"^data\.folds\.fold: 4 is not among the 4 parts"),
    ],
)
def test_folds_that_cannot_be(section: FoldSection, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        hold_out(dataset([2] * 4), section)


def test_a_table_is_held_out_by_one_key_alone(tmp_path: Path) -> None:
    rows = "".join(f"{n}.mp4,{'run' if n % 2 else 'jump'},{n // 2}\n" for n in range(6))
    (tmp_path / "clips.csv").write_text(f"path,label,day\n{rows}")
    for n in range(6):
        (tmp_path / f"{n}.mp4").touch()
    values = {"data": {"name": "table", "root": str(tmp_path)}, "model": {"name": "frame_average"}}
    section = resolve(values, ["data.folds={by: day, fold: 2}"]).data
    splits = load_dataset(section, seed=0).splits
    assert [clip.clip_id for clip in splits["test"]] == ["4.mp4", "5.mp4"]
    assert {clip.group for clip in splits["test"]} == {"2"}
    both = resolve(values, ["data.folds={by: day}", "data.holdout={day: 1}"]).data
    with pytest.raises(ConfigError, match=r"^data\.folds: data\.holdout holds other clips out"):
        load_dataset(both, seed=0)


def test_versions_are_drawn_by_a_clips_number(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    monkeypatch.setattr("kinema.data.reading.plan_clip", lambda *_, rng, **__: seen.append(rng))
    clip = Clip(clip_id="a", video=Path("a.avi"), number=7)

    def draw(clip: Clip, index: int) -> float:
        _, rng = plan_of_view(clip, None, None, index=index, view=1, seed=3)  # type: ignore[arg-type]
        return float(rng.random())

    plain = Clip(clip_id="a", video=Path("a.avi"))
    assert draw(clip, 0) == draw(clip, 5) == draw(plain, 7) != draw(plain, 0)
