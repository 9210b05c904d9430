"""Answers of several views become one, and are not lost when the work is stopped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinema.evaluation import answers as module
from kinema.evaluation.answers import AS_FILMED, AVERAGES, Answers, Average, Kept, Sums
from kinema.types import Clip

CLASSES = {"verb": ("a", "b", "c"), "noun": ("x", "y")}
CLIPS = [Clip(clip_id=str(i), video=Path(f"{i}.mp4"), labels={"verb": i % 3, "noun": i % 2}) for i in range(5)]


def answers_of(
    logits: dict[str, np.ndarray], view: int, rows: list[int], failures: dict[int, str] | None = None
) -> Answers:
    return Answers(
        view=view,
        num_batches=1,
        indices=np.array(rows, dtype=np.int64),
        logits={AS_FILMED: {task: values[view][rows] for task, values in logits.items()}} if rows else {},
        failures=failures or {},
    )


def random_logits(rng: np.random.Generator, num_views: int) -> dict[str, np.ndarray]:
    return {task: 3 * rng.normal(size=(num_views, 5, len(n))).astype(np.float32) for task, n in CLASSES.items()}


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values.astype(np.float64) - values.max())
    return np.asarray(powers / powers.sum())


@given(seed=st.integers(0, 10_000), num_views=st.integers(1, 5), average=st.sampled_from(AVERAGES))
def test_views_are_averaged_as_a_plain_loop_does_it(seed: int, num_views: int, average: Average) -> None:
    rng = np.random.default_rng(seed)
    logits = random_logits(rng, num_views)
    sums = Sums(5, CLASSES, num_views=num_views, average=average, orders=[AS_FILMED])
    for view in range(num_views):
        sums.add(answers_of(logits, view, [0, 1, 2]))
        sums.add(answers_of(logits, view, [3, 4]))
    found = sums.predictions(CLIPS, {"gone": "why"})
    assert [clip.clip_id for clip in found.clips] == ["0", "1", "2", "3", "4"]
    assert found.skipped == {"gone": "why"}
    right: dict[str, list[bool]] = {task: [] for task in CLASSES}
    for task, names in CLASSES.items():
        for row in range(5):
            of_views = [softmax(logits[task][view, row]) for view in range(num_views)]
            right[task] += [int(p.argmax()) == CLIPS[row].labels[task] for p in of_views]
            if num_views == 1 or average == "logits":
                np.testing.assert_allclose(found.logits[task][row], logits[task][:, row].mean(axis=0), atol=1e-5)
                continue
            mean = np.mean(of_views, axis=0)
            if average == "probabilities":
                np.testing.assert_allclose(softmax(found.logits[task][row]), mean, atol=1e-6)
                continue
            votes = np.bincount([int(p.argmax()) for p in of_views], minlength=len(names))
            expected = max(range(len(names)), key=lambda k: (votes[k], mean[k]))
            assert int(found.logits[task][row].argmax()) == expected
    if num_views == 1:
        assert found.single_view is None
    else:
        assert found.single_view is not None
        for task in CLASSES:
            assert found.single_view[task] == pytest.approx(np.mean(right[task]))


def test_one_view_is_what_the_model_says() -> None:
    logits = random_logits(np.random.default_rng(0), 1)
    sums = Sums(5, CLASSES, num_views=1, average="probabilities", orders=[AS_FILMED])
    sums.add(answers_of(logits, 0, [0, 1, 2, 3, 4]))
    for task, values in sums.predictions(CLIPS, {}).logits.items():
        np.testing.assert_array_equal(values, logits[task][0])


def test_a_clip_that_fails_in_one_view_is_in_none() -> None:
    logits = {task: np.zeros((2, 5, len(names)), dtype=np.float32) for task, names in CLASSES.items()}
    sums = Sums(5, CLASSES, num_views=2, average="vote", orders=[AS_FILMED])
    sums.add(answers_of(logits, 0, [0, 1, 2, 3, 4]))
    sums.add(answers_of(logits, 1, [0, 1, 3, 4], {2: "broken"}))
    found = sums.predictions(CLIPS, {})
    assert [clip.clip_id for clip in found.clips] == ["0", "1", "3", "4"]
    assert found.skipped == {"2": "broken"}


def some(view: int, first: int) -> Answers:
    logits = random_logits(np.random.default_rng(view * 100 + first), 3)
    return answers_of(logits, view, [first, first + 1], {4: "gone"} if first == 2 else None)


def test_answers_are_found_again(tmp_path: Path) -> None:
    given = [some(0, 0), some(0, 2), some(1, 0)]
    first = Kept(tmp_path / "kept", every_s=1e9)
    assert list(first.restore()) == []
    for answers in given:
        first.add(answers)
    first.write()
    again = Kept(tmp_path / "kept")
    found = list(again.restore())
    assert [(one.view, one.num_batches) for one in found] == [(0, 2), (1, 1)]
    assert found[0].failures == {4: "gone"}
    np.testing.assert_array_equal(found[0].indices, [0, 1, 2, 3])
    for task in CLASSES:
        expected = np.concatenate([one.logits[AS_FILMED][task] for one in given[:2]])
        np.testing.assert_array_equal(found[0].logits[AS_FILMED][task], expected)
    again.add(some(1, 2))
    again.write()
    assert [one.view for one in Kept(tmp_path / "kept").restore()] == [0, 1, 1]


def test_short_work_writes_nothing(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "kept")
    kept.add(some(0, 0))
    assert not (tmp_path / "kept").exists()


def test_answers_are_written_when_it_is_time(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "kept", every_s=0)
    kept.add(some(0, 0))
    assert len(list((tmp_path / "kept").iterdir())) == 1


def test_a_damaged_file_is_computed_again(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "kept", every_s=0)
    for view in range(3):
        kept.add(some(view, 0))
    second = sorted((tmp_path / "kept").iterdir())[1]
    second.write_bytes(second.read_bytes()[:40])
    again = Kept(tmp_path / "kept", every_s=0)
    assert [one.view for one in again.restore()] == [0]
    again.add(some(1, 0))  # in its place; what came after it would be counted twice
    assert [one.view for one in Kept(tmp_path / "kept").restore()] == [0, 1]


def test_a_full_disk_costs_nobody_their_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_atomically", full)
    kept = Kept(tmp_path / "kept", every_s=0)
    kept.add(some(0, 0))
    kept.add(some(0, 2))
    assert list(Kept(tmp_path / "kept").restore()) == []
