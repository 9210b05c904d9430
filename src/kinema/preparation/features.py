"""The features of a frozen backbone, computed once.

Training on them gives what training through the backbone gives, to the precision of fp16: the clips' random versions
are drawn as they would be there, and the backbone, being frozen, always answers the same.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import logging
import os
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kinema.data.device import to_model_input
from kinema.data.loading import Batch, ClipReader, Drawn, EpochOrder, Layout, clip_loader
from kinema.data.probing import cache_folder
from kinema.models.frame_model import FrameModel
from kinema.progress import SILENT, Reporter
from kinema.types import fingerprint

log = logging.getLogger(__name__)

_LARGEST_BYTES = 2 * 2**30
"""More than this is not written into the user's cache unasked."""


class FeatureReader:
    """Reads features in place of clips; made to be used with `kinema.data.loading.clip_loader`.

    Args:
        features: From `frozen_features`: (views, clips, T, D).
        reader: What they were computed from.
    """

    def __init__(self, features: NDArray[np.float16], reader: ClipReader) -> None:
        self.features = features
        self.clips = reader.clips

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def in_processes(self) -> bool:
        """Reading is a memory copy."""
        return False

    def layout(self) -> Layout:
        """Shape and type of the features of one clip."""
        return {"features": (self.features.shape[2:], self.features.dtype)}

    def read(self, index: int, epoch: int, out: Mapping[str, NDArray[Any]]) -> Drawn:
        """Write the features of a clip, as they are in an epoch."""
        out["features"][...] = self.features[epoch % len(self.features), index]
        return Drawn()


class _UnreadableClipError(Exception):
    """A clip that cannot be read has no features; what is then to be done is not for this module to decide."""


def frozen_features(
    model: FrameModel,
    reader: ClipReader,
    *,
    batch_size: int,
    workers: int,
    description: str = "computing features",
    reporter: Reporter = SILENT,
) -> NDArray[np.float16] | None:
    """Features of all clips of a reader in all their versions, from the cache if they were computed before.

    Args:
        model: With a frozen backbone, on the device to use.
        reader: Of a number of versions that is known (`num_views`).
        batch_size: Clips at once.
        workers: Processes that read clips.
        description: What the reporter shows.
        reporter: Where to show progress.

    Returns:
        (views, clips, T, D), memory-mapped. None, and a message that says why, where they cannot be had: there is no
        room, they would be too many to be written unasked, or a clip cannot be read.
    """
    num_views = reader.num_views
    assert model.backbone.frozen
    assert num_views is not None
    num_frames = reader.preprocessing["rgb"].num_frames
    shape = (num_views, len(reader), num_frames, model.backbone.num_features)
    num_bytes = 2 * int(np.prod(shape))
    try:
        path = cache_folder() / "features" / f"{_key(model, reader)}.npy"
    except OSError as error:
        log.warning("features are not kept, a clip cannot be read: %s: %s", error.filename, error.strerror or error)
        return None
    values = _stored(path, shape)
    if values is None:
        if num_bytes > _LARGEST_BYTES or not _has_room(path.parent, num_bytes):
            log.info("features are not kept: they would take %.1f GB in %s", num_bytes / 1e9, path.parent)
            return None
        try:
            _compute(model, reader, shape, path, batch_size, workers, description, reporter)
        except OSError as error:
            log.warning("features are not kept, %s cannot be written: %s", path.parent, error.strerror or error)
            return None
        except _UnreadableClipError as error:
            log.warning("features are not kept, a clip cannot be read: %s", error)
            return None
        values = _stored(path, shape)
    return values


def _stored(path: Path, shape: tuple[int, ...]) -> NDArray[np.float16] | None:
    """The features in a file, or None where there is none or it is not what was written."""
    if not path.is_file():
        return None
    try:
        values: NDArray[np.float16] = np.load(path, mmap_mode="r")
    except (ValueError, EOFError, OSError) as error:
        log.warning("%s: stored features are broken and computed again: %s", path, error)
        return None
    return values if values.shape == shape and values.dtype == np.float16 else None


def _compute(
    model: FrameModel,
    reader: ClipReader,
    shape: tuple[int, ...],
    path: Path,
    batch_size: int,
    workers: int,
    description: str,
    reporter: Reporter,
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    temporary = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.tmp")
    device = next(model.parameters()).device
    was_training = model.training
    try:
        values = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float16, shape=shape)
        if hasattr(os, "posix_fallocate"):  # a full disk is found out here, not by a signal when a page is written
            with temporary.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, temporary.stat().st_size)
        order = EpochOrder(len(reader), batch_size=batch_size, seed=None)
        model.eval()
        with (
            torch.inference_mode(),
            clip_loader(reader, order, workers=workers, pin_memory=device.type == "cuda") as loader,
            reporter.track(description, total=shape[0] * shape[1], unit="clips") as task,
        ):
            for view in range(shape[0]):
                order.set_position(epoch=view, first_batch=0)
                for batch in loader:
                    if batch.failures:
                        raise _UnreadableClipError(next(iter(batch.failures.values())))
                    values[view, batch.indices.numpy()] = _features(model, batch.to(device), reader)
                    task.advance(len(batch))
        values.flush()
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        model.train(was_training)
        with contextlib.suppress(OSError):
            temporary.unlink()


def remove_leftovers(folder: Path) -> None:
    """Remove what processes of this machine that were killed had begun to write."""
    for path in folder.glob(f".*.{glob.escape(platform.node())}.*.tmp"):
        pid = path.name.split(".")[-2]
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            path.unlink(missing_ok=True)
        except (ValueError, PermissionError):
            continue


def _features(model: FrameModel, batch: Batch, reader: ClipReader) -> np.ndarray:
    """(B, T, D) in fp16. On a CPU clip by clip: what fits its caches is faster than what is many."""
    at_once = 1 if batch.streams["rgb"].device.type == "cpu" else len(batch)
    found = []
    for start in range(0, len(batch), at_once):
        rows = slice(start, start + at_once)
        colour = None if batch.colour is None else batch.colour[rows]
        streams = {stream: frames[rows] for stream, frames in batch.streams.items()}
        flip = None if batch.flip is None else batch.flip[rows]
        inputs = to_model_input(streams, reader.preprocessing, colour=colour, flip=flip)
        found.append(model.features(inputs["rgb"]).half().cpu())
    return torch.cat(found).numpy()


def _key(model: FrameModel, reader: ClipReader) -> str:
    """Differs whenever any of the values could."""
    digest = hashlib.blake2b(model.backbone.name.encode(), digest_size=12)
    for name, tensor in sorted(model.backbone.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    files = {path: path.stat() for path in {clip.video for clip in reader.clips}}
    return fingerprint(
        {
            "weights": digest.hexdigest(),
            "preprocessing": {stream: p.fingerprint for stream, p in reader.preprocessing.items()},
            "augmentation": None if reader.augmentation is None else reader.augmentation.model_dump(),
            "seed": None if reader.augmentation is None else reader.seed,
            "clips": [
                [str(c.video), files[c.video].st_size, files[c.video].st_mtime_ns, c.fps, c.start_s, c.stop_s]
                for c in reader.clips
            ],
            "arrangement": 1,  # of the file
        }
    )


def _has_room(folder: Path, num_bytes: int) -> bool:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free > 2 * num_bytes
