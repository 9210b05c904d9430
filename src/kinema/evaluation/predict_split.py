"""Running a model over one split of a data set, read as the settings say."""

from __future__ import annotations

import hashlib
import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from kinema.data.cache import cache_folder
from kinema.data.decoders import check_decoder
from kinema.data.sources import videos_read
from kinema.data.stored_flow import reads_stored
from kinema.data.usable import probe_splits
from kinema.data.views import ONE_VIEW, Views
from kinema.evaluation.answers import Average, Kept
from kinema.evaluation.frame_orders import FrameOrder
from kinema.evaluation.predict import predict_clips
from kinema.evaluation.predictions import Predictions, claim_of
from kinema.evaluation.reading import evaluation_reader
from kinema.files import locked
from kinema.models.weights import WeightsConfig
from kinema.progress import Reporter
from kinema.sections import ClipsSection, DataSection
from kinema.types import Clip, Dataset, Split, fingerprint
from kinema.version import __version__

log = logging.getLogger(__name__)

_KEPT_S = 30 * 24 * 3600
"""How long answers of work that was stopped are kept."""


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
    weights: Path | None = None,
    views: Views = ONE_VIEW,
    average: Average = "probabilities",
    orders: Sequence[FrameOrder] = (),
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
        weights: The model's folder: what was answered before an interruption is then found again. Whoever has saved the
            result removes the folder that it names as `kept`.
        views: Looks at each clip.
        average: How several become one answer.
        orders: Orders of the frames to answer in as well.

    Raises:
        ConfigError: The decoder, the store or the views cannot be used for these clips.
        DataError: A store that is named is of no use.
    """
    for settings in config.preprocessing.values():
        views.check(settings)
    usable, videos, skipped = probe_splits(
        dataset,
        [split],
        workers=clips.workers,
        flow=[split] if reads_stored(config.preprocessing.values()) else (),
        reporter=reporter,
    )
    if clips.decoder != "pyav":
        check_decoder(clips.decoder, videos_read(clips, usable[split], videos, root=data.root))
    of = [str(views), list(orders), clips.batch_size, clips.decoder, str(clips.store)]
    folder = None if weights is None else _folder(weights, usable[split], of)
    with ExitStack() as stack:
        kept = None if folder is None else stack.enter_context(_claimed(folder))
        predictions = predict_clips(
            model.to("cuda" if torch.cuda.is_available() else "cpu"),
            usable[split],
            videos,
            classes=config.heads,
            preprocessing=config.preprocessing,
            batch_size=clips.batch_size,
            workers=clips.workers,
            read=lambda some, probed: evaluation_reader(
                model,
                clips,
                some,
                probed,
                config.preprocessing,
                root=data.root,
                name=split,
                required=required,
                views=None if views == ONE_VIEW else views,
            ),
            views=views,
            average=average,
            orders=orders,
            kept=kept,
            description=description,
            reporter=reporter,
        )
    return replace(
        predictions,
        skipped={**skipped[split], **predictions.skipped},
        kept=None if kept is None else kept.folder,
    )


@contextmanager
def _claimed(folder: Path) -> Iterator[Kept | None]:
    """Answers in a folder, for this process alone; None while another process is at the same."""
    with ExitStack() as stack:
        try:
            is_mine = stack.enter_context(locked(claim_of(folder), wait=False))
        except OSError as error:
            log.info("answers are not kept, and would be computed again: %s: %s", folder, error.strerror)
            is_mine = False
        else:
            if not is_mine:
                log.warning(
                    "another process is at the same evaluation; this one computes it too, and keeps nothing that it "
                    "could go on from if it were stopped"
                )
        yield Kept(folder) if is_mine else None


def _folder(weights: Path, clips: Sequence[Clip], settings: list[object]) -> Path:
    """For answers of these weights about these files, asked in this way."""
    digests = []
    for name in ("model.safetensors", "config.json"):
        with (weights / name).open("rb") as file:
            digests.append(hashlib.file_digest(file, "blake2b").hexdigest())
    states = {}
    for video in {clip.video for clip in clips}:
        state = video.stat()
        states[str(video.absolute())] = [state.st_size, state.st_mtime_ns]
    listed = [[clip.clip_id, str(clip.video), clip.start_s, clip.stop_s, clip.fps] for clip in clips]
    place = cache_folder() / "evaluations"
    for folder in place.glob("*"):  # of what was never finished
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime > _KEPT_S:
                shutil.rmtree(folder)
    return place / fingerprint([__version__, digests, states, listed, settings])
