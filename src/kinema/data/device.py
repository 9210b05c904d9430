"""What happens to uint8 frames on the device that the model runs on: mirroring and other changes (training), colour
conversion and normalisation.

I420 is converted as FFmpeg, OpenCV and decord do it: the matrix of ITU-R BT.601 in limited range, each pixel with the
colour of the 2 x 2 pixels that share it. Matrix, mean and standard deviation are one affine map of (Y, U, V), and its
part that depends on U and V is computed at their size. What a model sees is within 3 / 255 of what swscale's RGB of
the same planes would give it (swscale works in whole numbers and rounds down).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from kinema.data.changes import Changes, after_colour, before_colour, erase
from kinema.data.flow_colours import flow_colours
from kinema.data.optical_flow import dequantise
from kinema.types import Preprocessing

_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601

_LUMA = 255 / 219
_BLACK, _NO_COLOUR = 16, 128
_FROM_U = (0.0, -0.344136 * 255 / 224, 1.772 * 255 / 224)
_FROM_V = (1.402 * 255 / 224, -0.714136 * 255 / 224, 0.0)
"""BT.601: how much of Y, U and V is in red, green and blue, all in 0..255."""

_CACHE_NUMBERS = 2**20
"""Numbers that a processor's caches hold beside what else is at work."""


def to_model_input(
    streams: Mapping[str, UInt8[Tensor, "B T ..."]],
    preprocessing: Mapping[str, Preprocessing],
    *,
    colour: Float[Tensor, "B 3"] | None = None,
    flip: Bool[Tensor, "B"] | None = None,
    changes: Sequence[Changes] | None = None,
) -> dict[str, Float[Tensor, "B T C H W"]]:
    """Frames as stored, to what a model takes. Everything that runs a model comes through here.

    Args:
        streams: Stream -> (B, T, *frame_shape) of its preprocessing, already on the device.
        preprocessing: Stream -> what its frames are and how they are normalised.
        colour: Factors of brightness, contrast and saturation, for training: one of each per clip, the same for all
            of its frames.
        flip: Which clips are to be mirrored.
        changes: What else is to be changed of each clip.
    """
    return {
        stream: _normalised(frames, preprocessing[stream], colour=colour, flip=flip, changes=changes)
        for stream, frames in streams.items()
    }


def to_rgb(frames: UInt8[Tensor, "*rest"], preprocessing: Preprocessing) -> UInt8[Tensor, "*others 3 S S"]:
    """Frames as stored, to RGB for people to look at: (..., *frame_shape) -> (..., 3, S, S). Of a stack of fields of
    motion the first is shown, of flow as colours."""
    if preprocessing.motion is not None:
        return _fields_to_rgb(frames, preprocessing)
    if preprocessing.pixels == "rgb":
        return frames
    lead = frames.shape[:-1]
    rows = frames.reshape(1, -1, frames.shape[-1])
    values = rows.new_empty((*rows.shape[:2], *_square(preprocessing)), dtype=torch.float32)
    _convert(rows, values, mean=(0.0,) * 3, std=(1.0,) * 3)
    return values.mul_(255).round_().to(torch.uint8).reshape(*lead, *_square(preprocessing))


def _fields_to_rgb(
    frames: UInt8[Tensor, "*others C S S"], preprocessing: Preprocessing
) -> UInt8[Tensor, "*others 3 S S"]:
    first = frames[..., : preprocessing.field_channels, :, :]
    if preprocessing.modality == "rgb_difference":
        return first
    if preprocessing.modality == "flow_magnitude":
        return first.expand(*first.shape[:-3], 3, *first.shape[-2:])
    assert preprocessing.motion is not None
    bound_px = preprocessing.motion.bound_px
    assert bound_px is not None
    size = first.shape[-2:]
    pairs = first[..., :2, :, :].movedim(-3, -1).reshape(-1, *size, 2).cpu().numpy()
    colours = np.stack([flow_colours(dequantise(pair, bound_px), bound_px) for pair in pairs])
    return torch.from_numpy(colours).movedim(-1, -3).reshape(*first.shape[:-3], 3, *size)


def _normalised(
    frames: Tensor,
    preprocessing: Preprocessing,
    *,
    colour: Tensor | None,
    flip: Tensor | None,
    changes: Sequence[Changes] | None,
) -> Float[Tensor, "B T C H W"]:
    if preprocessing.motion is not None:  # it has no colours; frames beside it may
        colour, changes = None, None if changes is None else [one.of_motion for one in changes]
    inputs = torch.empty((*frames.shape[:2], *_square(preprocessing)), dtype=torch.float32, device=frames.device)
    mean, std = preprocessing.mean, preprocessing.std
    for rows in _parts(frames, preprocessing):
        part = frames[rows] if flip is None else _flipped(frames[rows], flip[rows], preprocessing)
        if preprocessing.pixels == "i420" and colour is None and changes is None:
            _convert(part, inputs[rows], mean=mean, std=std)
            continue
        if preprocessing.pixels == "i420":
            _convert(part, inputs[rows], mean=(0.0,) * 3, std=(1.0,) * 3)
        else:
            torch.div(part, 255, out=inputs[rows])
        own = () if changes is None else changes[rows]
        _each(inputs[rows], own, before_colour)
        if colour is not None:
            inputs[rows] = change_colour(inputs[rows], colour[rows])
        _each(inputs[rows], own, after_colour)
        values = inputs[rows]
        values.sub_(values.new_tensor(mean).view(-1, 1, 1)).mul_(1 / values.new_tensor(std).view(-1, 1, 1))
        for clip, of_clip in zip(values, own, strict=False):
            erase(clip, of_clip)
    return inputs


def _each(
    clips: Float[Tensor, "B T C H W"], changes: Sequence[Changes], change: Callable[[Tensor, Changes], Tensor]
) -> None:
    """Clips are changed one by one, each in its own way."""
    for frames, of_clip in zip(clips, changes, strict=False):  # there may be no changes
        changed = change(frames, of_clip)
        if changed is not frames:
            frames.copy_(changed)


def _parts(frames: Tensor, preprocessing: Preprocessing) -> Iterator[slice]:
    """Clips that are converted at once. On a CPU as many as its caches hold, at least one: less, such as a frame, would
    be so many calls that they take longer than the arithmetic."""
    on_cpu = frames.device.type == "cpu"
    clip_size = frames.shape[1] * math.prod(_square(preprocessing))
    at_once = max(1, _CACHE_NUMBERS // max(1, clip_size)) if on_cpu else max(len(frames), 1)
    return (slice(start, start + at_once) for start in range(0, len(frames), at_once))


def _square(preprocessing: Preprocessing) -> tuple[int, int, int]:
    return preprocessing.channels, preprocessing.size_px, preprocessing.size_px


def _flipped(frames: Tensor, flip: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Clips of which those that `flip` says are mirrored."""
    if frames.device.type == "cpu" and not flip.any():
        return frames
    if preprocessing.pixels == "rgb":
        mirrored = frames.flip(-1)
        if preprocessing.modality == "flow":
            mirrored[:, :, :: preprocessing.field_channels].neg_()  # what moved to the right; 128 is 0, modulo 256
        return torch.where(flip.view(-1, 1, 1, 1, 1), mirrored, frames)
    planes = [plane.flip(-1).flatten(2) for plane in _planes(frames)]
    return torch.where(flip.view(-1, 1, 1), torch.cat(planes, dim=2), frames)


def _planes(frames: UInt8[Tensor, "B T N"]) -> tuple[Tensor, Tensor, Tensor]:
    """Views (B, T, S, S) and twice (B, T, S / 2, S / 2)."""
    num = frames.shape[-1] * 2 // 3
    size = round(num**0.5)
    whole, half = (*frames.shape[:2], size, size), (*frames.shape[:2], size // 2, size // 2)
    u, v = frames[..., num : num + num // 4], frames[..., num + num // 4 :]
    return frames[..., :num].view(whole), u.view(half), v.view(half)


def _convert(
    frames: UInt8[Tensor, "B T N"],
    out: Float[Tensor, "B T 3 S S"],
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> None:
    """(RGB in 0..1 - mean) / std of I420 frames."""
    y, u, v = _planes(frames)
    blue, red = u.float(), v.float()
    scales = [1 / (255 * value) for value in std]
    wide = []
    for channel, scale in enumerate(scales):
        from_u, from_v = _FROM_U[channel] * scale, _FROM_V[channel] * scale
        constant = -_LUMA * scale * _BLACK - (from_u + from_v) * _NO_COLOUR - mean[channel] / std[channel]
        colours = (blue * from_u).add_(red, alpha=from_v).add_(constant)
        # A complex number of twice the same is the fastest way of doubling columns.
        wide.append(torch.view_as_real(torch.complex(colours, colours)).flatten(-2).unsqueeze(-2))
    in_pairs = (*u.shape[:-1], 2, y.shape[-1])  # of rows, which share their colours
    luma = y.float().view(in_pairs)
    for channel, scale in enumerate(scales):
        target = out[:, :, channel].view(in_pairs)
        torch.add(wide[channel], luma, alpha=_LUMA * scale, out=target)
        target.clamp_(-mean[channel] / std[channel], (1 - mean[channel]) / std[channel])


def change_colour(values: Float[Tensor, "B T C H W"], factors: Float[Tensor, "B 3"]) -> Float[Tensor, "B T C H W"]:
    """Brightness, contrast and saturation, in this order, as torchvision's functions of these names change them; the
    level that contrast is measured from is the mean of the clip, not of each frame.

    Args:
        values: RGB in 0..1.
        factors: Of brightness, contrast and saturation, per clip; 1 changes nothing.
    """
    brightness, contrast, saturation = factors.to(values).T.reshape(3, -1, 1, 1, 1, 1)
    values = (values * brightness).clamp_(0, 1)
    level = _grey(values).mean(dim=(1, 2, 3, 4), keepdim=True)
    values.mul_(contrast).add_(level * (1 - contrast)).clamp_(0, 1)
    grey = _grey(values)  # before they are changed
    return values.mul_(saturation).add_(grey.mul_(1 - saturation)).clamp_(0, 1)


def _grey(values: Float[Tensor, "B T 3 H W"]) -> Float[Tensor, "B T 1 H W"]:
    red, green, blue = (values[:, :, channel : channel + 1] for channel in range(3))
    return (red * _GREY[0]).add_(green, alpha=_GREY[1]).add_(blue, alpha=_GREY[2])
