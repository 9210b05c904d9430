"""What is wrong with an evaluation although a number came out of it.

Each of these mistakes is in a published result of somebody: frames that were not normalised when they were tested,
labels that were shifted by one, clips that were in both splits, a module that was never trained, an accuracy of actions
above that of their nouns. All are looked for in every evaluation, at no cost that could be noticed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from kinema.evaluation.class_statistics import group_numbers
from kinema.evaluation.predictions import Predictions
from kinema.models.weights import TrainingFacts
from kinema.types import JOINT, UserError
from kinema.wording import percent

ONE_ANSWER = 0.99
"""Share of clips with one and the same answer from which on it is no recogniser of several classes."""

MANY_SKIPPED = 0.01
"""Share of clips that could not be read from which on the others may not stand for all."""

FEWEST_CLIPS = 20
"""Of fewer, nothing is said about how answers and labels go together."""

BETTER_ELSEWHERE = 0.2
"""How much more accurate answers have to be under other names before the names are suspected."""

OFF_CENTRE, STRETCHED = 0.5, 2.0
"""Deviations that the mean of a model's inputs, and the factor that their deviation, may be off what it was trained
with: data of another kind stays far below it, and pixels that are not normalised are far above."""


def findings(predictions: Predictions, record: Mapping[str, Any], training: TrainingFacts) -> list[dict[str, str]]:
    """What is wrong, or may be.

    Args:
        predictions: Of the evaluated clips.
        record: The numbers of the evaluation.
        training: What the model was trained on.

    Returns:
        Rows of `fault`, a short name, and `message`.
    """
    found = [
        *_inputs(predictions, training),
        *_one_answer(predictions),
        *_other_names(predictions, training),
        *_listed_twice(predictions),
        *_skipped(predictions, record),
        *_never_trained_on(predictions, training),
        *_above_training(record),
        *(("selected", text) for text in _selected(record, training)),
        *(("training", f"while it was trained: {text}") for text in training.warnings),
    ]
    return [{"fault": fault, "message": message} for fault, message in found]


def check_record(record: Mapping[str, Any], *, where: str = "") -> None:
    """Refuse numbers that cannot be.

    Args:
        record: The numbers of an evaluation.
        where: File that they are from.

    Raises:
        UserError: The accuracy of all tasks at once is above that of one of them, or a number is no share.
    """
    prefix = f"{where}: " if where else ""
    for task, values in {**record["tasks"], JOINT: record.get(JOINT, {})}.items():
        for name, value in values.items():
            if name.startswith("top") and value is not None and not (math.isnan(value) or 0 <= value <= 1):
                raise UserError(f"{prefix}{task}: {name} is {value}, which is no share of clips")
    whole = record.get(JOINT, {}).get("top1")
    for task, values in record["tasks"].items():
        if whole is not None and whole > values["top1"] + 1e-9:
            raise UserError(
                f"{prefix}right in all tasks at once are {percent(whole)} of the clips, and in {task} alone only "
                f"{percent(values['top1'])}: that cannot be, so that one of the two was counted over other clips or "
                "classes"
            )


def inputs_unknown(predictions: Predictions, training: TrainingFacts) -> str | None:
    """Why what the model was given could not be compared with what it was given in training; None where all was."""
    without = sorted(predictions.inputs.keys() - training.inputs.keys())
    if not without:
        return None
    known = ", ".join(training.inputs) or "nothing"
    return f"of {', '.join(without)}, training kept no mean and deviation (it kept those of {known})"


def _inputs(predictions: Predictions, training: TrainingFacts) -> Iterator[tuple[str, str]]:
    for name, (mean, deviation) in predictions.inputs.items():
        known = training.inputs.get(name)
        if known is None:
            continue
        known_mean, known_deviation = known
        off = abs(mean - known_mean) / max(known_deviation, 1e-12)
        factor = deviation / max(known_deviation, 1e-12)
        if off > OFF_CENTRE or not 1 / STRETCHED <= factor <= STRETCHED:
            yield (
                "preprocessing",
                f"what the model is given ({name}) has a mean of {mean:.3g} and a deviation of {deviation:.3g}; in "
                f"training it had {known_mean:.3g} and {known_deviation:.3g}. These clips are not prepared, or not "
                "normalised, as those that it was trained on, or they show something else altogether",
            )


def _one_answer(predictions: Predictions) -> Iterator[tuple[str, str]]:
    for task, logits in predictions.logits.items():
        if len(logits) < FEWEST_CLIPS or len(np.unique(predictions.labels[task])) < 2:
            continue
        answer, number = Counter(logits.argmax(axis=1).tolist()).most_common(1)[0]
        if number >= ONE_ANSWER * len(logits):
            name = predictions.classes[task][answer]
            yield (
                "one answer",
                f"{task}: {name!r} is the answer to {number:,} of {len(logits):,} clips; nothing of the classes was "
                "learned, or all clips look the same to it",
            )


def _other_names(predictions: Predictions, training: TrainingFacts) -> Iterator[tuple[str, str]]:
    """Answers that would be right under other names. The names are found on every second video and tried on the
    others, so that chance finds none."""
    for task, logits in predictions.logits.items():
        labels, answers = predictions.labels[task], logits.argmax(axis=1)
        if len(labels) < FEWEST_CLIPS:
            continue
        # Videos in a shuffled order: as they are listed, every second one may be of one kind.
        videos = group_numbers([str(clip.video) for clip in predictions.clips])
        place = np.random.default_rng(0).permutation(int(videos.max()) + 1)[videos]
        found, tried = place % 2 == 0, place % 2 == 1
        if not found.any() or not tried.any():
            continue
        num = logits.shape[1]
        counts = np.bincount(answers[found] * num + labels[found], minlength=num * num).reshape(num, num)
        meant = np.where(counts.sum(axis=1) > 0, counts.argmax(axis=1), np.arange(num))
        actual = float((answers[tried] == labels[tried]).mean())
        renamed = float((meant[answers[tried]] == labels[tried]).mean())
        commonest = float((labels[tried] == training.commonest[task]).mean())
        margin = max(BETTER_ELSEWHERE, 3 * math.sqrt(0.25 / int(tried.sum())))
        if renamed > max(actual, commonest) + margin:
            names = predictions.classes[task]
            example = next(k for k in np.argsort(-counts.sum(axis=1)).tolist() if meant[k] != k)
            shift = _shift(meant, counts.sum(axis=1) > 0)
            how = f"Labels are off by {shift:+d}" if shift else "Labels and class names do not belong together"
            yield (
                "label shift",
                f"{task}: {percent(actual)} are right, and {percent(renamed)} would be under other names: where the "
                f"answer is {names[example]!r} the label is mostly {names[meant[example]]!r}. {how}; compare the "
                "classes' order in the annotations with that of config.json",
            )


def _shift(meant: np.ndarray, used: np.ndarray) -> int | None:
    """By how much labels are above answers, if nearly all of them by the same."""
    num = len(meant)
    differences = Counter(((meant - np.arange(num)) % num)[used].tolist())
    shift, number = differences.most_common(1)[0]
    if not shift or number < 0.8 * used.sum():
        return None
    return int(shift) if shift <= num // 2 else int(shift) - num


def _listed_twice(predictions: Predictions) -> Iterator[tuple[str, str]]:
    times = Counter((clip.video, clip.start_s, clip.stop_s) for clip in predictions.clips)
    again = sum(number - 1 for number in times.values())
    if again:
        video = next(place[0] for place, number in times.items() if number > 1)
        yield (
            "listed twice",
            f"{again:,} of {len(predictions.clips):,} clips are listed more than once, such as one of {video.name}; "
            "each counts as often as it is listed",
        )


def _skipped(predictions: Predictions, record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    number = record["num_skipped"]
    total = number + record["num_clips"]
    if total and number > MANY_SKIPPED * total:
        reason = next(iter(predictions.skipped.values()), "see the log")
        yield (
            "skipped",
            f"{number:,} of {total:,} clips could not be read and are in no number; the first: {reason}",
        )


def _never_trained_on(predictions: Predictions, training: TrainingFacts) -> Iterator[tuple[str, str]]:
    for task, names in predictions.classes.items():
        counts = np.array(training.class_counts.get(task, ()))
        labels = predictions.labels[task]
        if len(counts) != len(names) or not len(labels):
            continue
        without = counts[labels] == 0
        if without.any():
            example = names[int(labels[without][0])]
            yield (
                "class without training clips",
                f"{task}: {int(without.sum()):,} of {len(labels):,} clips are of {len(np.unique(labels[without])):,} "
                f"classes that had no training clip, such as {example!r}; they cannot be right but by chance",
            )


def _above_training(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for task, values in {**record["tasks"], JOINT: record.get(JOINT, {})}.items():
        interval, trained = values.get("interval"), values.get("train_top1")
        if interval is not None and trained is not None and interval[0] > trained:
            yield (
                "above training",
                f"{task}: {percent(values['top1'])} of these clips are right and only {percent(trained)} of those that "
                "were trained on; these clips are easier, or the one-sided answer of a model that has learned little "
                "suits them",
            )


def _selected(record: Mapping[str, Any], training: TrainingFacts) -> Iterator[str]:
    if record["split"] == "validation" and "best" in training.selected_by:
        yield (
            f"epoch {training.epoch} was kept for being the best on these very clips; on others it will be worse by "
            "as much as that choice was luck"
        )
