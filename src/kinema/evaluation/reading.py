"""What clips are read from when a model is run over them: stored features, stored frames or videos."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn

from kinema.data.loading import ClipReader
from kinema.data.shards import Store
from kinema.data.sources import clip_reader, say_frames
from kinema.data.streams import StreamsReader
from kinema.data.video import Video
from kinema.data.views import Views
from kinema.models.frame_model import FrameModel
from kinema.models.streams_model import frame_models
from kinema.preparation.feature_store import KIND, FeatureReader, StoredAs, StreamFeatures
from kinema.preparation.features import frozen_features
from kinema.sections import ClipsSection
from kinema.types import Clip, ConfigError, DataError, Preprocessing

log = logging.getLogger(__name__)


def named_features(section: ClipsSection) -> Path | None:
    """The store of features that `clips.store` names, if it names one.

    Raises:
        DataError: What it names is no store.
    """
    store = section.store
    return store if isinstance(store, Path) and Store.open(store).kind == KIND else None


def say_features(reader: FeatureReader | StreamFeatures, name: str) -> None:
    """Log that features are read."""
    used = ", ".join(map(str, reader.folders))
    log.info("%s: read as features of the frozen backbone, in %s, from %s", name, reader.form.stored_as, used)


def evaluation_reader(
    model: nn.Module,
    section: ClipsSection,
    clips: Sequence[Clip],
    videos: Mapping[Path, Video],
    preprocessing: Mapping[str, Preprocessing],
    *,
    root: Path | None,
    name: str,
    required: bool = False,
    views: Views | None = None,
) -> ClipReader | FeatureReader | StreamsReader | StreamFeatures:
    """What reads clips as evaluation takes them. Where stores hold the features that the model's backbone gives of all
    of them, it is these.

    Args:
        model: That is evaluated.
        section: Says by its `store` where to look.
        clips: That can be read.
        videos: What probing their videos found.
        preprocessing: Stream -> preprocessing of the model.
        root: Folder of the data set.
        name: Of the clips, for the log ("test").
        required: A store of features that is named has to be of use.
        views: Several looks at each clip, of which stores hold the middle one alone.

    Raises:
        ConfigError: A store of features is named, and the model has no frame backbone, or several looks are asked for.
        DataError: The store that is named is not there, or is of no use.
    """
    named = named_features(section)
    networks = frame_models(model, list(preprocessing))
    if named is not None and required and (networks is None or len(networks) > 1):
        raise ConfigError(
            f"clips.store: {named} holds features of frames, and this model has no frame backbone, or several streams"
        )
    if named is not None and required and views is not None:
        raise ConfigError(f"clips.store: {named} holds features of one view; take clips.store=auto, or --views 1x1")
    if views is None and networks is not None and (named is not None or section.store == "auto"):
        features = _stored_features(networks, section, clips, videos, preprocessing, root=root, folder=named)
        if features is not None:
            say_features(features, name)
            return features
        if required and named is not None:
            raise DataError(
                f"clips.store: {named} does not hold the features of all {len(clips):,} {name} clips; complete it with "
                "kinema data prepare --features, or take clips.store=auto"
            )
    if len(preprocessing) == 1:
        reader = clip_reader(section, clips, videos, preprocessing, root=root, name=name, views=views)
        say_frames(reader, name)
        return reader
    readers = {}
    for stream, settings in preprocessing.items():
        called = f"{name}, {stream}"
        readers[stream] = clip_reader(
            section, clips, videos, {stream: settings}, root=root, name=called, views=views, several=True
        )
        say_frames(readers[stream], called)
    return StreamsReader(readers)


def _stored_features(
    networks: Mapping[str, FrameModel],
    section: ClipsSection,
    clips: Sequence[Clip],
    videos: Mapping[Path, Video],
    preprocessing: Mapping[str, Preprocessing],
    *,
    root: Path | None,
    folder: Path | None,
) -> FeatureReader | StreamFeatures | None:
    """Features of every stream, where those of all clips are stored."""
    if len(networks) > 1 and (folder is not None or any(network.takes_maps for network in networks.values())):
        return None
    found: dict[str, FeatureReader] = {}
    stored_as: StoredAs | None = None
    for stream, network in networks.items():
        own = {stream: preprocessing[stream]}
        features = frozen_features(
            network.backbone,
            ClipReader(clips, videos, own, augmentation=None, seed=0, decoder=section.decoder),
            maps=network.takes_maps,
            batch_size=section.batch_size,
            workers=0,
            root=root,
            folder=folder,
            stored_as=stored_as,
            compute=False,
        )
        if features is None:
            return None
        stored_as = features.form.stored_as
        found[stream] = features
    return next(iter(found.values())) if len(found) == 1 else StreamFeatures(found)
