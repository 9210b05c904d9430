"""Running a recogniser over an official test list that has no labels, for a challenge."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kinema.config import resolve_evaluation
from kinema.data.datasets.epic_kitchens_100 import epic_kitchens_100
from kinema.data.decoders import check_decoder
from kinema.data.shards import Store
from kinema.evaluation.predict_split import predict_split
from kinema.evaluation.predictions import log_softmax
from kinema.evaluation.submission import NUM_CLASSES, write_submission
from kinema.models.load import load_model
from kinema.models.weights import read_training
from kinema.progress import SILENT, Reporter
from kinema.types import ConfigError, DataError

_DATASET = "epic_kitchens_100"


def submit(
    weights: Path,
    overrides: Sequence[str],
    out: Path,
    *,
    levels: Mapping[str, int],
    defaults: Mapping[str, Any] | None = None,
    reporter: Reporter = SILENT,
) -> int:
    """Write EPIC-KITCHENS-100's challenge file for the official test list.

    Args:
        weights: A weights folder of verbs and nouns.
        overrides: `data.key=value` and `clips.key=value`, as for an evaluation.
        out: The zip.
        levels: Of supervision.
        defaults: `clips:` settings that hold where no override says otherwise.
        reporter: Where to show progress.

    Returns:
        How many segments it holds: all of the list.

    Raises:
        ConfigError: The weights or data are of something else.
        DataError: A video of the list is absent or cannot be read, or the file cannot be written.
    """
    model, config = load_model(weights)
    sizes = {task: len(names) for task, names in config.heads.items()}
    if sizes != NUM_CLASSES:
        wanted = " and ".join(f"{num} {task}s" for task, num in NUM_CLASSES.items())
        raise ConfigError(f"{weights}: the challenge asks for {wanted}; this model has {sizes}")
    if out.is_dir():
        raise ConfigError(f"--out: {out} is a folder; give a file")
    try:  # known before hours of work, not behind them
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise DataError(f"--out: {out} cannot be written: {error.strerror or error}; give another place") from None
    data, clips_section = resolve_evaluation(read_training(weights).data, overrides, clips=defaults or {})
    if data.name != _DATASET:
        raise ConfigError(f"data.name: the challenge is of {_DATASET}, not of {data.name}")
    check_decoder(clips_section.decoder, [])
    if isinstance(clips_section.store, Path):
        Store.open(clips_section.store)
    # The whole official list, whatever part of the data set was trained on.
    places = {key: value for key, value in data.arguments().items() if key in ("source", "frame_rate", "annotations")}
    dataset = replace(epic_kitchens_100(data.root, tasks=("verb", "noun"), **places), root=data.root)
    for task, names in config.heads.items():
        if tuple(dataset.classes[task]) != tuple(names):
            raise ConfigError(f"{weights}: its {task} classes are not the official ones, in their order")
    listed, absent = dataset.splits.get("test", ()), dataset.absent.get("test", ())
    if absent or not listed:
        where = f", such as {absent[0].video}" if absent else ""
        raise DataError(
            f"{data.root}: {len(absent):,} of {len(listed) + len(absent):,} segments of the test list have no video"
            f"{where}; the challenge takes whole lists only"
        )
    # Labels are only carried along; the list has none.
    dataset = replace(
        dataset, splits={"test": tuple(replace(clip, labels=dict.fromkeys(config.heads, 0)) for clip in listed)}
    )
    predictions = predict_split(
        model,
        config,
        dataset,
        "test",
        data=data,
        clips=clips_section,
        description="answering test segments",
        required=True,
        reporter=reporter,
        weights=weights,
    )
    if predictions.skipped:
        segment, reason = next(iter(predictions.skipped.items()))
        raise DataError(
            f"{len(predictions.skipped):,} of {len(listed):,} test segments cannot be read, such as {segment}: {reason}"
        )
    scores = {task: log_softmax(predictions.logits[task]) for task in NUM_CLASSES}
    write_submission(
        out,
        {clip.clip_id: {task: scores[task][row] for task in NUM_CLASSES} for row, clip in enumerate(predictions.clips)},
        segments=[clip.clip_id for clip in listed],
        levels=levels,
    )
    predictions.forget()
    return len(listed)
