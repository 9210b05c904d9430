"""Which stores a list of clips is read from: what `clips.store` comes to."""

from __future__ import annotations

import copy
import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from kinema.data import frame_store, transcoded
from kinema.data.cache import cache_folder
from kinema.data.decoders import described
from kinema.data.frame_store import Files, FrameFormat, FrameStore
from kinema.data.loading import ClipReader
from kinema.data.shard_index import description
from kinema.data.shards import Store, is_store
from kinema.data.stored_video import stored_videos
from kinema.data.video import Video
from kinema.data.views import Views
from kinema.files import write_atomically
from kinema.sections import Augmentation, ClipsSection
from kinema.types import Clip, DataError, Preprocessing, only

log = logging.getLogger(__name__)

FOLDER: Final = "kinema-stores"
"""Where in the folder of a data set its stores are found without being named."""


_REFUSED: set[Path] = set()
"""Stores that were said not to be used."""


def clip_reader(
    section: ClipsSection,
    clips: Sequence[Clip],
    videos: Mapping[Path, Video],
    preprocessing: Mapping[str, Preprocessing],
    *,
    root: Path | None,
    augmentation: Augmentation | None = None,
    seed: int = 0,
    name: str = "clips",
    views: Views | None = None,
    several: bool = False,
) -> ClipReader:
    """What reads a list of clips: from stores, as far as `clips.store` asks for it and they hold it; logs what it took.

    Args:
        section: A recipe's `clips:`.
        clips: That can be read.
        videos: What probing their videos found.
        preprocessing: What frames have to be.
        root: Folder of the data set.
        augmentation: For training.
        seed: Of the augmentation.
        name: Of the list, for the log ("train").
        views: Looks at each clip, without augmentation. Stores of frames hold one, and are then of use only where they
            are named and can be cut again.
        several: The clips are read in other forms beside, of which the store that the recipe names may be.

    Raises:
        DataError: The store that the recipe names is not there, is damaged or of an unknown version.
    """
    reader = ClipReader(
        clips, videos, preprocessing, augmentation=augmentation, seed=seed, decoder=section.decoder, views=views
    )
    if section.store == "none" or not clips:
        return reader
    named = Store.open(section.store) if isinstance(section.store, Path) else None
    files = Files(root)
    if named is not None:
        named.check_lengths()
        if named.kind == transcoded.KIND:
            return _transcoded(named, reader, files)
    # A store of features says nothing about frames.
    stores = [named] if named is not None and named.kind == frame_store.KIND else known_stores(root, frame_store.KIND)
    fitting = [store for store in stores if _fits(store, section, only(preprocessing))]
    if fitting and views is None and not _is_endless(augmentation):
        ready = FrameStore(reader, fitting, files)
        if ready.num_held:
            return _ready(ready, reader)
    if named is not None and named.kind == frame_store.KIND:
        of_motion = only(preprocessing).motion is not None
        if of_motion or named.settings.get("motion") is not None:
            if several:  # it is of another stream
                return reader
            held = "frames" if named.settings.get("motion") is None else "fields of motion"
            read = "other fields of motion, or other cuts of them," if of_motion else "frames"
            raise DataError(
                f"clips.store: {named.folder} holds {held}, and what this recipe reads, {read} cannot be made of "
                "these; prepare it with --recipe, or take clips.store=auto or none"
            )
        _check_geometry(named, only(preprocessing))
        moves = views is not None or (augmentation is not None and augmentation.jitter)
        _check_window(named, only(preprocessing), moves=moves)
        return _cut_again(named, reader, root, name)
    return reader


def say_frames(reader: ClipReader, name: str) -> None:
    """Log what is read in place of the videos, where it is not these. Whoever begins to read says it: a reader whose
    clips' features are known reads nothing."""
    if reader.provenance:
        log.info("%s: %s", name, reader.provenance)


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
        return list(transcoded.videos(store, found, Files(root))[0].values())
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


def known_stores(root: Path | None, kind: str) -> list[Store]:
    """Stores of a data set that are found without being named: in its folder, and those that were noted. What is broken
    is passed over, and said once."""
    folders = []
    if root is not None:
        root = root.parent if root.is_file() else root
        with suppress(OSError):
            folders = sorted(path for path in (root / FOLDER).iterdir() if is_store(path))
    stores = []
    for folder in dict.fromkeys((*folders, *registered())):
        try:
            if description(folder)["kind"] != kind:  # before its index is read, which may be long
                continue
            store = Store.open(folder)
            store.check_lengths()
        except DataError as error:
            if folder not in _REFUSED:  # each split looks for stores
                log.warning("a store is not used: %s", error)
            _REFUSED.add(folder)
            continue
        stores.append(store)
    return stores


def _fits(store: Store, section: ClipsSection, preprocessing: Preprocessing) -> bool:
    """Whether there can be clips in it that are what would be decoded."""
    form = FrameFormat.of(preprocessing).facts
    settings = store.settings
    return settings.get("decoder") == described(section.decoder) and form == {name: settings.get(name) for name in form}


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


def _check_window(store: Store, preprocessing: Preprocessing, *, moves: bool) -> None:
    """A few frames of a stretch of each clip cannot stand for another stretch.

    Args:
        store: Of frames.
        preprocessing: What frames have to be.
        moves: Windows lie elsewhere than in the middle too.

    Raises:
        DataError: The store holds frames of one stretch, and another is seen.
    """
    there, here = store.settings.get("window_s"), preprocessing.window_s
    if "num_frames" not in store.settings or (there == here and (here is None or not moves)):
        return
    stored = "whole clips" if there is None else f"the middle {there:g} s of clips"
    seen = "whole clips" if here is None else f"{here:g} s of them" + (", anywhere in them" if moves else "")
    raise DataError(
        f"clips.store: {store.folder} holds {store.settings['num_frames']} frames of {stored}, and this model sees "
        f"{seen} (clips.window_s); prepare one of all moments with --rate, or one with --recipe"
    )


def _is_endless(augmentation: Augmentation | None) -> bool:
    """Whether every epoch takes other frames, or other parts of them."""
    return augmentation is not None and augmentation.num_views is None and augmentation.takes_others


def _ready(store: FrameStore, reader: ClipReader) -> ClipReader:
    share = "all" if store.whole else f"{store.num_held:,} of {len(reader) * (reader.num_views or 1):,}"
    used = ", ".join(str(one.folder) for one in store.stores)
    return _with(reader, store=store, provenance=f"{share} read from frames stored in {used}")


def _cut_again(store: Store, reader: ClipReader, root: Path | None, name: str) -> ClipReader:
    found = stored_videos(store, reader.clips, reader.videos, root=root)
    if found.num_stale:
        log.warning(
            "%s: the files of %d clips have changed since they were stored in %s; they are read from these files",
            name,
            found.num_stale,
            store.folder,
        )
    provenance = (
        f"{found.num_stored:,} of {len(reader):,} clips are cut out of the frames stored in {store.folder}, which have "
        "been scaled once before"
    )
    source = found.fingerprint if found.num_stored else None
    return _with(reader, clips=found.clips, videos=found.videos, source=source, provenance=provenance)


def _transcoded(store: Store, reader: ClipReader, files: Files) -> ClipReader:
    videos, fingerprint = transcoded.videos(store, reader.videos, files)
    num = sum(videos[path] is not video for path, video in reader.videos.items())
    provenance = f"{num:,} of {len(videos):,} videos are read as transcoded in {store.folder}"
    return _with(reader, videos=videos, source=fingerprint if num else None, provenance=provenance)


def _with(reader: ClipReader, **changes: Any) -> ClipReader:
    changed = copy.copy(reader)
    vars(changed).update(changes)
    return changed
