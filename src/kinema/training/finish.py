"""The end of a run: its kept weights measured, evaluated on the validation split, and written."""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from kinema.data.background import background_labels
from kinema.data.hashing import content_hash
from kinema.data.read_ahead import Reader
from kinema.data.video import Video
from kinema.evaluation.baselines import class_counts, combinations, commonest
from kinema.evaluation.calibration import fit_calibration
from kinema.evaluation.clip_list import clip_list
from kinema.evaluation.input_moments import NUM_CLIPS, frame_moments
from kinema.evaluation.leakage import leakage, leakage_findings, video_contents
from kinema.evaluation.metrics import accuracy, main_task
from kinema.evaluation.predict import predict_clips
from kinema.evaluation.reading import evaluation_reader
from kinema.evaluation.results import results, save_evaluation
from kinema.evaluation.training_clips import sample
from kinema.models.weights import Calibration, TrainingFacts, WeightsConfig, save
from kinema.progress import Reporter
from kinema.training.fitting import order_of
from kinema.training.imbalance import sampling_task
from kinema.training.model_card import model_card
from kinema.training.module import RecogniserTraining
from kinema.training.prepare import Prepared, compute_device
from kinema.training.run_folder import Run
from kinema.training.sanity import lagging_statistics
from kinema.types import Clip, DataError

log = logging.getLogger(__name__)


def finish(prepared: Prepared, run: Run, module: RecogniserTraining, epoch: int, reporter: Reporter) -> dict[str, Any]:
    """Measure the kept weights, evaluate them on the validation split, and write them.

    Args:
        prepared: What was trained.
        run: Where to write.
        module: With the kept weights.
        epoch: Whose weights these are, from 1.
        reporter: Where to show progress.

    Returns:
        Epoch that was kept, how it was chosen, and its validation result where there is one.

    Raises:
        DataError: Nothing can be read any more, or something cannot be written.
    """
    recipe, classes = prepared.recipe, prepared.dataset.classes
    model = module.model.to(compute_device(recipe.trainer))  # Lightning has put it back on the CPU
    train_clips = _trained_clips(prepared, module)
    background = background_labels(prepared.dataset)
    shown = [clip for clip in train_clips if not background or clip.labels != background]
    settings: dict[str, Any] = {
        "classes": classes,
        "preprocessing": prepared.seen,
        "batch_size": recipe.clips.batch_size,
        "workers": recipe.clips.workers,
        "runtime": recipe.trainer.runtime,
        "reporter": reporter,
    }
    on_training = predict_clips(
        model,
        sample(shown, seed=recipe.trainer.seed),
        prepared.videos,
        read=partial(_reader, prepared, model, "training"),
        description="measuring on training clips",
        **settings,
    )
    if not on_training.clips:
        raise DataError(f"no training clip can be read any more; the first: {next(iter(on_training.skipped.values()))}")
    measured = accuracy(on_training)
    alike = not background and sampling_task(recipe.task.imbalance, classes) is None  # the same clips, as often
    if epoch == module.counted_epoch + 1 and alike:
        lag = lagging_statistics(model, module.train_metrics(), measured, num_clips=len(on_training.clips))
        if lag is not None:
            log.warning("%s", lag)
            module.warned["batch norm"] = lag
    inputs = dict(on_training.inputs)
    if not inputs.keys() & prepared.seen.keys():  # of features: a later evaluation may be of frames
        inputs |= frame_moments(
            on_training.clips[:NUM_CLIPS],
            prepared.videos,
            prepared.seen,
            batch_size=recipe.clips.batch_size,
            workers=recipe.clips.workers,
        )
    facts = TrainingFacts(
        data=recipe.data.model_dump(mode="json"),
        seed=recipe.trainer.seed,
        num_clips=len(train_clips),
        class_counts=class_counts(train_clips, classes),
        commonest=commonest(shown, classes),
        accuracy=measured,
        num_accuracy_clips=len(on_training.clips),
        epoch=epoch,
        selected_by="the best validation result" if prepared.select == "best" else "being the last epoch",
        groups=sorted({clip.group for clip in train_clips if clip.group is not None}),
        contents=sorted({content_hash(path) for path in {clip.video for clip in train_clips}}),
        preprocessing={stream: settings.fingerprint for stream, settings in prepared.seen.items()},
        inputs={name: list(of) for name, of in inputs.items()},
        warnings=list(module.warned.values()),
        combinations=combinations(shown, classes),
        background=background,
    )
    config = WeightsConfig(
        model=recipe.model.name,
        arguments=recipe.model.arguments(),
        heads=classes,
        preprocessing=prepared.seen,
    )
    main = main_task(classes)
    best: dict[str, Any] = {
        "epoch": epoch,
        "selected_by": facts.selected_by,
        "train_top1": facts.accuracy[main],
    }
    record = found = None
    if "validation" in prepared.clips:
        record, found, facts = _evaluate(prepared, run, model, facts, settings)
        headline = record["joint"] if main == "joint" else record["tasks"][main]
        best |= {"split": "validation", "top1": headline["top1"], "gap": headline["gap"]}
    # Written last: their presence says that the run is finished.
    card = model_card(config, facts, [] if record is None else [record])
    save(run.weights, model.state_dict(), config, facts, card=card, calibration=found)
    return best


def _trained_clips(prepared: Prepared, module: RecogniserTraining) -> list[Clip]:
    """Training clips without those that could not be read whenever it was their turn."""
    clips = prepared.clips["train"]
    turns: Counter[int] = Counter()
    if module.skipped:
        order = order_of(prepared)
        for epoch in range(module.counted_epoch + 1):
            order.set_position(epoch=epoch, first_batch=0)
            for batch in order:
                turns.update({index for index, _ in batch if index in module.skipped})
    return [clip for index, clip in enumerate(clips) if index not in turns or module.skipped[index] < turns[index]]


def _reader(prepared: Prepared, model: nn.Module, name: str, clips: list[Clip], videos: dict[Path, Video]) -> Reader:
    """As `clips.store` says, like the clips that were trained on."""
    recipe = prepared.recipe
    return evaluation_reader(model, recipe.clips, clips, videos, prepared.seen, root=recipe.data.root, name=name)


def _evaluate(
    prepared: Prepared, run: Run, model: nn.Module, facts: TrainingFacts, settings: Mapping[str, Any]
) -> tuple[dict[str, Any], Calibration | None, TrainingFacts]:
    """Evaluate on the validation split and keep the result in the run.

    Training clips are stored as features of augmented frames, if at all: what plain features look like is known from
    these clips first, and is added to the facts.
    """
    predictions = predict_clips(
        model,
        prepared.clips["validation"],
        prepared.videos,
        read=partial(_reader, prepared, model, "validation"),
        description="evaluating on validation clips",
        **settings,
    )
    if not predictions.clips:
        reason = next(iter(predictions.skipped.values()))
        raise DataError(f"no validation clip can be read any more; the first: {reason}")
    predictions = replace(predictions, skipped={**prepared.skipped["validation"], **predictions.skipped})
    facts = replace(facts, inputs={name: list(of) for name, of in predictions.inputs.items()} | dict(facts.inputs))
    found = fit_calibration(predictions, split="validation")
    dataset = prepared.dataset
    record = results(
        predictions,
        split="validation",
        training=facts,
        pairs=dataset.pairs,
        tail=dataset.tail,
        unseen_groups=dataset.unseen_groups,
        calibrated=found,
        fitted_here=found is not None,
    )
    listed = dataset.splits["validation"]
    contents = video_contents(listed)
    source = str(prepared.recipe.data.root or prepared.recipe.data.name)
    record["list"] = clip_list(listed, dataset.classes, contents, is_own=True, source=source)
    record["leakage"] = leakage(predictions.clips, "validation", facts, data=facts.data, contents=contents)
    record["findings"] += leakage_findings(record["leakage"], num_clips=len(predictions.clips))
    for finding in record["findings"]:
        if finding["fault"] not in ("training", "selected", "skipped"):  # said before, or where the result is
            log.warning("validation clips: %s", finding["message"])
    # Without weights there can be none but that of an attempt that was interrupted at this place.
    shutil.rmtree(run.evaluations / "validation", ignore_errors=True)
    try:
        save_evaluation(run.new_evaluation(record), record, predictions)
    except OSError as error:
        hint = f"make room and go on with --resume {run.folder}"
        raise DataError(f"{error.filename}: cannot be written: {error.strerror or error}; {hint}") from None
    return record, found, facts
