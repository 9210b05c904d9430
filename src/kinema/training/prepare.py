"""Everything between a recipe and the first step: clips found and probed, the model built and given weights. All that
can be wrong with a recipe or its data is found here, before a run exists."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from kinema.data.decoders import check_decoder
from kinema.data.decoding import Video
from kinema.data.load_dataset import load_dataset
from kinema.data.sampling import clip_interval_s
from kinema.data.shards import Store
from kinema.data.sides import warn_of_sides
from kinema.data.sources import videos_read
from kinema.data.stored_flow import reads_stored
from kinema.data.usable import probe_splits
from kinema.models.build import Initialisation, build_model, initialise
from kinema.models.layers.backbone import IMAGENET_MEAN, IMAGENET_STD
from kinema.preprocessing import shapes, streams_of
from kinema.progress import SILENT, Reporter
from kinema.sections import Recipe, TrainerSection
from kinema.training.imbalance import sampling_task
from kinema.training.losses import check_tasks
from kinema.training.optimisers import parameter_groups
from kinema.training.unfreezing import Thaw, thaw_of
from kinema.training_sections import Plateau
from kinema.types import SPLITS, Clip, ConfigError, Dataset, Inputs, Preprocessing, Split

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """All that training needs.

    Attributes:
        dataset: As its function returned it, with the validation split cut out where the recipe asks for one.
        clips: Split -> readable clips, of the splits that training uses.
        videos: Path -> what probing found.
        skipped: Split -> clip id -> why the clip cannot be used.
        model: With its initial weights.
        initialisation: Where these came from.
        preprocessing: Stream -> preprocessing.
        select: Which epoch will be kept.
        thaw: Which stages of the backbone begin to learn later.
    """

    recipe: Recipe
    dataset: Dataset
    clips: Mapping[Split, list[Clip]]
    videos: Mapping[Path, Video]
    skipped: Mapping[Split, dict[str, str]]
    model: nn.Module
    initialisation: Initialisation
    preprocessing: Mapping[str, Preprocessing]
    select: str
    thaw: Thaw | None = None

    @property
    def seen(self) -> dict[str, Preprocessing]:
        """Stream -> preprocessing, of what the model needs for an answer; others are for its auxiliary loss alone."""
        return needed(self.model, self.preprocessing)

    @property
    def num_parameters(self) -> tuple[int, int]:
        """All parameters, and those that are trained, sooner or later. Buffers are not parameters."""
        parameters = list(self.model.parameters())
        later = set() if self.thaw is None else {id(parameter) for parameter in self.thaw.parameters}
        trained = sum(p.numel() for p in parameters if p.requires_grad or id(p) in later)
        return sum(p.numel() for p in parameters), trained


def prepare(recipe: Recipe, *, reporter: Reporter = SILENT) -> Prepared:
    """Find, probe and build everything that a recipe names.

    Raises:
        ConfigError: A setting is impossible for these data or this model.
        DataError: Data or weights are missing or wrong.
    """
    compute_device(recipe.trainer)
    check_decoder(recipe.clips.decoder, [])
    if isinstance(recipe.clips.store, Path):
        Store.open(recipe.clips.store)
    dataset = load_dataset(recipe.data, seed=recipe.trainer.seed, reporter=reporter)
    for note in dataset.notes:
        log.info("%s", note)
    warn_of_sides(recipe.clips.augmentation, dataset.classes)
    select = _selection(recipe, dataset)
    # A small clip of the right shape is enough to find out that the model cannot be built: before probing, which can
    # take long.
    inputs = shapes(streams_of(recipe, mean=IMAGENET_MEAN, std=IMAGENET_STD))
    torch.manual_seed(recipe.trainer.seed)
    model = build_model(
        recipe.model.name,
        recipe.model.arguments(),
        heads=dataset.classes,
        inputs=inputs,
    )
    initialisation = initialise(model, recipe.init)
    thaw = thaw_of(model, recipe.init, recipe.optim, recipe.trainer)
    parameter_groups(model, recipe.optim, later=[] if thaw is None else thaw.parameters)
    preprocessing = streams_of(recipe, mean=initialisation.mean, std=initialisation.std)
    seen = needed(model, preprocessing)
    used: list[Split] = [split for split in SPLITS if split in dataset.splits and split != "test"]
    clips, videos, skipped = probe_splits(
        dataset,
        used,
        workers=recipe.clips.workers,
        background=True,
        flow=[split for split in used if reads_stored((preprocessing if split == "train" else seen).values())],
        reporter=reporter,
    )
    if recipe.clips.decoder != "pyav":
        listed = [clip for split in used for clip in clips[split]]
        check_decoder(recipe.clips.decoder, videos_read(recipe.clips, listed, videos, root=recipe.data.root))
    _check_smallest_batch(model, recipe, inputs, len(clips["train"]))
    _say_whole(recipe.clips.window_s, clips["train"], videos)
    return Prepared(
        recipe=recipe,
        dataset=dataset,
        clips=clips,
        videos=videos,
        skipped=skipped,
        model=model,
        initialisation=initialisation,
        preprocessing=preprocessing,
        select=select,
        thaw=thaw,
    )


def _say_whole(window_s: float | None, clips: Sequence[Clip], videos: Mapping[Path, Video]) -> None:
    """Say how many clips a window is too long for."""
    if window_s is None:
        return
    lengths = (clip_interval_s(clip, videos[clip.video]) for clip in clips)
    num_whole = sum(stop_s - start_s <= window_s for start_s, stop_s in lengths)
    if num_whole:
        log.info(
            "clips.window_s: %d of %d training clips are no longer than %g s, and are taken whole",
            num_whole,
            len(clips),
            window_s,
        )


def needed(model: nn.Module, preprocessing: Mapping[str, Preprocessing]) -> dict[str, Preprocessing]:
    """Of a model's streams those that it needs for an answer; others are for its auxiliary loss alone."""
    others = getattr(model, "training_streams", ())
    return {stream: each for stream, each in preprocessing.items() if stream not in others}


def _check_smallest_batch(model: nn.Module, recipe: Recipe, inputs: Inputs, num_clips: int) -> None:
    """Batch norm cannot be trained on a single value per channel, which the last batch of an epoch may come to.

    Raises:
        ConfigError: An epoch has a batch of one clip, and the model cannot be trained on it.
    """
    size = recipe.clips.batch_size
    if (num_clips % size or size) > 1:
        return
    clip = {
        stream: torch.empty(1, shape.num_frames, shape.channels, shape.height_px, shape.width_px, device="meta")
        for stream, shape in inputs.items()
    }
    try:
        with torch.no_grad():
            copy.deepcopy(model).to("meta").train()(clip)
    except ValueError as error:
        raise ConfigError(
            f"clips.batch_size: with {size} and {num_clips} training clips, an epoch has a batch of one clip, on which "
            f"this model cannot be trained ({str(error).partition(', got')[0]}); take another size"
        ) from None


def compute_device(trainer: TrainerSection) -> torch.device:
    """Where a run computes.

    Raises:
        ConfigError: The recipe asks for a GPU and there is none.
    """
    has_gpu = torch.cuda.is_available()
    if trainer.accelerator == "gpu" and not has_gpu:
        raise ConfigError("trainer.accelerator: there is no GPU; use auto or cpu")
    on_gpu = has_gpu and trainer.accelerator != "cpu"
    if trainer.precision == "fp16" and not on_gpu:
        raise ConfigError("trainer.precision: fp16 needs a GPU; use bf16 or fp32")
    return torch.device("cuda" if on_gpu else "cpu")


def _selection(recipe: Recipe, dataset: Dataset) -> str:
    has_validation = bool(dataset.splits.get("validation"))
    select = recipe.trainer.select
    if select == "auto":
        select = "best" if has_validation else "last"
    if select == "best" and not has_validation:
        raise ConfigError(
            "trainer.select: best needs a validation split and this data set has none; "
            "cut one out with data.validation=0.1, or use trainer.select=last"
        )
    if recipe.trainer.patience is not None and not has_validation:
        raise ConfigError("trainer.patience: needs a validation split; cut one out with data.validation=0.1")
    if isinstance(recipe.optim.schedule, Plateau) and not has_validation:
        raise ConfigError(
            "optim.schedule: plateau watches the validation loss; cut a validation split out with data.validation=0.1"
        )
    augmentation = recipe.clips.augmentation
    if recipe.clips.batch_size == 1 and (augmentation.mixup or augmentation.cutmix):
        key = "mixup" if augmentation.mixup else "cutmix"
        raise ConfigError(f"clips.augmentation.{key}: mixes clips of a batch, which has one; raise clips.batch_size")
    check_tasks(recipe.task, dataset.classes)
    sampling_task(recipe.task.imbalance, dataset.classes)
    log.info(
        "the epoch that is kept: %s",
        "the best on the validation split" if select == "best" else "the last; nothing is selected",
    )
    return select
