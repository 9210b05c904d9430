"""The features of a frozen backbone, stored clip by clip.

An entry is what the backbone made of one version of one clip: (T, D), or maps (T, D, h, w). Its key is made of all that
determines the frames: the file and whether it has changed, which of its frames, what is cut out of them, mirrored or
not, and all other changes. The store's settings are all that determines what becomes of frames: the backbone with a
digest of its weights, preprocessing, arithmetic. So a new or changed clip costs only itself, and nothing that was
stored for something else can be taken for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from kinema.data.decoders import described
from kinema.data.frame_store import Files
from kinema.data.loading import ClipReader, Drawn, Layout
from kinema.data.places import Places
from kinema.data.shard_index import KEY_BYTES
from kinema.data.shards import entry_key
from kinema.models.layers.backbone import FrameBackbone
from kinema.types import Clip, DataError, fingerprint, only

KIND: Final = "features"

StoredAs = Literal["fp16", "fp32"]

_TYPES: Final[Mapping[str, Any]] = {"fp16": np.dtype(np.float16), "fp32": np.dtype(np.float32)}

# To be counted up whenever other frames are read, or other features made of them, for the same settings.
_MAKING = 1


@dataclass(frozen=True, kw_only=True)
class FeatureFormat:
    """What becomes of the frames of a clip.

    Attributes:
        backbone: Name of the backbone.
        weights: Digest of its weights.
        arithmetic: What it computes in; int8 with a digest of its ranges.
        device: Kind of device that does, where that makes a difference: fp32 is the same everywhere to some 1e-5,
            while fewer bits are rounded in another way on each.
        preprocessing: Of frames, as a dictionary.
        decoder: Of videos, with the versions that pixels may depend on.
        stored_as: Type of the numbers in the store.
        shape: Of a clip's features.
    """

    backbone: str
    weights: str
    arithmetic: str
    device: str | None
    preprocessing: Mapping[str, Any]
    decoder: str
    stored_as: StoredAs
    shape: tuple[int, ...]

    @classmethod
    def of(
        cls, backbone: FrameBackbone, reader: ClipReader, *, stored_as: StoredAs = "fp16", maps: bool = False
    ) -> FeatureFormat:
        """What a backbone makes of a reader's clips.

        Raises:
            ConfigError: Maps are asked for, and the backbone has none.
        """
        preprocessing = only(reader.preprocessing)
        read = asdict(preprocessing)
        if preprocessing.motion is not None:
            read["motion"] = preprocessing.motion.facts
        shape = backbone.map_shape(preprocessing.size_px) if maps else (backbone.num_features,)
        return cls(
            backbone=backbone.name,
            weights=weights_digest(backbone),
            arithmetic=_arithmetic(backbone, maps=maps),
            device=None if backbone.arithmetic == "fp32" else next(backbone.parameters()).device.type,
            preprocessing=read,
            decoder=described(reader.decoder),
            stored_as=stored_as,
            shape=(preprocessing.num_frames, *shape),
        )

    @property
    def dtype(self) -> np.dtype[Any]:
        found: np.dtype[Any] = _TYPES[self.stored_as]
        return found

    @property
    def num_bytes(self) -> int:
        """Of a clip's features."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    @property
    def is_maps(self) -> bool:
        return len(self.shape) == 4

    @property
    def facts(self) -> dict[str, Any]:
        """Settings of a store, of JSON types."""
        facts = {**asdict(self), "shape": list(self.shape), "making": _MAKING}
        facts["preprocessing"] = {
            name: list(value) if isinstance(value, tuple) else value for name, value in self.preprocessing.items()
        }
        return facts

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.facts)

    def difference(self, settings: Mapping[str, Any]) -> str | None:
        """The first setting of a store that is another one than here, in words; None where all are the same."""
        own = self.facts
        for name, value in own.items():
            other = settings.get(name)
            if name == "preprocessing" and isinstance(other, Mapping):
                for key, inner in value.items():
                    if other.get(key) != inner:
                        return f"{key} is {other.get(key)} there and {inner} here"
            if other != value:
                return f"{name} is {other} there and {value} here"
        return None


def _arithmetic(backbone: FrameBackbone, *, maps: bool) -> str:
    if backbone.arithmetic != "int8":
        return backbone.arithmetic
    ranges = {name: list(ends) for name, ends in backbone.ranges[maps].items()}
    return f"int8 {fingerprint({'ranges': ranges, 'engine': torch.backends.quantized.engine})}"


def weights_digest(backbone: FrameBackbone) -> str:
    """Differs whenever a weight does."""
    digest = hashlib.blake2b(backbone.name.encode(), digest_size=12)
    for name, tensor in sorted(backbone.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def clip_keys(reader: ClipReader, files: Files) -> tuple[NDArray[np.uint8], dict[int, str]]:
    """Keys of all versions of all clips of a reader.

    Args:
        reader: Of a number of versions that is known.
        files: The data set's.

    Returns:
        (views, clips, 16), and index -> why a clip has none: its file is gone, or its times lie outside it.
    """
    assert reader.num_views is not None
    keys = np.zeros((reader.num_views, len(reader), KEY_BYTES), dtype=np.uint8)
    failures: dict[int, str] = {}
    for index, clip in enumerate(reader.clips):
        try:
            for view in range(reader.num_views):
                plans, drawn = reader.plan(index, view)
                plan = only(plans)
                state = files.state_of(clip.video, plan)
                box = plan.box.left_px, plan.box.top_px, plan.box.width_px, plan.box.height_px
                facts = [state, [int(i) for i in plan.indices], box, drawn.flip, drawn.colour]
                if plan.stacks is not None:
                    facts.append(plan.stacks)
                if drawn.changes is not None:  # without them keys are what they were before there were any
                    facts.append(drawn.changes.facts)
                keys[view, index] = np.frombuffer(entry_key(facts), dtype=np.uint8)
        except DataError as error:
            failures[index] = str(error)
    return keys, failures


class FeatureReader:
    """Reads features in place of frames; made to be used with `kinema.data.loading.clip_loader`.

    Args:
        places: Where the features of each version of each clip lie: (views, clips).
        form: What they are.
        clips: Which clips.
        failures: Index -> why there are no features of a clip.
    """

    in_processes = False

    def __init__(
        self, places: Places, form: FeatureFormat, clips: Sequence[Clip], failures: Mapping[int, str] | None = None
    ) -> None:
        self.places = places
        self.form = form
        self.clips = clips
        self.failures = dict(failures or {})
        self._num_views = len(places.held)

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def source(self) -> str:
        """Differs whenever a feature does that is read."""
        return self.places.fingerprint

    @property
    def folders(self) -> list[Path]:
        """Stores that it reads from."""
        return [store.folder for store in self.places.stores]

    def layout(self) -> Layout:
        """Shape and type of the features of one clip."""
        return {"features": (self.form.shape, self.form.dtype)}

    def read(self, index: int, epoch: int, out: Mapping[str, NDArray[Any]]) -> Drawn:
        """Write the features of a clip, as they are in an epoch.

        Raises:
            DataError: There are none, for the reason for which there are no frames, or the store cannot be read.
        """
        # Not from mapped memory: what was read would count as this process's.
        if not self.places.read((epoch % self._num_views, index), out["features"]):
            clip = self.clips[index]
            raise DataError(self.failures.get(index, f"{clip.video}: no features are stored of {clip.clip_id}"))
        return Drawn()

    def values(self, indices: Sequence[int] | None = None, view: int = 0) -> NDArray[Any]:
        """Features of some clips, of all by default: (N, *shape)."""
        chosen = range(len(self)) if indices is None else indices
        found = np.empty((len(chosen), *self.form.shape), dtype=self.form.dtype)
        for row, index in enumerate(chosen):
            self.read(index, view, {"features": found[row]})
        return found


class StreamFeatures:
    """Reads the features of several streams of a clip, those of one behind those of the other. What it says of itself
    is what a `FeatureReader` says.

    Args:
        readers: Stream -> what reads its features, (T, D); all of the same clips, as many frames and one type.
    """

    in_processes = False

    def __init__(self, readers: Mapping[str, FeatureReader]) -> None:
        self.readers = list(readers.values())
        first = self.readers[0]
        self.clips = first.clips
        self.failures = {index: why for reader in self.readers for index, why in reader.failures.items()}
        lengths = [reader.form.shape[1] for reader in self.readers]
        self._bounds = np.cumsum([0, *lengths]).tolist()
        self.form = replace(first.form, shape=(first.form.shape[0], sum(lengths)))

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def source(self) -> str:
        """Differs whenever a feature does that is read."""
        return fingerprint([reader.source for reader in self.readers])

    @property
    def folders(self) -> list[Path]:
        """Stores that it reads from."""
        return list(dict.fromkeys(folder for reader in self.readers for folder in reader.folders))

    def layout(self) -> Layout:
        """Shape and type of the features of one clip."""
        return {"features": (self.form.shape, self.form.dtype)}

    def read(self, index: int, epoch: int, out: Mapping[str, NDArray[Any]]) -> Drawn:
        """Write the features of a clip, as they are in an epoch.

        Raises:
            DataError: There are none of a stream, or a store cannot be read.
        """
        for reader, start, stop in zip(self.readers, self._bounds, self._bounds[1:], strict=False):
            own = np.empty(reader.form.shape, dtype=reader.form.dtype)
            reader.read(index, epoch, {"features": own})
            out["features"][:, start:stop] = own
        return Drawn()

    def values(self, indices: Sequence[int] | None = None, view: int = 0) -> NDArray[Any]:
        """Features of some clips, of all by default: (N, T, D)."""
        return np.concatenate([reader.values(indices, view) for reader in self.readers], axis=2)
