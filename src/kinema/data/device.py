"""What happens to uint8 frames on the device that the model runs on: colour changes (training) and normalisation."""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from kinema.types import Preprocessing

_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601


def to_model_input(
    streams: Mapping[str, UInt8[Tensor, "B T C H W"]],
    preprocessing: Mapping[str, Preprocessing],
    *,
    colour: Float[Tensor, "B 3"] | None = None,
    flip: Bool[Tensor, "B"] | None = None,
) -> dict[str, Float[Tensor, "B T C H W"]]:
    """Frames as stored, to what a model takes. Everything that runs a model comes through here.

    Args:
        streams: Stream -> frames, already on the device.
        preprocessing: Stream -> how its frames are normalised.
        colour: Factors of brightness, contrast and saturation, for training: one of each per clip, the same for all
            of its frames.
        flip: Which clips are to be mirrored.
    """
    inputs = {}
    for stream, frames in streams.items():
        values = frames.float().div_(255)
        if flip is not None:
            values[flip] = values[flip].flip(-1)
        if colour is not None:
            values = change_colour(values, colour)
        mean = values.new_tensor(preprocessing[stream].mean).view(-1, 1, 1)
        std = values.new_tensor(preprocessing[stream].std).view(-1, 1, 1)
        inputs[stream] = values.sub_(mean).div_(std)  # in place: a batch of clips is hundreds of megabytes
    return inputs


def change_colour(values: Float[Tensor, "B T C H W"], factors: Float[Tensor, "B 3"]) -> Float[Tensor, "B T C H W"]:
    """Brightness, contrast and saturation, in this order, as torchvision's functions of these names change them; the
    level that contrast is measured from is the mean of the clip, not of each frame.

    Args:
        values: RGB in 0..1.
        factors: Of brightness, contrast and saturation, per clip; 1 changes nothing.
    """
    brightness, contrast, saturation = factors.to(values).T.reshape(3, -1, 1, 1, 1, 1)
    grey_weights = values.new_tensor(_GREY).view(-1, 1, 1)
    values = (values * brightness).clamp(0, 1)
    level = (values * grey_weights).sum(dim=2, keepdim=True).mean(dim=(1, 3, 4), keepdim=True)
    values = (level + (values - level) * contrast).clamp(0, 1)
    grey = (values * grey_weights).sum(dim=2, keepdim=True)
    return (grey + (values - grey) * saturation).clamp(0, 1)
