"""A trained recogniser, ready to use: `kinema.load(folder).predict("clip.avi")`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor, nn

from kinema.data.device import to_model_input
from kinema.data.one_clip import open_clip
from kinema.data.reading import from_rgb, read_clip
from kinema.data.sampling import sample_times_s, window_of_s
from kinema.evaluation.rejection import background_class, scores
from kinema.models.frame_model import FrameModel, FramePart
from kinema.models.load import load_model
from kinema.models.runtime import faster
from kinema.models.weights import (
    Rejection,
    WeightsConfig,
    classes_of_nothing,
    read_calibration,
    read_rejection,
    read_training,
    weights_folder,
)
from kinema.sections import RuntimeSection
from kinema.types import Preprocessing, UserError


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a recogniser says of one clip.

    Attributes:
        probabilities: Task -> class name -> probability, the most probable first.
        score: How sure it is that the clip is of one of the classes, where the weights have a threshold for that.
        known: False where that score is below the threshold: the clip shows nothing of the classes.
        damaged: The file was damaged in places, and what decodes of it was used.
    """

    probabilities: Mapping[str, Mapping[str, float]]
    score: float | None = None
    known: bool = True
    damaged: bool = False

    @property
    def labels(self) -> dict[str, str]:
        """Task -> the most probable class."""
        return {task: next(iter(values)) for task, values in self.probabilities.items()}

    def top(self, k: int) -> dict[str, list[tuple[str, float]]]:
        """Task -> the k most probable classes with their probabilities."""
        return {task: list(values.items())[:k] for task, values in self.probabilities.items()}

    def __str__(self) -> str:
        parts = []
        for task, values in self.probabilities.items():
            name, probability = next(iter(values.items()))
            if not self.known:
                return f"nothing of its classes (score {self.score:.3g})"
            parts.append(
                f"{name} {probability:.1%}" if len(self.probabilities) == 1 else f"{task}: {name} {probability:.1%}"
            )
        return ", ".join(parts)


class Recogniser:
    """A model with everything that it needs to be run as it was trained.

    Args:
        model: {stream: (B, T, C, H, W)} -> {task: (B, K)}.
        config: Heads and preprocessing.
        device: Where to run it.
        temperatures: Task -> what its logits are divided by; by default nothing is.
        rejection: From which score on a clip is answered; by default every clip is.
        nothing: Task -> index of a class that stands for nothing.
    """

    def __init__(
        self,
        model: nn.Module,
        config: WeightsConfig,
        *,
        device: torch.device | str = "cpu",
        temperatures: Mapping[str, float] | None = None,
        rejection: Rejection | None = None,
        nothing: Mapping[str, int] | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.model = model.to(self.device).eval()
        self.config = config
        self.temperatures = dict(temperatures or {})
        self.rejection = rejection
        self.nothing = dict(nothing or {})
        self._quick: nn.Module | None = None
        self._quick_parts: dict[str, FramePart] = {}

    def predict(
        self,
        video: str | Path | UInt8[Tensor, "T H W 3"],
        *,
        start_s: float = 0.0,
        stop_s: float | None = None,
        fps: float | None = None,
    ) -> Prediction:
        """Recognise the action in a clip.

        Args:
            video: A video file, a still image, a folder of frames, or all frames of a clip, RGB, evenly spaced in time.
            start_s: Where the clip begins in the file, in seconds.
            stop_s: Where it ends; None is the end of the file.
            fps: Frames per second of a folder of frames, or of frames that are given, for a model that sees a window
                of so many seconds; without it fields of motion are of neighbouring frames.

        Raises:
            DataError: The file cannot be read, or the times lie outside it.
            UserError: What was given is neither a file nor such frames.
        """
        streams = self.config.preprocessing
        damaged = False
        if isinstance(video, Tensor):
            if video.ndim != 4 or video.shape[-1] != 3 or video.dtype != torch.uint8 or not len(video):
                raise UserError(f"expected uint8 frames (T, H, W, 3), got {video.dtype} {tuple(video.shape)}")
            if start_s != 0.0 or stop_s is not None:
                raise UserError("start_s and stop_s are for files; of frames give those of the clip alone")
            frames = {stream: _chosen(video, preprocessing, fps) for stream, preprocessing in streams.items()}
        else:
            if not isinstance(video, str | Path):
                raise UserError(f"expected a path or a uint8 tensor (T, H, W, 3), got {type(video).__name__}")
            clip, found = open_clip(Path(video), start_s=start_s, stop_s=stop_s, fps=fps)
            frames = {stream: read_clip(clip, found, preprocessing) for stream, preprocessing in streams.items()}
            damaged = found.damaged
        answer = self.predict_frames({stream: values[None] for stream, values in frames.items()})[0]
        return replace(answer, damaged=damaged)

    def predict_frames(
        self, frames: UInt8[Tensor, "B T ..."] | Mapping[str, UInt8[Tensor, "B _T ..."]]
    ) -> Sequence[Prediction]:
        """Recognise clips whose frames were already taken, cropped and resized as the preprocessing says.

        Args:
            frames: (B, T, *frame_shape), of I420 where that is what the preprocessing's `pixels` are. Of a model that
                sees a clip in several forms, stream -> such frames.

        Raises:
            UserError: Streams are missing.
        """
        wanted = tuple(self.config.preprocessing)
        if isinstance(frames, Tensor) and len(wanted) > 1:
            raise UserError(f"this model sees the streams {', '.join(wanted)}; give frames of each, by its name")
        streams = dict.fromkeys(wanted, frames) if isinstance(frames, Tensor) else frames
        if streams.keys() != set(wanted):
            raise UserError(f"this model sees the streams {', '.join(wanted)}; got frames of {', '.join(streams)}")
        probabilities, found = self.judge(self.logits(streams))
        num_clips = len(next(iter(streams.values())))
        return [
            Prediction(
                probabilities={
                    task: _named(self.config.heads[task], values[row]) for task, values in probabilities.items()
                },
                score=None if found is None else float(found[row]),
                known=found is None or self.rejection is None or bool(found[row] >= self.rejection.threshold),
            )
            for row in range(num_clips)
        ]

    @torch.inference_mode()
    def logits(self, streams: Mapping[str, UInt8[Tensor, "B _T ..."]]) -> dict[str, Float[Tensor, "B _K"]]:
        """What the model says of clips: task -> logits.

        Args:
            streams: Stream -> (B, T, *frame_shape), of each stream of the preprocessing.
        """
        on_device = {stream: values.to(self.device) for stream, values in streams.items()}
        inputs = to_model_input(on_device, self.config.preprocessing)
        if self._quick is None:
            first = {stream: values[:1] for stream, values in inputs.items()}
            with torch.inference_mode(mode=False):
                self._quick = self.quick(self.model, first)
        found: dict[str, Tensor] = self._quick(inputs)
        return found

    def quick(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> nn.Module:
        """A copy of the model, or of a part of it, that computes faster.

        Args:
            model: It, or a part.
            inputs: An example of what it will be given.
        """
        # Memory is the process's own affair, and this need not be a process of ours.
        return faster(
            model, RuntimeSection(keep_memory=False), {name: values.clone() for name, values in inputs.items()}
        )

    def quick_part(self, name: str, part: FramePart) -> FramePart:
        """One of the model's parts with a network that computes faster, made once: of all streams that are followed at
        a time there is one.

        Args:
            name: Of the part in the model.
            part: It.
        """
        if name not in self._quick_parts:
            shape = self.config.preprocessing[part.stream].shape
            generator = torch.Generator().manual_seed(0)
            size = (1, shape.num_frames, shape.channels, shape.height_px, shape.width_px)
            with torch.inference_mode(mode=False):
                example = torch.randn(size, generator=generator).to(self.device)
                network = self.quick(part.network, {part.stream: example})
            assert isinstance(network, FrameModel)
            self._quick_parts[name] = replace(part, network=network)
        return self._quick_parts[name]

    def judge(
        self, logits: Mapping[str, Float[Tensor, "B _K"]]
    ) -> tuple[dict[str, Float[Tensor, "B _K"]], Float64[np.ndarray, "B"] | None]:
        """What the model's logits mean.

        Returns:
            Task -> probabilities, calibrated where there are temperatures, and how sure it is that a clip is of one of
            the classes, where there is a threshold for that.
        """
        probabilities = {
            task: (values.float() / self.temperatures.get(task, 1.0)).softmax(dim=1).cpu()
            for task, values in logits.items()
        }
        kept = self.rejection
        if kept is None:
            return probabilities, None
        found = scores(
            {task: values.float().cpu().numpy() for task, values in logits.items()},
            kept.method,  # type: ignore[arg-type]
            temperatures=self.temperatures,
            background=None if kept.background is None else background_class(kept.background, self.config.heads),
        )
        return probabilities, found


def load(folder: str | Path, *, device: torch.device | str | None = None) -> Recogniser:
    """Load a weights folder.

    Args:
        folder: A weights folder, or a run that has one.
        device: Where to run; by default a GPU where there is one.

    Raises:
        DataError: The folder is not a weights folder.

    Example:
        >>> recogniser = kinema.load("runs/my_run/weights")  # doctest: +SKIP
        >>> print(recogniser.predict("clip.avi"))  # doctest: +SKIP
    """
    weights = weights_folder(Path(folder))
    model, config = load_model(weights)
    calibration, rejection = read_calibration(weights), read_rejection(weights)
    return Recogniser(
        model,
        config,
        device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
        temperatures=None if calibration is None else calibration.temperatures,
        rejection=rejection,
        nothing=classes_of_nothing(config, read_training(weights), rejection),
    )


def _chosen(
    video: UInt8[Tensor, "_T H W 3"], preprocessing: Preprocessing, fps: float | None
) -> UInt8[Tensor, "T ..."]:
    """Frames of a clip that is given as all of its frames.

    Raises:
        UserError: The model sees so many seconds of a clip, and nothing says how many frames these are.
    """
    if fps is not None and not (math.isfinite(fps) and fps > 0):
        raise UserError(f"fps: {fps} is no number of frames per second above 0")
    if preprocessing.window_s is not None and fps is None:
        raise UserError(f"this model sees {preprocessing.window_s:g} s of a clip; give the frames' rate, as in fps=25")
    # Where all of the clip is seen, in frames in place of seconds: the rate changes nothing.
    window = None if preprocessing.window_s is None or fps is None else preprocessing.window_s * fps
    times = sample_times_s(*window_of_s(0.0, float(len(video)), window), num_frames=preprocessing.num_frames)
    return from_rgb(video.cpu().numpy(), times.astype(int).tolist(), preprocessing, fps=fps)


def _named(names: Sequence[str], values: Tensor) -> dict[str, float]:
    order = values.argsort(descending=True, stable=True).tolist()
    return {names[index]: float(values[index]) for index in order}
