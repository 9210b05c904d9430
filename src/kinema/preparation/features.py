"""The features of a frozen backbone, computed once.

Training on them gives what training through the backbone gives, to the precision in which they are stored: the clips'
random versions are drawn as they would be there, and the backbone, being frozen, always answers the same. Whatever
interrupts the computation, it goes on where it was.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kinema.data.cache import cache_folder
from kinema.data.device import to_model_input
from kinema.data.loading import Batch, ClipReader, clip_loader
from kinema.data.shards import ShardWriter, Store, is_store
from kinema.data.sources import known_folders, register
from kinema.models.layers.backbone import FrameBackbone
from kinema.preparation.feature_store import KIND, FeatureFormat, FeatureReader, StoredAs, clip_keys
from kinema.preparation.frames import Stored
from kinema.preparation.room import check_room
from kinema.progress import SILENT, Reporter
from kinema.types import DataError
from kinema.wording import byte_size

log = logging.getLogger(__name__)

_LARGEST_BYTES = 2 * 2**30
"""More than this is not written into the user's cache unasked."""

_CACHE_SHARDS = 8
"""Processes that may write into one store of the cache at a time."""


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
    job = _Job(backbone, form, folder, batch_size=batch_size, workers=workers, reporter=reporter)
    failures, num_asked = dict[str, str](), 0
    with _writer(folder, form, shard) as writer:
        parts = []
        for reader in readers:
            keys, missing = clip_keys(reader, root=root)
            failures |= {reader.clips[index].clip_id: reason for index, reason in missing.items()}
            asked = _part(keys, missing, shard)
            num_asked += len(asked)
            parts.append((reader, [item for item in asked if item.key not in writer]))
        pending = {item.key for _, items in parts for item in items}
        check_room(folder, len(pending) * form.num_bytes, f"{len(pending):,} clips")
        num_new = 0
        for reader, items in parts:
            items = [item for item in items if item.key not in writer]  # one split may hold what another does
            unreadable = job.run(reader, items, writer, "computing features")
            failures |= {reader.clips[index].clip_id: reason for index, reason in unreadable.items()}
            num_new += sum(item.index not in unreadable for item in items)
    register(folder)
    num_before = num_asked - sum(len(items) for _, items in parts)
    return Stored(
        num_asked=num_asked,
        num_before=num_before,
        num_new=num_new,
        num_bytes=num_new * form.num_bytes,
        failures=failures,
    )


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
    description: str = "computing features",
    reporter: Reporter = SILENT,
) -> FeatureReader | None:
    """Features of all clips of a reader in all their versions. Those that were computed before are taken, the others
    computed.

    Args:
        backbone: Frozen, on the device to use.
        reader: Of a number of versions that is known (`num_views`).
        batch_size: Clips at once.
        workers: Processes that read clips.
        root: Folder of the data set.
        folder: A store; by default one that was prepared, or else one in the cache, in fp16.
        stored_as: Take no store of other numbers: those that a run was begun with.
        maps: Features before they are averaged over the frame.
        description: What the reporter shows.
        reporter: Where to show progress.

    Returns:
        None, and a message that says why, where they cannot be kept in the cache: there is no room, or they would be
        too many to be written unasked. With a `folder`, never.

    Raises:
        DataError: The store in `folder` is of something else, or what it lacks cannot be written there.
    """
    assert backbone.frozen
    form = FeatureFormat.of(backbone, reader, maps=maps)
    if folder is not None:
        form = _agreed(folder, form)
    keys, failures = clip_keys(reader, root=root)
    if folder is None:
        prepared = _prepared(form, _wanted(keys, failures), root, stored_as)
        if prepared is not None:
            return FeatureReader(prepared, replace(form, stored_as=_stored_as(prepared)), keys, reader, failures)
        if stored_as not in (None, form.stored_as):
            log.warning("features are not kept: the run was begun with a store of %s, which is not there", stored_as)
            return None
    job = _Job(backbone, form, folder or _cached(form), batch_size=batch_size, workers=workers, reporter=reporter)
    try:
        store = _complete(job, reader, keys, failures, description, unasked=folder is None)
    except DataError as error:
        if folder is not None:
            raise
        log.warning("features are not kept: %s", error)
        return None
    return None if store is None else FeatureReader(store, form, keys, reader, failures)


def _cached(form: FeatureFormat) -> Path:
    return cache_folder() / "features" / form.fingerprint


def _agreed(folder: Path, form: FeatureFormat) -> FeatureFormat:
    """The format with the number type of a store, whose other settings have to be the same."""
    store = Store.open(folder, kind=KIND)
    store.check_lengths()
    form = replace(form, stored_as=_stored_as(store))
    difference = form.difference(store.settings)
    if difference is not None:
        raise DataError(f"clips.store: {folder} holds features of something else: {difference}")
    return form


def _stored_as(store: Store) -> StoredAs:
    return "fp32" if store.settings.get("stored_as") == "fp32" else "fp16"


def _prepared(
    form: FeatureFormat, wanted: NDArray[np.uint8], root: Path | None, stored_as: StoredAs | None
) -> Store | None:
    """A store that somebody has prepared of exactly this, with every clip in it."""
    for folder in known_folders(root):
        try:
            store = Store.open(folder)
            store.check_lengths()
        except DataError as error:
            log.warning("a store is not used: %s", error)
            continue
        if store.kind != KIND or replace(form, stored_as=_stored_as(store)).difference(store.settings) is not None:
            continue
        if stored_as not in (None, _stored_as(store)):
            continue
        num_there = sum(key.tobytes() in store for key in wanted)
        if num_there == len(wanted):
            return store
        log.info("%s: holds features of %d of %d clips, and is not used", folder, num_there, len(wanted))
    return None


def _complete(
    job: _Job,
    reader: ClipReader,
    keys: NDArray[np.uint8],
    failures: dict[int, str],
    description: str,
    *,
    unasked: bool,
) -> Store | None:
    """The store with everything in it that can be read; the rest is added to `failures`."""
    wanted = _wanted(keys, failures)
    store = _opened(job.folder, wanted, throw_away=unasked)
    if store is not None and all(key.tobytes() in store for key in wanted):
        return store
    if unasked:
        num_bytes = len(wanted) * job.form.num_bytes
        if num_bytes > _LARGEST_BYTES:
            log.info(
                "features are not kept: they would take %s in %s. kinema data prepare --features stores them "
                "where you like, and clips.store=STORE reads them",
                byte_size(num_bytes),
                job.folder.parent,
            )
            return None
    what = f"the features of {len(wanted):,} clips"
    if not is_store(job.folder):  # nothing is left behind where there is no room
        check_room(job.folder, len(wanted) * job.form.num_bytes, what)
    with _writer(job.folder, job.form, (1, _CACHE_SHARDS) if unasked else (1, 1), others=unasked) as writer:
        pending = [item for item in _part(keys, failures, (1, 1)) if item.key not in writer]
        check_room(job.folder, len(pending) * job.form.num_bytes, what)
        failures.update(job.run(reader, pending, writer, description))
    return Store.open(job.folder, kind=KIND)


def _opened(folder: Path, wanted: NDArray[np.uint8], *, throw_away: bool) -> Store | None:
    """The store, if there is one. One in the cache that is broken is thrown away."""
    if not folder.exists():
        return None
    try:
        store = Store.open(folder, kind=KIND)
        for key in wanted:
            if key.tobytes() in store:
                store.get(key.tobytes())  # finds out whether its file is as long as it was
        return store
    except DataError as error:
        if not throw_away:
            raise
        log.warning("stored features are broken and computed again: %s", error)
        shutil.rmtree(folder, ignore_errors=True)
        return None


def _writer(folder: Path, form: FeatureFormat, shard: tuple[int, int], *, others: bool = False) -> ShardWriter:
    """A writer of one shard; with `others`, of the first that no other process is writing."""
    number, count = shard
    while True:
        try:
            return ShardWriter(folder, kind=KIND, settings=form.facts, shard=(number, count))
        except DataError as error:
            if not others or number == count or "another process" not in str(error):
                raise
            number += 1


@dataclass(frozen=True, slots=True)
class _Pending:
    """A version of a clip that is to be computed."""

    index: int
    view: int
    key: bytes


def _wanted(keys: NDArray[np.uint8], failures: dict[int, str]) -> NDArray[np.uint8]:
    usable = np.ones(keys.shape[1], dtype=bool)
    usable[list(failures)] = False
    return keys[:, usable].reshape(-1, keys.shape[2])


def _part(keys: NDArray[np.uint8], failures: dict[int, str], shard: tuple[int, int]) -> list[_Pending]:
    """What falls to one job: versions that are the same, such as one clip listed twice, once."""
    number, count = shard
    found: dict[bytes, _Pending] = {}
    for view, of_view in enumerate(keys):
        for index, row in enumerate(of_view):
            key = row.tobytes()
            if int.from_bytes(key[:8], "little") % count == number - 1 and index not in failures:
                found.setdefault(key, _Pending(index, view, key))
    return list(found.values())


class _PendingOrder:
    """Batches of what is to be computed, as a loader takes them: (index, epoch), where epoch is the version."""

    def __init__(self, pending: Sequence[_Pending], batch_size: int) -> None:
        self.batch_size = batch_size
        # One version of a clip at a time: a batch says of its clips which they are, and not of which version.
        self.batches = []
        for view in sorted({item.view for item in pending}):
            of_view = [item for item in pending if item.view == view]
            self.batches += [of_view[start : start + batch_size] for start in range(0, len(of_view), batch_size)]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for batch in self.batches:
            yield [(item.index, item.view) for item in batch]


@dataclass(frozen=True)
class _Job:
    """Computes features and writes them."""

    backbone: FrameBackbone
    form: FeatureFormat
    folder: Path
    batch_size: int
    workers: int
    reporter: Reporter

    def run(
        self, reader: ClipReader, pending: Sequence[_Pending], writer: ShardWriter, description: str
    ) -> dict[int, str]:
        """Compute and write. Index -> why a clip cannot be read."""
        failures: dict[int, str] = {}
        if not pending:
            return failures
        device = next(self.backbone.parameters()).device
        order = _PendingOrder(pending, self.batch_size)
        num_wanted = len(reader) * (reader.num_views or 1)
        with (
            torch.inference_mode(),
            self.reporter.track(description, total=num_wanted, unit="clips", done=num_wanted - len(pending)) as task,
            clip_loader(reader, order, workers=self.workers, pin_memory=device.type == "cuda") as loader,
        ):
            for items, batch in zip(order.batches, loader, strict=True):
                failures |= batch.failures
                if len(batch):
                    keys = {item.index: item for item in items}
                    values = self._features(batch.to(device), reader)
                    for index, value in zip(batch.indices.tolist(), values, strict=True):
                        meta = {"clip": reader.clips[index].clip_id, "view": keys[index].view}
                        writer.append(keys[index].key, np.ascontiguousarray(value), meta)
                task.advance(len(items))
        return failures

    def _features(self, batch: Batch, reader: ClipReader) -> NDArray[np.float16] | NDArray[np.float32]:
        """(B, *shape), as they are stored. On a CPU clip by clip: what fits its caches is faster than what is many.

        Raises:
            DataError: A number is too large for fp16.
        """
        at_once = 1 if batch.streams["rgb"].device.type == "cpu" else len(batch)
        found: list[Tensor] = []
        for start in range(0, len(batch), at_once):
            rows = slice(start, start + at_once)
            colour = None if batch.colour is None else batch.colour[rows]
            flip = None if batch.flip is None else batch.flip[rows]
            streams = {stream: frames[rows] for stream, frames in batch.streams.items()}
            frames = to_model_input(streams, reader.preprocessing, colour=colour, flip=flip)["rgb"]
            run = self.backbone.maps if self.form.is_maps else self.backbone
            found.append(run(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).float().cpu())
        exact = torch.cat(found).numpy()
        with np.errstate(over="ignore"):
            values = exact.astype(self.form.dtype)
        if not np.isfinite(values).all() and np.isfinite(exact).all():
            raise DataError(f"{self.folder}: the features of {self.backbone.name} are too large for fp16; store fp32")
        return values
