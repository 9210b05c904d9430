"""What the clips of a run are read from: videos, or the stored features of a frozen backbone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kinema.data.cache import cache_folder
from kinema.data.loading import ClipReader
from kinema.data.sources import clip_reader, say_frames
from kinema.evaluation.reading import named_features, say_features
from kinema.models.frame_model import FrameModel
from kinema.models.layers.backbone import FrameBackbone
from kinema.preparation.arithmetic import choose_arithmetic
from kinema.preparation.feature_store import FeatureReader
from kinema.preparation.features import frozen_features
from kinema.progress import Reporter
from kinema.training.prepare import Prepared, compute_device
from kinema.types import ConfigError, DataError, Split

Readers = dict[Split, ClipReader | FeatureReader]


def readers_of(prepared: Prepared, saved: Mapping[str, Any] | None, reporter: Reporter) -> Readers:
    """Split -> what reads its clips: frames, or features where a frozen backbone need not see the frames again. It is
    the same for all splits, and with a checkpoint what it was before, to the bit: features are rounded when they are
    stored, and a store that is named may have grown.

    Args:
        prepared: The run.
        saved: `epoch_state` of its checkpoint.
        reporter: Where to show progress.

    Raises:
        DataError: The run was begun with features, or with stored clips, and they cannot be had now.
        ConfigError: The recipe names a store of features that it cannot use.
    """
    readers = _readers(prepared, saved, reporter)
    for split, reader in readers.items():
        if saved is not None and saved["sources"].get(split) != reader.source:
            store = prepared.recipe.clips.store
            place = f"clips.store: {store}" if isinstance(store, Path) else f"clips.store={store}"
            raise DataError(
                f"{place}: what is stored of {split} clips is not what the run was begun with: some were added, or "
                "prepared again. Restore it, or begin a new run"
            )
    return readers


def _readers(prepared: Prepared, saved: Mapping[str, Any] | None, reporter: Reporter) -> Readers:
    section = prepared.recipe.clips
    frames = {split: _frames(prepared, split) for split in prepared.clips}
    backbone = _frozen_backbone(prepared)
    if backbone is not None:
        _choose_arithmetic(prepared, backbone, frames["train"], saved, reporter)
    before = None if saved is None else saved["reads"]
    folder = _feature_store(prepared, backbone)
    can = backbone is not None and section.augmentation.num_views is not None and section.store != "none"
    if not can or before == "frames" or (isinstance(section.store, Path) and folder is None):
        return _said(frames)
    assert backbone is not None
    if section.augmentation.cutmix:
        raise ConfigError(
            "clips.augmentation.cutmix: cuts frames, and what is read are stored features of the frozen backbone; use "
            "mixup, or clips.store=none"
        )
    of_features: dict[Split, FeatureReader] = {}
    for split, reader in frames.items():
        features = frozen_features(
            backbone,
            reader,
            maps=isinstance(prepared.model, FrameModel) and prepared.model.takes_maps,
            batch_size=section.batch_size,
            workers=section.workers,
            root=prepared.recipe.data.root,
            folder=folder,
            stored_as=None if saved is None else saved.get("stored_as"),
            name=split,
            reporter=reporter,
        )
        if features is None and before == "features":
            raise DataError(
                f"features of {split} clips cannot be kept in {cache_folder()} (why is said above), and the run was "
                "begun with features; mend that, or begin a new run with clips.store=none"
            )
        if features is None:
            return _said(frames)
        of_features[split] = features
    for split, features in of_features.items():
        say_features(features, split)
    return dict(of_features)


def _said(frames: Mapping[Split, ClipReader]) -> Readers:
    for split, reader in frames.items():
        say_frames(reader, split)
    return dict(frames)


def _frames(prepared: Prepared, split: Split) -> ClipReader:
    recipe = prepared.recipe
    return clip_reader(
        recipe.clips,
        prepared.clips[split],
        prepared.videos,
        prepared.preprocessing,
        root=recipe.data.root,
        augmentation=recipe.clips.augmentation if split == "train" else None,
        seed=recipe.trainer.seed,
        name=split,
    )


def _frozen_backbone(prepared: Prepared) -> FrameBackbone | None:
    model = prepared.model
    if not isinstance(model, FrameModel) or not model.backbone.frozen:
        return None
    return model.to(compute_device(prepared.recipe.trainer)).backbone


def _feature_store(prepared: Prepared, backbone: FrameBackbone | None) -> Path | None:
    """The store of features that the recipe names, if it names one."""
    section = prepared.recipe.clips
    folder = named_features(section)
    if folder is None:
        return None
    if backbone is None:
        raise ConfigError("clips.store: features are of a frozen backbone; this recipe has none (init.freeze=backbone)")
    if section.augmentation.num_views is None:
        raise ConfigError(
            "clips.store: features cannot be stored of clips that are another in every epoch; "
            "say how many versions of each there are, clips.augmentation.views=8"
        )
    return folder


def _choose_arithmetic(
    prepared: Prepared, backbone: FrameBackbone, reader: ClipReader, saved: Mapping[str, Any] | None, reporter: Reporter
) -> None:
    recipe = prepared.recipe
    if saved is not None:
        backbone.arithmetic = saved["arithmetic"]
        backbone.ranges = dict(saved["ranges"])
        return
    choose_arithmetic(
        backbone,
        reader,
        recipe.trainer.runtime,
        maps=isinstance(prepared.model, FrameModel) and prepared.model.takes_maps,
        batch_size=recipe.clips.batch_size,
        workers=recipe.clips.workers,
        reporter=reporter,
    )
