"""Running a model over one split of a data set, read as the settings say."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from kinema.data.decoders import check_decoder
from kinema.data.sources import videos_read
from kinema.data.usable import probe_splits
from kinema.evaluation.predict import predict_clips
from kinema.evaluation.predictions import Predictions
from kinema.evaluation.reading import evaluation_reader
from kinema.models.weights import WeightsConfig
from kinema.progress import Reporter
from kinema.sections import ClipsSection, DataSection
from kinema.types import Dataset, Split


def predict_split(
    model: nn.Module,
    config: WeightsConfig,
    dataset: Dataset,
    split: Split,
    *,
    data: DataSection,
    clips: ClipsSection,
    description: str,
    required: bool,
    reporter: Reporter,
) -> Predictions:
    """Logits of a model for all clips of a split, on a GPU where there is one. What cannot be read is in `skipped`.

    Args:
        model: In evaluation mode; moved to the device.
        config: Its classes and preprocessing.
        dataset: Has the split; its clips have a label for every task.
        split: Which one.
        data: The section that the data set was listed by.
        clips: How clips are read.
        description: What the reporter shows.
        required: A store that is named has to be of use.
        reporter: Where to show progress.

    Raises:
        ConfigError: The decoder or the store cannot be used for these clips.
        DataError: A store that is named is of no use.
    """
    usable, videos, skipped = probe_splits(dataset, [split], workers=clips.workers, reporter=reporter)
    if clips.decoder != "pyav":
        check_decoder(clips.decoder, videos_read(clips, usable[split], videos, root=data.root))
    predictions = predict_clips(
        model.to("cuda" if torch.cuda.is_available() else "cpu"),
        usable[split],
        videos,
        classes=config.heads,
        preprocessing=config.preprocessing,
        batch_size=clips.batch_size,
        workers=clips.workers,
        read=lambda some, probed: evaluation_reader(
            model, clips, some, probed, config.preprocessing, root=data.root, name=split, required=required
        ),
        description=description,
        reporter=reporter,
    )
    return replace(predictions, skipped={**skipped[split], **predictions.skipped})
