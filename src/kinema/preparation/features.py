"""The features of a frozen backbone, computed once.

Training on them gives what training through the backbone gives, to the precision of fp16: the clips' random versions
are drawn as they would be there, and the backbone, being frozen, always answers the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from kinema.data.device import to_model_input
from kinema.data.loading import Batch, ClipReader, EpochOrder, clip_loader, stack_labels
from kinema.data.probing import cache_folder
from kinema.models.frame_model import FrameModel
from kinema.progress import SILENT, Reporter
from kinema.types import fingerprint

log = logging.getLogger(__name__)

_LARGEST_BYTES = 2 * 2**30
"""More than this is not written into the user's cache unasked."""


@dataclass(frozen=True, kw_only=True)
class Features:
    """Features of clips in all their versions, memory-mapped.

    Attributes:
        values: (views, clips, T, D) fp16; NaN where a clip could not be read.
        failures: Position -> why that clip could not be read.
    """

    values: np.ndarray
    failures: dict[int, str]


class FeatureReader:
    """Reads features in place of clips; made to be used with `kinema.data.loading.clip_loader`.

    Args:
        features: From `frozen_features`.
        reader: What they were computed from.
    """

    def __init__(self, features: Features, reader: ClipReader) -> None:
        self.features = features
        self.clips = reader.clips

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, item: tuple[int, int]) -> tuple[int, int]:
        index, epoch = item
        return index, epoch % len(self.features.values)

    def collate(self, items: Sequence[tuple[int, int]]) -> Batch:
        """Put the features of some clips into one batch."""
        failures = {index: self.features.failures[index] for index, _ in items if index in self.features.failures}
        read = [(index, view) for index, view in items if index not in failures]
        indices = [index for index, _ in read]
        values = self.features.values[[view for _, view in read], indices]
        return Batch(
            streams={},
            labels=stack_labels([self.clips[index] for index in indices]),
            indices=torch.tensor(indices, dtype=torch.int64),
            failures=failures,
            features=torch.from_numpy(values),
        )


def frozen_features(
    model: FrameModel,
    reader: ClipReader,
    *,
    batch_size: int,
    workers: int,
    description: str = "computing features",
    reporter: Reporter = SILENT,
) -> Features | None:
    """Features of all clips of a reader in all their versions, from the cache if they were computed before.

    Args:
        model: With a frozen backbone, on the device to use.
        reader: Of a number of versions that is known (`num_views`).
        batch_size: Clips at once.
        workers: Processes that read clips.
        description: What the reporter shows.
        reporter: Where to show progress.

    Returns:
        None where there is no room for them, or they would be too many to be written unasked.
    """
    num_views = reader.num_views
    assert model.backbone.frozen
    assert num_views is not None
    num_frames = reader.preprocessing["rgb"].num_frames
    shape = (num_views, len(reader), num_frames, model.backbone.num_features)
    num_bytes = 2 * int(np.prod(shape))
    path = cache_folder() / "features" / f"{_key(model, reader)}.npy"
    if not path.is_file():
        if num_bytes > _LARGEST_BYTES or not _has_room(path.parent, num_bytes):
            log.info("features are not kept: they would take %.1f GB in %s", num_bytes / 1e9, path.parent)
            return None
        try:
            _compute(model, reader, shape, path, batch_size, workers, description, reporter)
        except OSError as error:
            log.warning("features are not kept, %s cannot be written: %s", path.parent, error.strerror or error)
            return None
    values = np.load(path, mmap_mode="r")
    failures = path.with_suffix(".txt").read_text(encoding="utf-8").splitlines()
    return Features(values=values, failures={int(i): why for i, why in (line.split(" ", 1) for line in failures)})


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
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    failures: dict[int, str] = {}
    device = next(model.parameters()).device
    try:
        values = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float16, shape=shape)
        if hasattr(os, "posix_fallocate"):  # a full disk is found out here, not by a signal when a page is written
            with temporary.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, temporary.stat().st_size)
        order = EpochOrder(len(reader), batch_size=batch_size, seed=None)
        loader = clip_loader(reader, order, workers=workers, pin_memory=device.type == "cuda")
        was_training = model.training
        model.eval()
        with (
            torch.inference_mode(),
            reporter.track(description, total=shape[0] * shape[1], unit="clips") as task,
        ):
            for view in range(shape[0]):
                order.set_position(epoch=view, first_batch=0)
                for batch in loader:
                    failures.update(batch.failures)
                    if len(batch):
                        values[view, batch.indices.numpy()] = _features(model, batch.to(device), reader)
                    task.advance(len(batch) + len(batch.failures))
        model.train(was_training)
        values.flush()
        lines = "".join(f"{index} {why}\n" for index, why in sorted(failures.items()))
        path.with_suffix(".txt").write_text(lines, encoding="utf-8")
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def remove_leftovers(folder: Path) -> None:
    """Remove what processes that were killed had begun to write."""
    for path in folder.glob(".*.tmp"):
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
        inputs = to_model_input(streams, reader.preprocessing, colour=colour)
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
                [str(c.video), files[c.video].st_size, files[c.video].st_mtime_ns, c.start_s, c.stop_s]
                for c in reader.clips
            ],
            "arrangement": 1,  # of the file
        }
    )


def _has_room(folder: Path, num_bytes: int) -> bool:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free > 2 * num_bytes
