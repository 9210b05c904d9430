"""What the clips of a run are read from: videos, or the stored features of a frozen backbone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kinema.data.cache import cache_folder
from kinema.data.loading import ClipReader
from kinema.data.sources import clip_reader, say_frames
from kinema.data.streams import StreamsReader
from kinema.evaluation.reading import named_features, say_features
from kinema.models.frame_model import FrameModel
from kinema.models.streams_model import frame_models
from kinema.preparation.arithmetic import choose_arithmetic
from kinema.preparation.feature_store import FeatureReader, StreamFeatures
from kinema.preparation.features import frozen_features
from kinema.progress import Reporter
from kinema.sections import Augmentation
from kinema.training.prepare import Prepared, compute_device
from kinema.types import ConfigError, DataError, Split

Frames = ClipReader | StreamsReader
Features = FeatureReader | StreamFeatures
Readers = dict[Split, Frames | Features]


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
    augmentation = section.augmentation
    frames = {s: frame_reader(prepared, s, augmentation if s == "train" else None) for s in prepared.clips}
    frozen = _frozen(prepared)
    if frozen is not None:
        _choose_arithmetic(prepared, frozen, frames["train"], saved, reporter)
    before = None if saved is None else saved["reads"]
    folder = _feature_store(prepared, frozen)
    can = frozen is not None and section.augmentation.num_views is not None and section.store != "none"
    if not can or before == "frames" or (isinstance(section.store, Path) and folder is None):
        return _said(frames)
    assert frozen is not None
    if section.augmentation.cutmix:
        raise ConfigError(
            "clips.augmentation.cutmix: cuts frames, and what is read are stored features of the frozen backbone; use "
            "mixup, or clips.store=none"
        )
    of_features: dict[Split, Features] = {}
    for split, reader in frames.items():
        features: dict[str, FeatureReader] = {}
        stored_as = None if saved is None else saved.get("stored_as")
        for stream, network in frozen.items():
            found = frozen_features(
                network.backbone,
                reader if isinstance(reader, ClipReader) else reader.readers[stream],
                maps=network.takes_maps,
                batch_size=section.batch_size,
                workers=section.workers,
                root=prepared.recipe.data.root,
                folder=folder,
                stored_as=stored_as,
                name=split if len(frozen) == 1 else f"{split}, {stream}",
                reporter=reporter,
            )
            if found is None and before == "features":
                raise DataError(
                    f"features of {split} clips cannot be kept in {cache_folder()} (why is said above), and the run "
                    "was begun with features; mend that, or begin a new run with clips.store=none"
                )
            if found is None:
                return _said(frames)
            features[stream] = found
            stored_as = found.form.stored_as  # of all streams the same, as they lie side by side
        of_features[split] = next(iter(features.values())) if len(features) == 1 else StreamFeatures(features)
    for split, of_split in of_features.items():
        say_features(of_split, split)
    return dict(of_features)


def _said(frames: Mapping[Split, Frames]) -> Readers:
    for split, reader in frames.items():
        for stream, own in reader.readers.items() if isinstance(reader, StreamsReader) else [("", reader)]:
            say_frames(own, f"{split}, {stream}" if stream else split)
    return dict(frames)


def frame_reader(prepared: Prepared, split: Split, augmentation: Augmentation | None) -> Frames:
    """What reads the frames of a split's clips, of every stream.

    Args:
        prepared: The run.
        split: Of its clips.
        augmentation: Random versions of them; None: as evaluation sees them.

    Raises:
        DataError: The store that the recipe names is not there, is damaged or of an unknown version.
    """
    recipe = prepared.recipe
    streams = prepared.preprocessing if split == "train" else prepared.seen
    several = len(streams) > 1
    readers = {
        stream: clip_reader(
            recipe.clips,
            prepared.clips[split],
            prepared.videos,
            {stream: preprocessing},
            root=recipe.data.root,
            augmentation=augmentation,
            seed=recipe.trainer.seed,
            name=f"{split}, {stream}" if several else split,
            several=several,
        )
        for stream, preprocessing in streams.items()
    }
    return StreamsReader(readers) if several else next(iter(readers.values()))


def _frozen(prepared: Prepared) -> dict[str, FrameModel] | None:
    """Stream -> network, of a model all of whose backbones are frozen and see single frames."""
    found = frame_models(prepared.model, list(prepared.preprocessing))
    if found is None or not all(network.backbone.frozen for network in found.values()):
        return None
    if len(found) > 1 and any(network.takes_maps for network in found.values()):
        return None  # maps of several streams have no common form
    prepared.model.to(compute_device(prepared.recipe.trainer))
    return found


def _feature_store(prepared: Prepared, frozen: Mapping[str, FrameModel] | None) -> Path | None:
    """The store of features that the recipe names, if it names one."""
    section = prepared.recipe.clips
    folder = named_features(section)
    if folder is None:
        return None
    if frozen is None:
        raise ConfigError("clips.store: features are of a frozen backbone; this recipe has none (init.freeze=backbone)")
    if len(frozen) > 1:
        raise ConfigError(
            "clips.store: a store holds features of one stream, and this recipe has several; take auto, which finds "
            "the store of each"
        )
    if section.augmentation.num_views is None:
        raise ConfigError(
            "clips.store: features cannot be stored of clips that are another in every epoch; "
            "say how many versions of each there are, clips.augmentation.views=8"
        )
    return folder


def _choose_arithmetic(
    prepared: Prepared,
    frozen: Mapping[str, FrameModel],
    reader: Frames,
    saved: Mapping[str, Any] | None,
    reporter: Reporter,
) -> None:
    recipe = prepared.recipe
    runtime = recipe.trainer.runtime
    if len(frozen) > 1 and runtime.features == "int8":
        raise ConfigError("trainer.runtime.features: int8 is for one stream; take fp32, bf16 or auto")
    for network in frozen.values():
        backbone = network.backbone
        if saved is not None:
            backbone.arithmetic = saved["arithmetic"]
            backbone.ranges = dict(saved["ranges"])
        elif isinstance(reader, ClipReader):
            choose_arithmetic(
                backbone,
                reader,
                runtime,
                maps=network.takes_maps,
                batch_size=recipe.clips.batch_size,
                workers=recipe.clips.workers,
                reporter=reporter,
            )
        elif runtime.features == "bf16":  # of several streams, auto is fp32: they would have to agree together
            backbone.arithmetic = "bf16"
