"""Evaluating a weights folder on a split of a data set."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from kinema.config import resolve_evaluation
from kinema.data.decoders import check_decoder
from kinema.data.load_dataset import load_dataset
from kinema.data.shards import Store
from kinema.data.sides import warn_of_mirrored_views
from kinema.data.views import ONE_VIEW, Views
from kinema.evaluation.answers import Average
from kinema.evaluation.clip_list import clip_list, is_own_split
from kinema.evaluation.frame_orders import FrameOrder
from kinema.evaluation.leakage import is_known, is_same_source, leakage, leakage_findings, video_contents
from kinema.evaluation.metrics import TOP_K
from kinema.evaluation.predict_split import predict_split
from kinema.evaluation.predictions import Predictions
from kinema.evaluation.rejection import rejection_record
from kinema.evaluation.results import results
from kinema.evaluation.unknown import predict_unknown
from kinema.models.load import load_model
from kinema.models.weights import TrainingFacts, read_calibration, read_rejection, read_training
from kinema.progress import SILENT, Reporter
from kinema.sections import DataSection
from kinema.types import ConfigError, DataError, Dataset, Heads, Split

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """An evaluation: the numbers, and what they were computed from."""

    record: Mapping[str, Any]
    predictions: Predictions
    unknown: Predictions | None = None

    def forget(self) -> None:
        """Remove the answers that were written on the way, once the result is saved."""
        self.predictions.forget()
        if self.unknown is not None:
            self.unknown.forget()


def evaluate(
    weights: Path,
    overrides: Sequence[str] = (),
    *,
    split: Split | None = None,
    defaults: Mapping[str, Any] | None = None,
    views: Views = ONE_VIEW,
    average: Average = "probabilities",
    ks: Sequence[int] = TOP_K,
    orders: Sequence[FrameOrder] = (),
    unknown: Path | None = None,
    clips: Path | None = None,
    reporter: Reporter = SILENT,
) -> Evaluation:
    """Evaluate a weights folder with the preprocessing that it was trained with.

    Args:
        weights: A weights folder.
        overrides: `data.key=value` to evaluate on other data than those it was trained on, and the `clips:` settings
            of reading: batch_size, workers, decoder and store.
        split: Which split. By default the test split, or the validation split where there is no test split; of other
            data than those trained on, all clips where there is neither.
        defaults: `clips:` settings that hold where no override says otherwise.
        views: Looks at each clip, of which one answer is made.
        average: How.
        ks: Of top-k accuracies.
        orders: Orders of the frames in which the clips are looked at too, to see what that costs.
        unknown: Clips of none of the classes, to see whether they are told apart: a CSV file or a folder of videos.
        clips: A CSV file of other clips to evaluate on, in place of the data that were trained on.
        reporter: Where to show progress.

    Raises:
        ConfigError: An override is impossible.
        DataError: Weights or data are missing or wrong.
    """
    model, config = load_model(weights)
    training, calibrated = read_training(weights), read_calibration(weights)
    for stream, settings in config.preprocessing.items():
        if training.preprocessing.get(stream, settings.fingerprint) != settings.fingerprint:
            raise DataError(
                f"{weights}: the preprocessing of {stream!r} in config.json is not the one that training.json says it "
                "was trained with; the folder is mixed up, restore it"
            )
    if views.flip:
        warn_of_mirrored_views(config.heads)
    moving = [stream for stream, settings in config.preprocessing.items() if settings.motion is not None]
    if orders and all(settings.num_frames < 2 for settings in config.preprocessing.values()):
        raise ConfigError("--time-test: this model sees one frame of a clip, which has no order")
    if any(len(training.class_counts.get(task, ())) != len(names) for task, names in config.heads.items()):
        raise DataError(
            f"{weights / 'training.json'}: its classes are not those of config.json; the folder is mixed up"
        )
    if clips is not None and not clips.exists():
        raise ConfigError(f"--clips: {clips} does not exist")
    listed = training.data if clips is None else {"name": "table", "root": str(clips)}
    data, clips_section = resolve_evaluation(listed, overrides, clips=defaults or {})
    given = {override.partition("=")[0].strip() for override in overrides}
    check_decoder(clips_section.decoder, [])
    if isinstance(clips_section.store, Path):
        Store.open(clips_section.store)
    data, dataset = _load(data, training, given=given | ({"data.root"} if clips else set()), reporter=reporter)
    dataset = with_classes(dataset, config.heads)
    for note in dataset.notes:
        log.info("%s", note)
    same_data = is_same_source(training.data, data.model_dump(mode="json"))
    chosen = split or _default_split(dataset, is_other=not same_data)
    if not dataset.splits.get(chosen):
        raise ConfigError(f"--split: this data set has no {chosen} split; it has {', '.join(dataset.splits)}")
    unlabelled = sum(not clip.labels.keys() >= config.heads.keys() for clip in dataset.splits[chosen])
    if unlabelled:
        raise DataError(
            f"{data.root or data.name}: {unlabelled} clips of the {chosen} split have no label; "
            "evaluate on another split, or use kinema predict"
        )
    log.info("evaluating on the %s split, %d clips", chosen, len(dataset.splits[chosen]))
    predictions = predict_split(
        model,
        config,
        dataset,
        chosen,
        data=data,
        clips=clips_section,
        description=f"evaluating on {chosen} clips",
        required=True,
        reporter=reporter,
        weights=weights,
        views=views,
        average=average,
        orders=orders,
    )
    if not predictions.clips:
        raise DataError(f"none of the {len(predictions.skipped)} {chosen} clips can be read")
    record = results(
        predictions,
        split=chosen,
        training=training,
        pairs=dataset.pairs,
        tail=dataset.tail,
        unseen_groups=dataset.unseen_groups,
        calibrated=calibrated,
        fitted_here=calibrated is not None
        and training.data.get("name") == data.name
        and not set(calibrated.clip_ids).isdisjoint(clip.clip_id for clip in predictions.clips),
        ks=ks,
    )
    if orders and moving:
        record["moving"] = moving
    if views != ONE_VIEW:
        record["views"] = {**asdict(views), "average": average, "num": len(views)}
    kept = read_rejection(weights)
    strangers = None
    if unknown is not None or kept is not None:
        if unknown is not None:
            strangers, of_strangers = predict_unknown(
                model,
                config,
                weights,
                unknown,
                training=training,
                clips=clips_section,
                views=views,
                average=average,
                reporter=reporter,
            )
            record["unknown"] = str(unknown)
            record["findings"] += of_strangers
        temperatures = None if calibrated is None else calibrated.temperatures
        record["rejection"] = rejection_record(
            predictions,
            strangers,
            kept=kept,
            temperatures=temperatures,
            background=training.background,
            has_logits=views == ONE_VIEW or average == "logits",
        )
    record["data"] = data.model_dump(mode="json")
    contents = video_contents(dataset.splits[chosen])
    record["list"] = clip_list(
        dataset.splits[chosen],
        config.heads,
        contents,
        is_own=clips is None and is_own_split(record["data"], dataset, chosen, training),
        source=str(data.root or data.name),
    )
    record["leakage"] = leakage(predictions.clips, chosen, training, data=record["data"], contents=contents)
    record["findings"] += leakage_findings(record["leakage"], num_clips=len(predictions.clips))
    return Evaluation(record=record, predictions=predictions, unknown=strangers)


def _load(
    data: DataSection, training: TrainingFacts, *, given: set[str], reporter: Reporter
) -> tuple[DataSection, Dataset]:
    """The data to evaluate on. What was said about the training data still holds, unless it does not fit: of data that
    have nothing in common with them, no validation split is cut out, unless asked for now.

    Args:
        data: What was trained on, with what is given now in its place.
        training: Says what was trained on.
        given: Keys that are given now.
        reporter: Where to show progress.
    """
    settings: dict[str, Any] = {"seed": training.seed, "for_training": False, "reporter": reporter}
    try:
        if data.validation > 0 and "data.validation" not in given and str(data.root) != str(training.data.get("root")):
            whole = data.model_copy(update={"validation": 0.0})
            dataset = load_dataset(whole, **settings)
            if not is_known(dataset.splits.get("train", ()), training):
                return whole, dataset
        return data, load_dataset(data, **settings)
    except ConfigError as error:
        key = str(error).partition(":")[0]
        name = key.removeprefix("data.").partition(".")[0]
        if key in given or f"data.{name}" in given or training.data.get(name) in (None, {}, 0.0):
            raise
        raise ConfigError(f"{error} (the key is the trained recipe's; data.{name}=null drops it)") from None


def with_classes(dataset: Dataset, heads: Heads) -> Dataset:
    """A data set whose class indices are those of a model, matched by class name.

    Raises:
        DataError: The data set lacks a task, or has a class that the model does not know.
    """
    missing = [task for task in heads if task not in dataset.classes]
    if missing:
        raise DataError(
            f"the data set has no labels for the model's task {missing[0]!r}; it has {', '.join(dataset.classes)}"
        )
    if all(tuple(dataset.classes[task]) == tuple(heads[task]) for task in heads):
        return dataset
    positions: dict[str, list[int]] = {}
    for task, known in heads.items():
        index = {name: position for position, name in enumerate(known)}
        unknown = [name for name in dataset.classes[task] if name not in index]
        if unknown:
            raise DataError(
                f"the data set has {len(unknown)} classes of {task!r} that the model does not know, such as "
                f"{unknown[0]!r}"
            )
        positions[task] = [index[name] for name in dataset.classes[task]]
    splits = {
        split: tuple(
            replace(clip, labels={task: positions[task][clip.labels[task]] for task in heads if task in clip.labels})
            for clip in clips
        )
        for split, clips in dataset.splits.items()
    }
    tail = {task: frozenset(positions[task][k] for k in dataset.tail[task]) for task in heads if task in dataset.tail}
    return replace(dataset, classes=heads, splits=splits, tail=tail)


def _default_split(dataset: Dataset, *, is_other: bool) -> Split:
    preferred: tuple[Split, ...] = ("test", "validation")
    if is_other:  # clips that are for training there, but were not trained on
        preferred = (*preferred, "train")
    for split in preferred:
        if dataset.splits.get(split):
            return split
    raise ConfigError("--split: this data set has neither a test nor a validation split; say --split train")
