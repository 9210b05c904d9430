"""The features of a frozen backbone, computed once.

Training on them gives what training through the backbone gives, to the precision in which they are stored: the clips'
random versions are drawn as they would be there, and the backbone, being frozen, always answers the same. Whatever
interrupts the computation, it goes on where it was.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kinema.data.cache import cache_folder
from kinema.data.device import to_model_input
from kinema.data.frame_store import Files
from kinema.data.loading import Batch, ClipReader, clip_loader
from kinema.data.places import Places
from kinema.data.shards import Store, is_store
from kinema.data.sources import known_stores, register, say_frames
from kinema.files import locked
from kinema.models.layers.backbone import FrameBackbone
from kinema.preparation.feature_store import KIND, FeatureFormat, FeatureReader, StoredAs, clip_keys
from kinema.preparation.storing import Entry, Stored, Storing, storing
from kinema.progress import SILENT, Reporter, Task
from kinema.types import DataError, Preprocessing, only
from kinema.wording import byte_size

log = logging.getLogger(__name__)

LARGEST_BYTES = 2 * 2**30
"""More than this is not written into the user's cache unasked."""


def prepare_features(
    backbone: FrameBackbone,
    readers: Sequence[ClipReader],
    folder: Path,
    *,
    root: Path | None,
    stored_as: StoredAs = "fp16",
    maps: bool = False,
    batch_size: int,
    workers: int,
    shard: tuple[int, int] = (1, 1),
    reporter: Reporter = SILENT,
) -> Stored:
    """Compute the features of all versions of all clips and store them; what is stored already is not computed again.

    Args:
        backbone: Frozen, on the device to use.
        readers: Of the same preprocessing, each of a number of versions that is known.
        folder: The store.
        root: Folder of the data set.
        stored_as: Type of the numbers.
        maps: Store features before they are averaged over the frame.
        batch_size: Clips at once.
        workers: Processes that read clips.
        shard: (i, n): only what falls to job i, from 1, of n.
        reporter: Where to show progress.

    Raises:
        ConfigError: Maps are asked for, and the backbone has none.
        DataError: The folder holds another store, or cannot be written, or there is no room for what is missing.
    """
    form = FeatureFormat.of(backbone, readers[0], stored_as=stored_as, maps=maps)
    files = Files(root)
    failures: dict[str, str] = {}
    entries: dict[bytes, _Version] = {}
    for reader in readers:
        keys, unreadable = clip_keys(reader, files)
        failures |= {reader.clips[index].clip_id: reason for index, reason in unreadable.items()}
        for version in _versions(reader, keys, unreadable):
            entries.setdefault(version.key, version)  # one split may hold what another does
    computing = _Computing(backbone=backbone, form=form, batch_size=batch_size, workers=workers, reporter=reporter)
    job = computing.run(list(entries.values()), folder, files, shard=shard, description="computing features")
    register(folder)
    done = job.result()
    return replace(done, failures={**failures, **done.failures})


def frozen_features(
    backbone: FrameBackbone,
    reader: ClipReader,
    *,
    batch_size: int,
    workers: int,
    root: Path | None = None,
    folder: Path | None = None,
    stored_as: StoredAs | None = None,
    maps: bool = False,
    compute: bool = True,
    name: str = "given",
    reporter: Reporter = SILENT,
) -> FeatureReader | None:
    """Features of all clips of a reader in all their versions. Those that were computed before are taken, the others
    computed and kept in the cache: no store that somebody has prepared is written to.

    Args:
        backbone: Frozen, on the device to use.
        reader: Of a number of versions that is known (`num_views`).
        batch_size: Clips at once.
        workers: Processes that read clips.
        root: Folder of the data set.
        folder: A store; by default those that were prepared, and that in the cache.
        stored_as: Take no store of other numbers: those that a run was begun with.
        maps: Features before they are averaged over the frame.
        compute: Whether to compute any.
        name: Of the list of clips, for the log and the reporter ("train").
        reporter: Where to show progress.

    Returns:
        None, and a message that says why, where they cannot be kept in the cache: there is no room, or they would be
        too many to be written unasked. Without `compute`, where any is missing.

    Raises:
        DataError: The store in `folder` is of something else; or it lacks some that cannot be kept.
    """
    files = Files(root)
    keys, failures = clip_keys(reader, files)
    form, stores = _found(FeatureFormat.of(backbone, reader, maps=maps), folder, root, keys, stored_as)
    places = Places(stores, keys)
    missing = [version for version in _versions(reader, keys, failures) if not places.held[version.view, version.index]]
    if missing and not compute:
        return None
    if missing:
        if folder is not None:
            log.info(
                "%s lacks features of %s clips; they are computed, and kept in the cache", folder, f"{len(missing):,}"
            )
        say_frames(reader, name)
        computing = _Computing(backbone=backbone, form=form, batch_size=batch_size, workers=workers, reporter=reporter)
        try:
            _check_size(form, len(missing))
            description = f"features of {name} clips"
            # Of several runs at a time that want the same, one computes; the others find it.
            with locked(cache_folder() / "locks" / form.fingerprint, wait=True):
                job = computing.run(missing, _cached(form), files, shard=None, description=description)
            places = Places([*stores, *_in_cache(form)], keys)
        except DataError as error:
            if folder is not None:
                raise DataError(
                    f"clips.store: {folder} lacks features of {len(missing):,} clips, and they are not kept in the "
                    f"cache: {error}; complete the store with kinema data prepare --features"
                ) from None
            log.warning("features are not kept: %s", error)
            return None
        # Those that could not be read and may be another time: the others are in the store.
        failures |= {
            index: job.failures[clip.clip_id] for index, clip in enumerate(reader.clips) if clip.clip_id in job.failures
        }
    return FeatureReader(places, form, reader.clips, failures)


def _check_size(form: FeatureFormat, num_clips: int) -> None:
    """What is not asked for has to be small.

    Raises:
        DataError: It is not.
    """
    num_bytes = num_clips * form.num_bytes
    if num_bytes > LARGEST_BYTES:
        raise DataError(
            f"they would take {byte_size(num_bytes)} in {_cached(form).parent}; kinema data prepare --features stores "
            "them where you like"
        )


def _found(
    form: FeatureFormat, folder: Path | None, root: Path | None, keys: NDArray[np.uint8], stored_as: StoredAs | None
) -> tuple[FeatureFormat, list[Store]]:
    """Where features may lie already, all in numbers of one type: those of the store that is named, else those in
    which most of them are."""
    if folder is not None:
        named = _agreed(folder, form)
        form = replace(form, stored_as=_stored_as(named))
        return form, [named, *_in_cache(form)]
    prepared = _prepared(form, root)
    best: tuple[int, FeatureFormat, list[Store]] = 0, replace(form, stored_as=stored_as or form.stored_as), []
    types: tuple[StoredAs, ...] = ("fp16", "fp32")
    for kind in types if stored_as is None else (stored_as,):
        of_kind = replace(form, stored_as=kind)
        stores = [*(store for store in prepared if _stored_as(store) == kind), *_in_cache(of_kind)]
        num_held = int(Places(stores, keys).held.sum())
        if num_held and num_held >= best[0]:
            best = num_held, of_kind, stores
    return best[1:]


def _agreed(folder: Path, form: FeatureFormat) -> Store:
    """A store that is named, whose settings but for the type of numbers have to be these."""
    store = Store.open(folder, kind=KIND)
    store.check_lengths()
    has_maps = len(store.settings.get("shape", ())) == 4
    if has_maps != form.is_maps:
        held, wanted = ("feature maps", "without") if has_maps else ("features averaged over the frame", "with")
        raise DataError(
            f"clips.store: {folder} holds {held}, which this model does not take; prepare it {wanted} --maps"
        )
    difference = replace(form, stored_as=_stored_as(store)).difference(store.settings)
    if difference is not None:
        raise DataError(f"clips.store: {folder} holds features of something else: {difference}")
    return store


def _prepared(form: FeatureFormat, root: Path | None) -> list[Store]:
    """Stores that somebody has prepared of exactly this."""
    return [
        store
        for store in known_stores(root, KIND)
        if replace(form, stored_as=_stored_as(store)).difference(store.settings) is None
    ]


def _stored_as(store: Store) -> StoredAs:
    return "fp32" if store.settings.get("stored_as") == "fp32" else "fp16"


def _cached(form: FeatureFormat) -> Path:
    return cache_folder() / "features" / form.fingerprint


def _in_cache(form: FeatureFormat) -> list[Store]:
    """The store in the cache, if there is one. One that is broken is thrown away."""
    folder = _cached(form)
    if not is_store(folder):  # or not yet: another run may be about to begin one
        return []
    try:
        store = Store.open(folder, kind=KIND)
        store.check_lengths()
        return [store]
    except DataError as error:
        log.warning("stored features are broken and computed again: %s", error)
        shutil.rmtree(folder, ignore_errors=True)
        return []


@dataclass(frozen=True, slots=True, kw_only=True)
class _Version(Entry):
    """A version of a clip whose features are to be stored."""

    reader: ClipReader
    index: int
    view: int


def _versions(reader: ClipReader, keys: NDArray[np.uint8], unreadable: Mapping[int, str]) -> list[_Version]:
    """Versions that are the same, such as one clip listed twice, once."""
    found: dict[bytes, _Version] = {}
    for view, of_view in enumerate(keys):
        for index, row in enumerate(of_view):
            if index not in unreadable:
                clip, key = reader.clips[index], row.tobytes()
                version = _Version(key=key, name=clip.clip_id, path=clip.video, reader=reader, index=index, view=view)
                found.setdefault(key, version)
    return list(found.values())


class _Order:
    """Batches of what is to be computed, as a loader takes them: (index, epoch), where epoch is the version."""

    def __init__(self, versions: Mapping[int, _Version], batch_size: int) -> None:
        self.batch_size = batch_size
        self._versions = versions
        # One version of a clip at a time: a batch says of its clips which they are, and not of which version.
        self.batches: list[list[int]] = []
        for view in sorted({version.view for version in versions.values()}):
            places = [place for place, version in versions.items() if version.view == view]
            self.batches += [places[start : start + batch_size] for start in range(0, len(places), batch_size)]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for places in self.batches:
            yield [(self._versions[place].index, self._versions[place].view) for place in places]


@dataclass(frozen=True, kw_only=True)
class _Computing:
    """Computes features and stores them."""

    backbone: FrameBackbone
    form: FeatureFormat
    batch_size: int
    workers: int
    reporter: Reporter

    def run(
        self,
        versions: Sequence[_Version],
        folder: Path,
        files: Files,
        *,
        shard: tuple[int, int] | None,
        description: str,
    ) -> Storing:
        """Compute what is missing in a store, and store it."""
        with storing(
            versions,
            folder,
            kind=KIND,
            settings=self.form.facts,
            files=files,
            shard=shard,
            estimate=lambda places: len(places) * self.form.num_bytes,
            unit="clips",
        ) as job:
            total, num_todo = len(job.part), len(job.todo)
            with self.reporter.track(description, total=total, unit="clips", done=total - num_todo) as task:
                for reader in dict.fromkeys(version.reader for version in versions):
                    places = [place for place in job.todo if versions[place].reader is reader]
                    self._compute(reader, {place: versions[place] for place in places}, job, task)
        return job

    def _compute(self, reader: ClipReader, versions: Mapping[int, _Version], job: Storing, task: Task) -> None:
        if not versions:
            return
        on_gpu = next(self.backbone.parameters()).device.type == "cuda"
        order = _Order(versions, self.batch_size)
        with (
            torch.inference_mode(),
            clip_loader(reader, order, workers=self.workers, pin_memory=on_gpu) as loader,
        ):
            for places, batch in zip(order.batches, loader, strict=True):
                place_of = {versions[place].index: place for place in places}
                for index, reason in batch.failures.items():
                    job.fail(place_of[index], reason)
                values = self._features(batch, reader.preprocessing) if len(batch) else ()
                for index, value in zip(batch.indices.tolist(), values, strict=True):
                    place = place_of[index]
                    meta = {"clip": versions[place].name, "view": versions[place].view}
                    job.add(place, np.ascontiguousarray(value), meta)
                task.advance(len(places))

    def _features(
        self, batch: Batch, preprocessing: Mapping[str, Preprocessing]
    ) -> NDArray[np.float16] | NDArray[np.float32]:
        """(B, *shape), as they are stored. On a CPU clip by clip: what fits its caches is faster than what is many.

        Raises:
            DataError: A number is too large for fp16.
        """
        batch = batch.to(next(self.backbone.parameters()).device)
        at_once = 1 if only(batch.streams).device.type == "cpu" else len(batch)
        found: list[Tensor] = []
        for start in range(0, len(batch), at_once):
            rows = slice(start, start + at_once)
            colour = None if batch.colour is None else batch.colour[rows]
            flip = None if batch.flip is None else batch.flip[rows]
            streams = {stream: frames[rows] for stream, frames in batch.streams.items()}
            changes = None if batch.changes is None else batch.changes[rows]
            frames = only(to_model_input(streams, preprocessing, colour=colour, flip=flip, changes=changes))
            run = self.backbone.maps if self.form.is_maps else self.backbone
            found.append(run(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).float().cpu())
        exact = torch.cat(found).numpy()
        with np.errstate(over="ignore"):
            values = exact.astype(self.form.dtype)
        if not np.isfinite(values).all() and np.isfinite(exact).all():
            raise DataError(f"the features of {self.backbone.name} are too large for fp16; store fp32")
        return values
