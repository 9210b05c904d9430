"""Clips that are of none of a model's classes, to see whether it says so."""

from __future__ import annotations

import csv
import logging
from dataclasses import replace
from pathlib import Path

from torch import nn

from kinema.config import resolve_evaluation
from kinema.data.listing import list_files
from kinema.data.load_dataset import load_dataset
from kinema.data.views import ONE_VIEW, Views
from kinema.evaluation.answers import Average
from kinema.evaluation.leakage import leakage_findings, unknown_leakage, video_contents
from kinema.evaluation.predict_split import predict_split
from kinema.evaluation.predictions import Predictions
from kinema.models.weights import TrainingFacts, WeightsConfig
from kinema.progress import SILENT, Reporter
from kinema.sections import ClipsSection, DataSection
from kinema.types import Clip, ConfigError, DataError, Dataset

log = logging.getLogger(__name__)


def predict_unknown(
    model: nn.Module,
    config: WeightsConfig,
    weights: Path,
    place: Path,
    *,
    training: TrainingFacts,
    clips: ClipsSection,
    views: Views = ONE_VIEW,
    average: Average = "probabilities",
    reporter: Reporter = SILENT,
) -> tuple[Predictions, list[dict[str, str]]]:
    """Logits for clips of no class, whose labels mean nothing; and what of them is known from training, as findings.

    Args:
        model: In evaluation mode.
        config: Its classes and preprocessing.
        weights: Its folder.
        place: A CSV file with a column `path`, as data.name=table reads it, or a folder of videos.
        training: What was trained on.
        clips: How clips are read.
        views: Looks at each clip, as at the others.
        average: How several become one answer.
        reporter: Where to show progress.

    Raises:
        ConfigError: `place` is nothing of the kind.
        DataError: There is no clip, none can be read, or all were trained on.
    """
    data, listed = _listed(place, training, reporter)
    known = _of_known_classes(listed, config, training)
    if known is not None:
        raise DataError(f"{place}: it holds clips of {known!r}, which this model knows")
    blank = dict.fromkeys(config.heads, 0)
    found = [replace(clip, labels=blank) for some in listed.splits.values() for clip in some]
    shared = unknown_leakage(found, training, video_contents(found))
    if shared["same_video"] == len(found):
        raise DataError(
            f"{place}: all of its {len(found):,} clips are of videos that were trained on, such as "
            f"{found[0].video.name}; they are not unknown to the model, name others"
        )
    dataset = replace(listed, classes=config.heads, splits={"test": tuple(found)})
    predictions = predict_split(
        model,
        config,
        dataset,
        "test",
        data=data,
        clips=clips,
        description="predicting unknown clips",
        required=False,
        reporter=reporter,
        weights=weights,
        views=views,
        average=average,
    )
    if not predictions.clips:
        raise DataError(f"{place}: none of its {len(found):,} clips can be read")
    if predictions.skipped:
        log.warning("%d of %d unknown clips cannot be read and are left out", len(predictions.skipped), len(found))
    return predictions, leakage_findings(shared, num_clips=len(found), of="unknown clips")


def _listed(place: Path, training: TrainingFacts, reporter: Reporter) -> tuple[DataSection, Dataset]:
    if not place.exists():
        raise ConfigError(
            f"--unknown: {place} does not exist; give a CSV file with a column path, or a folder of videos"
        )
    group = _group_columns(place, training) if place.is_file() else []
    named = {"name": "table", "root": str(place)} | ({"group": group} if group else {})
    data, _ = resolve_evaluation(named, [], clips={})
    if place.is_file():
        return data, load_dataset(data, seed=0, for_training=False, reporter=reporter)
    videos = list_files(place).videos
    if not videos:
        raise DataError(f"{place}: no video in this folder")
    found = tuple(Clip(clip_id=str(video.relative_to(place)), video=video) for video in videos)
    return data, Dataset(classes={}, splits={"test": found}, root=place)


def _group_columns(file: Path, training: TrainingFacts) -> list[str]:
    """The columns that name groups where the model was trained, if the list has them all."""
    if training.data.get("name") != "table":
        return []
    group = training.data.get("group") or list(training.data.get("holdout") or ())
    wanted = [group] if isinstance(group, str) else list(group)
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            head = next(csv.reader(lines), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return []  # said where it is read
    return wanted if set(wanted) <= {name.strip() for name in head} else []


def _of_known_classes(dataset: Dataset, config: WeightsConfig, training: TrainingFacts) -> str | None:
    """A class of the model that some of the clips are said to be of, other than the one that stands for nothing."""
    for task in dataset.classes.keys() & config.heads.keys():
        names = dataset.classes[task]
        used = {names[clip.labels[task]] for some in dataset.splits.values() for clip in some if task in clip.labels}
        nothing = training.background.get(task)
        known = {name for label, name in enumerate(config.heads[task]) if label != nothing}
        both = sorted(used & known)
        if both and len(config.heads) == 1:
            return both[0]
    return None
