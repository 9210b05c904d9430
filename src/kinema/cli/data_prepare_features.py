"""`kinema data prepare --features`: a frozen backbone run once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from kinema.cli.data_prepare_job import Job, finish, only_with, recipe_of, usable_clips
from kinema.cli.data_section import data_section
from kinema.progress import Reporter
from kinema.types import ConfigError, UserError

if TYPE_CHECKING:
    from kinema.data.video import Video
    from kinema.models.frame_model import FrameModel
    from kinema.preparation.feature_store import StoredAs
    from kinema.preparation.storing import Stored
    from kinema.sections import Recipe
    from kinema.types import Clip, Preprocessing, Split


class TypeName(StrEnum):
    """Numbers of stored features."""

    fp16 = "fp16"
    fp32 = "fp32"


def store_features_of(
    job: Job,
    what: str,
    *,
    weights: str | None,
    clips: Mapping[str, object],
    dtype: TypeName | None,
    maps: bool,
    views: int | None,
) -> None:
    """Store features of a recipe's, or a named, backbone.

    Args:
        job: Of which clips, and where.
        what: A recipe, or the name of a backbone.
        weights: Of the backbone: `published`, or a file.
        clips: Keys of `clips:` that were given; None is what was not.
        dtype: Type of the numbers.
        maps: Before they are averaged over the frame.
        views: Random versions of training clips.
    """
    recipe = _recipe(job, what, weights, clips, maps=maps)
    decoder = recipe.clips.decoder
    listed, videos, record = usable_clips(
        job, recipe.data, recipe.trainer.seed, decoder=decoder, flow=_from_files(recipe)
    )
    done = store_features(
        recipe,
        listed,
        videos,
        job.folder,
        stored_as=(dtype or TypeName.fp16).value,
        maps=maps,
        views=views,
        still=weights is not None and views is None,
        shard=job.shard,
        workers=job.readers(decoder),
        reporter=job.output.reporter,
    )
    finish(job, record, recipe.data, "clips", done)


def _from_files(recipe: Recipe) -> bool:
    """Whether optical flow is read from files."""
    from kinema.data.stored_flow import METHOD

    return recipe.clips.motion.method == METHOD and recipe.data.modality != "rgb"


def _recipe(job: Job, what: str, weights: str | None, given: Mapping[str, object], *, maps: bool) -> Recipe:
    """The recipe that is named, or the one that the name of a backbone stands for."""
    from kinema import recipes

    if what in recipes.names() or what.endswith((".yaml", ".yml")):
        only_with("--features BACKBONE", weights=weights, **_options(given))
        return recipe_of(job, what)
    if weights is None:
        raise UserError(f"--weights: say which weights {what} has: a file, or published")
    of_recipe = [given for given in job.overrides or [] if given.startswith(("init.", "clips."))]
    of_data = [given for given in job.overrides or [] if given not in of_recipe]
    data = data_section(job.name, job.root, of_data, job.annotations).model_dump(mode="json")
    kept = {key: value for key, value in given.items() if value is not None}
    return features_recipe(what, data, weights=weights, clips=kept, maps=maps, overrides=of_recipe)


def _options(given: Mapping[str, object]) -> dict[str, object]:
    """Values of keys of `clips:` by the name of their option, without `--`."""
    return {key.removesuffix("_px").removesuffix("_s"): value for key, value in given.items()}


def features_recipe(
    backbone: str,
    data: Mapping[str, object],
    *,
    weights: str,
    clips: Mapping[str, object],
    maps: bool = False,
    overrides: Sequence[str] = (),
) -> Recipe:
    """The recipe that a backbone's name stands for.

    Args:
        backbone: An image network.
        data: The `data:` section.
        weights: `published`, or a file.
        clips: Further keys of `clips:`.
        maps: Features before they are averaged over the frame: what is behind them is no part of the network then.
        overrides: `init.key=value` and `clips.key=value`.
    """
    from kinema.config import resolve

    return resolve(
        {
            "data": dict(data),
            "clips": dict(clips),
            "model": {"name": "cnn_conv_lstm" if maps else "frame_average", "backbone": backbone},
            "init": {"weights": weights, "freeze": "backbone"},
        },
        overrides,
    )


def store_features(
    recipe: Recipe,
    clips: Mapping[Split, list[Clip]],
    videos: Mapping[Path, Video],
    folder: Path,
    *,
    stored_as: StoredAs,
    maps: bool,
    views: int | None,
    still: bool,
    shard: tuple[int, int],
    workers: int,
    reporter: Reporter,
) -> Stored:
    """Store the features of all clips, as training and evaluation by this recipe take them.

    Args:
        recipe: With a frozen backbone.
        clips: Split -> clips that can be read.
        videos: What probing found.
        folder: The store.
        stored_as: Type of the numbers.
        maps: Before they are averaged over the frame.
        views: Random versions of training clips; by default as many as the recipe says.
        still: Training clips are stored as those of other splits, without augmentation.
        shard: (i, n): what falls to job i of n.
        workers: Processes that read clips.
        reporter: Where to show progress.

    Raises:
        UserError: The recipe's backbone is not frozen, its clips are others in every epoch, or its arithmetic is to be
            decided on training clips, which are not among these.
        DataError: The store cannot be written, or is of something else.
    """
    from kinema.data.sources import clip_reader, say_frames
    from kinema.models.runtime import set_up
    from kinema.preparation.arithmetic import choose_arithmetic
    from kinema.preparation.features import prepare_features
    from kinema.training.prepare import compute_device

    section = recipe.clips
    augmentation = section.augmentation if views is None else section.augmentation.model_copy(update={"views": views})
    if "train" in clips and not still and augmentation.num_views is None:
        raise UserError(
            "--features: clips.augmentation.views is null in this recipe: training clips are others in every epoch; "
            "say how many versions of each are to be stored, with --views 8, and train with clips.augmentation.views=8"
        )
    model, preprocessing = _frozen(recipe)
    device = compute_device(recipe.trainer)
    model.to(device)
    set_up(model, recipe.trainer.runtime, device)
    readers = {
        split: clip_reader(
            section,
            of_split,
            videos,
            preprocessing,
            root=recipe.data.root,
            augmentation=augmentation if split == "train" and not still else None,
            seed=recipe.trainer.seed,
            name=split,
        )
        for split, of_split in clips.items()
    }
    for split, reader in readers.items():
        say_frames(reader, split)
    choose_arithmetic(
        model.backbone,
        readers.get("train"),
        recipe.trainer.runtime,
        maps=maps or model.takes_maps,
        batch_size=section.batch_size,
        workers=workers,
        reporter=reporter,
    )
    return prepare_features(
        model.backbone,
        list(readers.values()),
        folder,
        root=recipe.data.root,
        stored_as=stored_as,
        maps=maps or model.takes_maps,
        batch_size=section.batch_size,
        workers=workers,
        shard=shard,
        reporter=reporter,
    )


def _frozen(recipe: Recipe) -> tuple[FrameModel, dict[str, Preprocessing]]:
    """The recipe's model with its frozen backbone, and what its frames have to be."""
    import torch

    from kinema.models.build import build_model, initialise
    from kinema.models.frame_model import FrameModel
    from kinema.models.layers.backbone import IMAGENET_MEAN, IMAGENET_STD
    from kinema.preprocessing import shapes, streams_of

    if recipe.init.freeze not in ("backbone", "all"):
        raise ConfigError("init.freeze: features are stored of a frozen backbone; this recipe trains its own")
    inputs = shapes(streams_of(recipe, mean=IMAGENET_MEAN, std=IMAGENET_STD))
    torch.manual_seed(recipe.trainer.seed)
    model = build_model(recipe.model.name, recipe.model.arguments(), heads={"action": ("any", "other")}, inputs=inputs)
    if not isinstance(model, FrameModel):
        raise ConfigError(f"model.name: {recipe.model.name} has no frame backbone whose features could be stored")
    found = initialise(model, recipe.init)
    return model, streams_of(recipe, mean=found.mean, std=found.std)
