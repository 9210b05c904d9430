"""The words that every part of kinema shares. No torch here: this module is imported to answer `--help`.

Legend of tensor axes, used in every shape annotation of the package:

    B clips   T frames   C channels   H W pixels   N tokens   D features   K classes
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

Heads = Mapping[str, tuple[str, ...]]
"""Task -> class names, in the order of the logits. One task is called `action`; several keep their names."""

JOINT = "joint"
"""Name of the accuracy of being right in all tasks at once."""


class UserError(ValueError):
    """Something the user can mend. The command line prints it as one line and exits with code 2."""


class ConfigError(UserError):
    """A setting is unknown, of the wrong type or impossible; the message names its key."""


class DataError(UserError):
    """A file or folder is missing, unreadable or wrong; the message names it."""


class StoppedBySignal(Exception):  # noqa: N818 - not an error
    """Work was asked to stop, has saved how far it was, and can go on from there.

    Attributes:
        signum: The signal.
        folder: The run that can be continued.
    """

    def __init__(self, signum: int, folder: Path) -> None:
        super().__init__(f"stopped by signal {signum}")
        self.signum = signum
        self.folder = folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """A stretch of one video with its labels. Every data set ends in a list of these.

    Times are in seconds from the first displayed frame of the video; the clip is the half-open interval
    `[start_s, stop_s)`.

    Attributes:
        clip_id: Unique within its data set.
        video: The file that holds the clip, or a folder of its frames, one image file each.
        start_s: Start of the clip.
        stop_s: End of the clip, or None for the end of the video.
        labels: Task -> class index. Empty where a clip has no label (an unlabelled test list).
        group: What must never straddle two splits (a recording, a participant, UCF101's gNN).
            None where the data set does not say.
        fps: Where `video` is a folder of frames, their rate, which no file in it tells. None for a file.
        attributes: Further columns of the annotations, as text.
        number: Its random versions are drawn by it. None: by the clip's place in its split. In cross-validation a clip
            has another place in every fold, and keeps its versions, and what is stored of them.
        still: It is made of pictures that stand still: as motion it is none, whatever its video shows.
    """

    clip_id: str
    video: Path
    start_s: float = 0.0
    stop_s: float | None = None
    labels: Mapping[str, int] = field(default_factory=dict)
    group: str | None = None
    fps: float | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    number: int | None = None
    still: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """What a data-set function returns. Nothing after it knows which data set it was.

    Attributes:
        classes: Task -> class names.
        splits: Split -> clips whose video is there. A split that the data set does not have is absent.
        group_name: What `Clip.group` is, in the field's word ("recording"), or None.
        pairs: Task -> pairs of class names that show the same frames in opposite order. Accuracy within
            pairs is reported where a data set declares them.
        absent: Split -> clips that the annotations list and whose video is not there. Their `video` says where it
            was looked for.
        tail: Task -> classes that are also evaluated on their own, being rare. Empty where the data set names none.
        unseen_groups: Groups that are also evaluated on their own, as the training split has no clip of them.
        published: The annotations are not the user's to mend: a clip that ends behind its video, which may be half a
            download, is then left out and counted, where it would otherwise be an error.
        quarantine: Video -> why its clips are not to be used, although it is there.
        background: Class of every task that stands for nothing. Its clips are in no split: they are made of training
            clips where these are read to be trained on (`kinema.data.background`).
        root: Folder, or annotation file, that it was read from, where there is one: the index of its videos lies there.
        notes: Facts worth a line before training starts.
    """

    classes: Heads
    splits: Mapping[Split, tuple[Clip, ...]]
    group_name: str | None = None
    pairs: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    absent: Mapping[Split, tuple[Clip, ...]] = field(default_factory=dict)
    tail: Mapping[str, frozenset[int]] = field(default_factory=dict)
    unseen_groups: frozenset[str] = frozenset()
    published: bool = False
    quarantine: Mapping[Path, str] = field(default_factory=dict)
    background: str | None = None
    root: Path | None = None
    notes: tuple[str, ...] = ()

    @property
    def num_listed(self) -> dict[Split, int]:
        """Split -> number of clips in the annotations, present or not."""
        counts = {split: len(self.splits.get(split, ())) + len(self.absent.get(split, ())) for split in SPLITS}
        return {split: num for split, num in counts.items() if num}


class NothingThereError(DataError):
    """A data set is listed, and not one of its clips is there.

    Attributes:
        dataset: What is listed: all of it absent.
    """

    def __init__(self, message: str, dataset: Dataset) -> None:
        super().__init__(message)
        self.dataset = dataset


@dataclass(frozen=True, slots=True, kw_only=True)
class InputShape:
    """What a model receives in one stream: (B, num_frames, channels, height_px, width_px)."""

    num_frames: int
    channels: int
    height_px: int
    width_px: int


Inputs = Mapping[str, InputShape]
"""Stream -> shape. Most models have one stream, called as what it holds: `rgb`, `flow`, ..."""

Fit = Literal["crop", "squash"]
Pixels = Literal["rgb", "i420"]
Modality = Literal["rgb", "flow", "flow_magnitude", "rgb_difference"]

T = TypeVar("T")


def only(streams: Mapping[str, T]) -> T:
    """What there is of the one stream that a model sees.

    Raises:
        ConfigError: There are several.
    """
    if len(streams) != 1:
        raise ConfigError(
            f"data.modality: one stream is looked at here, not {len(streams)} ({', '.join(streams)}); name one of "
            "them. model.name=two_stream sees several"
        )
    return next(iter(streams.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Motion:
    """What stands for a frame in a stream of motion: fields, each of two pictures of the video one behind the other,
    stacked as channels (Simonyan and Zisserman, "Two-Stream Convolutional Networks", NeurIPS 2014).

    Attributes:
        stack: Fields, L; they are of L + 1 pictures, the first of which is the frame.
        interval_s: From a picture to the next; at least one frame of the video, and a whole number of them.
        method: Of optical flow; `stored` where it is read from files. None for differences.
        bound_px: The longest movement that 8 bits hold, in pixels of the model's input; what is longer is cut off. None
            for differences.
        magnitude: Of flow: each field has its length as a third channel behind u and v.
        weights: Of a method that has any: their file, or `published`.
        digest: Of that file's content.
        stored_bound_px: Of method `stored`: the movement, in pixels of the files, that 255 stands for in them; None is
            that of `kinema.data.optical_flow.STORED_BOUND_PX`.
    """

    stack: int
    interval_s: float
    method: str | None = None
    bound_px: float | None = None
    magnitude: bool = False
    weights: str | None = None
    digest: str | None = None
    stored_bound_px: float | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """As keys of stores have it. What came later counts where it is set only: stores of before are found."""
        facts = asdict(self)
        if self.stored_bound_px is None:
            del facts["stored_bound_px"]
        return facts

    def step(self, fps: float) -> int:
        """Frames from a picture to the next in a video of a rate."""
        return max(1, round(self.interval_s * fps))


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """How frames of one stream become a model's input. Saved with the weights; the only thing that evaluation,
    prediction and everything else that runs a model reads.

    Attributes:
        num_frames: Frames per clip, uniform in time over the clip, or over a window of it.
        window_s: Length of that window in seconds: the middle of the clip, or other places with several views. A clip
            that is no longer is taken whole, as all clips are where it is None.
        size_px: Height and width of a frame given to the model.
        resize_px: `fit="crop"`: length of the frame's short side before the centre crop of `size_px`.
        fit: `crop` keeps the aspect ratio and cuts the centre; `squash` scales the whole frame to a square.
        pixels: How frames are kept until they are on the device: `rgb` is (3, S, S); `i420` is one row of
            `S * S * 3 // 2` bytes, brightness Y (S, S) and behind it U and V (S / 2, S / 2).
        modality: What the stream holds: frames, or fields of motion (`kinema.data.modalities`).
        motion: Which fields.
        mean: Per channel, of pixels in 0..1. Belongs to the weights and comes with them.
        std: Like `mean`.
    """

    num_frames: int
    window_s: float | None = None
    size_px: int
    resize_px: int
    fit: Fit
    pixels: Pixels = "rgb"
    modality: Modality = "rgb"
    motion: Motion | None = None
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def channels(self) -> int:
        """Of what a model receives, and of uint8 frames that are not I420."""
        return 3 if self.motion is None else self.motion.stack * self.field_channels

    @property
    def field_channels(self) -> int:
        """Of one field of motion."""
        assert self.motion is not None
        return {"flow": 2 + self.motion.magnitude, "flow_magnitude": 1, "rgb_difference": 3}[self.modality]

    @property
    def shape(self) -> InputShape:
        return InputShape(
            num_frames=self.num_frames, channels=self.channels, height_px=self.size_px, width_px=self.size_px
        )

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """Shape of one uint8 frame before it is on the device."""
        if self.pixels == "i420":
            return (self.size_px * self.size_px * 3 // 2,)
        return (self.channels, self.size_px, self.size_px)

    @property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits that differ whenever any setting differs. What is not set counts for nothing, so
        that a setting that comes later leaves the weights of before as they are."""
        settings = asdict(self)
        if self.motion is not None:
            settings["motion"] = _given(asdict(self.motion))
        return fingerprint(_given(settings))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """Inverse of `dataclasses.asdict` after a round trip through JSON.

        Raises:
            DataError: A key is missing or unknown.
        """
        try:
            motion = values.get("motion")
            changed = {
                "mean": tuple(values["mean"]),
                "std": tuple(values["std"]),
                "motion": None if motion is None else Motion(**motion),
            }
            return cls(**{**values, **changed})
        except (KeyError, TypeError) as error:
            raise DataError(f"preprocessing is not what this version of kinema writes: {error}") from None


def _given(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What is set."""
    return {name: value for name, value in settings.items() if value is not None}


def fingerprint(value: Any) -> str:
    """Twelve hexadecimal digits of a value made of JSON types, the same for equal values."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
