"""`kinema data prepare --features`: a frozen backbone run once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kinema.progress import Reporter
from kinema.types import ConfigError, UserError

if TYPE_CHECKING:
    from kinema.data.video import Video
    from kinema.models.frame_model import FrameModel
    from kinema.preparation.feature_store import StoredAs
    from kinema.preparation.storing import Stored
    from kinema.sections import Recipe
    from kinema.types import Clip, Preprocessing, Split


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
