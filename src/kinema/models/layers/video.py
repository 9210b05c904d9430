"""Clip backbones: video networks of torchvision, or our own, that turn a clip into feature maps or one feature."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kinema.models.layers.backbone import IMAGENET_MEAN, IMAGENET_STD
from kinema.state_dict import UNREADABLE, reason
from kinema.types import ConfigError, DataError, UserError

KINETICS_MEAN = (0.43216, 0.394666, 0.37645)
"""What torchvision's residual video networks and S3D were trained with."""
KINETICS_STD = (0.22803, 0.22145, 0.216989)


class ClipBackbone(nn.Module):
    """A network on whole clips, without its classifier.

    Args:
        body: (B, C, T, H, W) -> maps (B, D, t, h, w), or features (B, D). Its parameters have the names that they have
            where the weights are published.
        num_features: Length D.
        name: What it is called, for messages.
        fetch: Gets the state dictionary that is published. None: there is none.
        mean: Normalisation that the published weights expect, per channel, of pixels in 0..1.
        std: Like `mean`.
        call: How `body` is called with clips, where it takes them in another form.
        classifier: What the layer is called that classifies the features, or the maps' mean, where the weights are
            published. None: there is none.
    """

    def __init__(
        self,
        body: nn.Module,
        num_features: int,
        *,
        name: str,
        fetch: Callable[[], dict[str, Tensor]] | None = None,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
        call: Callable[[nn.Module, Tensor], Tensor] | None = None,
        classifier: str | None = None,
    ) -> None:
        super().__init__()
        self.body = body
        for part in body.modules():
            if isinstance(part, nn.Conv3d):
                part.__dict__["forward"] = partial(_convolve, part)
        self.num_features = num_features
        self.name = name
        self.mean = mean
        self.std = std
        self.frozen = False
        self._fetch = fetch
        self._call = call
        self.classifier = classifier

    def forward(self, clips: Float[Tensor, "B C T H W"]) -> Float[Tensor, "B _D *_maps"]:
        return self.body(clips) if self._call is None else self._call(self.body, clips)

    def freeze(self) -> None:
        """Keep all weights, and batch norm's running statistics, as they are from now on."""
        self.frozen = True
        self.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.frozen:
            self.body.eval()
        return self

    @property
    def is_published(self) -> bool:
        """Whether there are published weights of this network."""
        return self._fetch is not None

    def published_weights(self) -> dict[str, Tensor]:
        """State dictionary that is published for this network.

        Raises:
            ConfigError: Nothing is published for it.
            DataError: It cannot be fetched.
        """
        if self._fetch is None:
            raise ConfigError(f"init.weights: nothing is published for {self.name!r}; give the path of a file, or null")
        try:
            return self._fetch()
        except UserError:
            raise
        except UNREADABLE as error:
            raise DataError(
                f"init.weights: the published weights of {self.name!r} cannot be fetched "
                f"({reason(error)}); give the path of a file instead: init.weights=FILE"
            ) from None


def _convolve(convolution: nn.Conv3d, clips: Tensor) -> Tensor:
    """What the convolution does. On a CPU always in fp32, and clips that are short in time beside the kernel are padded
    before it and not by it. There oneDNN leaves a part of the gradient of the weights unwritten: in bf16 for a kernel
    of 3 and 2 moments, which most networks make of 16 frames, and in fp32 for a kernel of 7 with stride 2 and 5 to 7
    moments, where it also writes beside its memory. Seen with torch 2.15."""
    if clips.device.type != "cpu":
        return type(convolution).forward(convolution, clips)
    if torch.is_autocast_enabled("cpu"):
        with torch.autocast("cpu", enabled=False):
            return _convolve(convolution, clips.float())
    kernel, padding = convolution.kernel_size[0], convolution.padding
    # Twice as long as the kernel none was wrong.
    if isinstance(padding, str) or not padding[0] or clips.shape[2] >= 2 * kernel:
        return type(convolution).forward(convolution, clips)
    padded = nn.functional.pad(clips, (0, 0, 0, 0, padding[0], padding[0]))
    return nn.functional.conv3d(
        padded,
        convolution.weight,
        convolution.bias,
        convolution.stride,
        (0, padding[1], padding[2]),
        convolution.dilation,
        convolution.groups,
    )


class MeanMaps(nn.Module):
    """The mean over the places of a feature map.

    Args:
        num_features: Channels of the map.
        window: Places (t, h, w) that are averaged first, moved by one, as far as the map has as many: what lies in its
            middle then counts for more.
    """

    def __init__(self, num_features: int, *, window: tuple[int, int, int] | None = None) -> None:
        super().__init__()
        self.num_features = num_features
        self.window = window

    def forward(self, maps: Float[Tensor, "B D t h w"]) -> Float[Tensor, "B D"]:
        if self.window is not None:
            window = tuple(min(most, size) for most, size in zip(self.window, maps.shape[2:], strict=True))
            maps = nn.functional.avg_pool3d(maps, window, stride=1)
        return maps.mean(dim=(2, 3, 4))


class MomentPool(nn.Module):
    """The mean over each moment's map, then a module over the sequence of moments.

    Args:
        temporal: (B, N, D) -> (B, num_features).
    """

    def __init__(self, temporal: nn.Module) -> None:
        super().__init__()
        self.temporal = temporal
        self.num_features: int = temporal.num_features  # type: ignore[assignment]

    def forward(self, maps: Float[Tensor, "B D t h w"]) -> Float[Tensor, "B _E"]:
        return self.temporal(maps.mean(dim=(3, 4)).transpose(1, 2))


class TokenPool(nn.Module):
    """Every place of the map is a token.

    Args:
        pool: (B, t, h, w, D) -> (B, num_features).
    """

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.pool = pool
        self.num_features: int = pool.num_features  # type: ignore[assignment]

    def forward(self, maps: Float[Tensor, "B D t h w"]) -> Float[Tensor, "B _E"]:
        return self.pool(maps.movedim(1, -1))


def torchvision_body(name: str, **arguments: Any) -> nn.Module:
    """A video network of torchvision with random weights."""
    import torchvision

    return torchvision.models.get_model(name, weights=None, **arguments)


def torchvision_fetch(name: str) -> Callable[[], dict[str, Tensor]]:
    """Gets what torchvision publishes for a video network (trained on Kinetics-400)."""
    return partial(_fetch_torchvision, name)  # which, unlike a function inside this one, follows into other processes


def _fetch_torchvision(name: str) -> dict[str, Tensor]:
    import torchvision

    # A file in the download folder may have been put there by anybody: no code in it is run.
    weights = torchvision.models.get_model_weights(name).DEFAULT
    return dict(weights.get_state_dict(progress=False, check_hash=True, weights_only=True))
