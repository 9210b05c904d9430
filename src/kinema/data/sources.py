"""Which stores a list of clips is read from: what `clips.store` comes to."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kinema.data import frame_store, transcoded
from kinema.data.cache import cache_folder
from kinema.data.frame_store import Files, FrameFormat, FrameStore
from kinema.data.reading import ClipPlan, plan_of_view
from kinema.data.shards import Store, is_store
from kinema.data.stored_video import stored_videos
from kinema.data.video import Video
from kinema.files import write_atomically
from kinema.sections import Augmentation, ClipsSection
from kinema.types import Clip, DataError, Preprocessing

log = logging.getLogger(__name__)

FOLDER: Final = "kinema-stores"
"""Where in the folder of a data set its stores are found without being named."""


_REFUSED: set[Path] = set()
"""Stores that were said not to be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What a list of clips is read from.

    Attributes:
        clips: To be given to a reader: as long as the list, in the same order, with the same labels.
        videos: Likewise.
        store: Likewise; None where no clip lies ready.
    """

    clips: list[Clip]
    videos: dict[Path, Video]
    store: FrameStore | None = None


def find_source(
    section: ClipsSection,
    clips: Sequence[Clip],
    videos: Mapping[Path, Video],
    preprocessing: Preprocessing,
    *,
    root: Path | None,
    augmentation: Augmentation | None = None,
    seed: int = 0,
    name: str = "clips",
) -> Source:
    """Take a list of clips from stores, as far as `clips.store` asks for it and they hold it; logs what it took.

    Args:
        section: A recipe's `clips:`.
        clips: That can be read.
        videos: What probing their videos found.
        preprocessing: What frames have to be.
        root: Folder of the data set.
        augmentation: Of the reader.
        seed: Of the reader.
        name: Of the list, for the log ("train").

    Raises:
        DataError: The store that the recipe names is not there, is damaged or of an unknown version.
    """
    unchanged = Source(clips=list(clips), videos=dict(videos))
    if section.store == "none" or not clips:
        return unchanged
    files = Files(root)
    if isinstance(section.store, Path):
        store = Store.open(section.store)
        store.check_lengths()
        if store.kind == transcoded.KIND:
            return _transcoded(store, unchanged, files, name)
        if store.kind != frame_store.KIND:
            return unchanged
        stores = [store]
    else:
        stores = list(_known(root))
    fitting = [store for store in stores if _fits(store, section, preprocessing)]
    exact = FrameStore(fitting, files)
    if fitting and not _is_endless(augmentation):
        plans = _plans(clips, videos, preprocessing, augmentation, seed)
        num_held = sum(exact.holds(clip, plan, preprocessing) for clip, plan in plans)
        if num_held:
            return _ready(exact, unchanged, num_held, len(plans), name)
    if isinstance(section.store, Path):
        _check_geometry(stores[0], preprocessing)
        return _cut_again(stores[0], unchanged, root, name)
    return unchanged


def videos_read(
    section: ClipsSection, clips: Sequence[Clip], videos: Mapping[Path, Video], *, root: Path | None
) -> list[Video]:
    """The videos that a list of clips is read from, those in the store that `clips.store` names in place of what they
    were made of.

    Raises:
        DataError: That store is not there, is damaged or of an unknown version.
    """
    found = {clip.video: videos[clip.video] for clip in clips}
    if not isinstance(section.store, Path):
        return list(found.values())
    store = Store.open(section.store)
    if store.kind == transcoded.KIND:
        return list(transcoded.videos(store, found, Files(root)).values())
    if store.kind == frame_store.KIND:
        return list(stored_videos(store, clips, videos, root=root).videos.values())
    return list(found.values())


def register(folder: Path) -> None:
    """Note where a store is, so that `clips.store: auto` finds it. Where that cannot be noted it is not found, and
    that is all."""
    place = str(folder.absolute())
    name = hashlib.blake2b(os.fsencode(place), digest_size=8).hexdigest()
    with suppress(OSError):
        (cache_folder() / "stores").mkdir(parents=True, exist_ok=True)
        write_atomically(cache_folder() / "stores" / name, os.fsencode(place))


def registered() -> list[Path]:
    """Stores that were noted and are still there."""
    try:
        found = [Path(os.fsdecode(file.read_bytes())) for file in sorted((cache_folder() / "stores").iterdir())]
    except OSError:
        return []
    return [folder for folder in found if is_store(folder)]


def known_folders(root: Path | None) -> list[Path]:
    """Stores of a data set that are found without being named: in its folder, and those that were noted."""
    folders = []
    if root is not None:
        root = root.parent if root.is_file() else root
        with suppress(OSError):
            folders = sorted(path for path in (root / FOLDER).iterdir() if is_store(path))
    return list(dict.fromkeys((*folders, *registered())))


def _known(root: Path | None) -> Sequence[Store]:
    stores = []
    for folder in known_folders(root):
        try:
            store = Store.open(folder)
            store.check_lengths()
        except DataError as error:
            if folder not in _REFUSED:  # each split looks for stores
                log.warning("a store is not used: %s", error)
            _REFUSED.add(folder)
            continue
        if store.kind == frame_store.KIND:
            stores.append(store)
    return stores


def _fits(store: Store, section: ClipsSection, preprocessing: Preprocessing) -> bool:
    """Whether there can be clips in it that are what would be decoded."""
    form = FrameFormat.of(preprocessing).facts
    settings = store.settings
    return settings.get("decoder") == section.decoder and form == {name: settings.get(name) for name in form}


def _check_geometry(store: Store, preprocessing: Preprocessing) -> None:
    """Squares can be cut again only out of squares that show the same of a frame.

    Raises:
        DataError: The store holds squares that show something else.
    """
    form = store.settings
    size_px, fit, resize_px = form.get("size_px"), form.get("fit"), int(form.get("resize_px") or 0)
    if size_px is None:
        return
    same = fit == preprocessing.fit and resize_px * preprocessing.size_px == size_px * preprocessing.resize_px
    if not same:
        raise DataError(
            f"clips.store: {store.folder} holds squares of another cut (fit {fit}, {size_px} of {resize_px} px) than "
            f"this model sees (fit {preprocessing.fit}, {preprocessing.size_px} of {preprocessing.resize_px} px); "
            "prepare one with --recipe, or one of whole frames with --short-side"
        )


def _is_endless(augmentation: Augmentation | None) -> bool:
    """Whether every epoch takes other frames, or other parts of them."""
    if augmentation is None or augmentation.num_views is not None:
        return False
    return augmentation.jitter or augmentation.min_scale < 1


def _plans(
    clips: Sequence[Clip],
    videos: Mapping[Path, Video],
    preprocessing: Preprocessing,
    augmentation: Augmentation | None,
    seed: int,
) -> list[tuple[Clip, ClipPlan]]:
    """All that a reader may be asked for."""
    num_views = 1 if augmentation is None else augmentation.num_views or 1
    return [
        (
            clip,
            plan_of_view(
                clip,
                videos[clip.video],
                preprocessing,
                index=index,
                view=view,
                augmentation=augmentation,
                seed=seed,
            )[0],
        )
        for index, clip in enumerate(clips)
        for view in range(num_views)
    ]


def _ready(store: FrameStore, source: Source, num_held: int, num: int, name: str) -> Source:
    whole = num_held == num
    store.whole = whole
    used = ", ".join(str(one.folder) for one in store.stores)
    log.info("%s: %s read from frames stored in %s", name, "all" if whole else f"{num_held:,} of {num:,}", used)
    return Source(clips=source.clips, videos=source.videos, store=store)


def _cut_again(store: Store, source: Source, root: Path | None, name: str) -> Source:
    found = stored_videos(store, source.clips, source.videos, root=root)
    num = len(source.clips)
    if found.num_stale:
        log.warning(
            "%s: the files of %d clips have changed since they were stored in %s; they are read from these files",
            name,
            found.num_stale,
            store.folder,
        )
    log.info(
        "%s: %s of %s clips are cut out of the frames stored in %s, which have been scaled once before",
        name,
        f"{found.num_stored:,}",
        f"{num:,}",
        store.folder,
    )
    return Source(clips=found.clips, videos=found.videos)


def _transcoded(store: Store, source: Source, files: Files, name: str) -> Source:
    videos = transcoded.videos(store, source.videos, files)
    num = sum(videos[path] is not video for path, video in source.videos.items())
    log.info("%s: %s of %s videos are read as transcoded in %s", name, f"{num:,}", f"{len(videos):,}", store.folder)
    return Source(clips=source.clips, videos=videos)
