"""First layers that take something else than red, green and blue."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from kinema.types import ConfigError

RGB = 3


def input_channels(network: nn.Module) -> int:
    """Channels that a network's first convolution takes; 3 where it has none."""
    return next((layer.in_channels for layer in _convolutions(network)), RGB)


def set_channels(network: nn.Module, channels: int, *, name: str, of_colours: bool = False) -> None:
    """Let the first convolution of a network on RGB take another number of channels, in place. Its weights are drawn
    anew, with the deviation that they had.

    Args:
        network: An image or video network, or a whole model of one.
        channels: Of its input.
        name: Of the network, for the message.
        of_colours: They are red, green and blue again and again, as stacked differences are.

    Raises:
        ConfigError: It has no first convolution on three channels.
    """
    first = next(_convolutions(network), None)
    if first is None or first.in_channels != RGB or first.groups != 1:
        raise ConfigError(f"data.modality: {name} takes red, green and blue, and not {channels} channels")
    old = first.weight
    deviation = 0.0 if old.is_meta else float(old.detach().std())
    drawn = torch.empty((old.shape[0], channels, *old.shape[2:]), dtype=old.dtype, device=old.device)
    first.in_channels = channels
    vars(first)["of_colours"] = of_colours  # for weights that are loaded later
    first.weight = nn.Parameter(nn.init.normal_(drawn, std=deviation), requires_grad=old.requires_grad)
    for part in network.modules():
        if getattr(part, "num_channels", None) == RGB:  # transformers' embeddings check it
            part.num_channels = channels  # type: ignore[assignment]
        if getattr(part, "transform_input", False):  # torchvision's inception networks
            part.transform_input = False  # type: ignore[assignment]


def fit_stream(network: nn.Module, stream: str, channels: int, *, name: str) -> None:
    """Let a network on RGB take the channels of a stream, in place, where these are others.

    Args:
        network: An image or video network, or a whole model of one.
        stream: What the channels are of.
        channels: How many.
        name: Of the network, for the message.

    Raises:
        ConfigError: It cannot.
    """
    if input_channels(network) != channels:  # members of an ensemble have theirs
        set_channels(network, channels, name=name, of_colours=stream.startswith("rgb_difference"))


def has_colours(network: nn.Module) -> set[str]:
    """Names of the weights of first layers on stacked red, green and blue."""
    return {f"{name}.weight" for name, layer in network.named_modules() if vars(layer).get("of_colours")}


def adapted(weight: Tensor, channels: int, *, of_colours: bool) -> Tensor:
    """A first layer's weights on RGB, for another number of channels. Stacked differences of RGB each have them as they
    are, other channels their mean (Wang et al., "Temporal Segment Networks", ECCV 2016), both divided by how much more
    channels there are, so that what the layer gives stays as large, as in timm.

    Args:
        weight: (D, 3, ...).
        channels: C.
        of_colours: They are red, green and blue again and again.

    Returns:
        (D, C, ...).
    """
    if of_colours:
        return torch.cat([weight] * (channels // RGB), dim=1) * (RGB / channels)
    mean = weight.mean(dim=1, keepdim=True) * (RGB / channels)
    return mean.expand(weight.shape[0], channels, *weight.shape[2:]).contiguous()


def _convolutions(network: nn.Module) -> Iterator[nn.Conv2d | nn.Conv3d]:
    """In the order in which they were put in, which begins with the first."""
    return (layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Conv3d))
