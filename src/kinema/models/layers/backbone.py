"""Frame backbones: image networks of timm and torchvision, or our own, that turn a frame into a feature vector."""

from __future__ import annotations

import copy
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kinema.models.layers.tiny import Tiny
from kinema.models.weights import UNREADABLE, reason
from kinema.registry import suggest
from kinema.types import ConfigError, DataError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_FROZEN_CHUNK = 32
"""Frames that a frozen backbone takes at once on a CPU: activations of so many stay in its caches."""

_OPTIONS: dict[str, dict[str, Any]] = {
    # Their weights were trained with another normalisation than torchvision's, which the network does itself; and
    # their auxiliary classifiers give several outputs in training.
    name: {"aux_logits": False, "transform_input": True, "init_weights": False}
    for name in ("googlenet", "inception_v3")
}


class FrameBackbone(nn.Module):
    """An image network without its classifier, applied to single frames.

    Args:
        name: `tiny`, a torchvision model, or a timm model; `torchvision/NAME` and `timm/NAME` where both have it.
            Without prefix torchvision comes first, because its layout of keys is the older one.

    Attributes:
        num_features: Length D of a frame's feature.
        mean: Normalisation that the published weights expect, per channel, of pixels in 0..1.
        std: Like `mean`.

    Raises:
        ConfigError: No library has a model of that name, or it is no image classifier.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.library, self.body, self.num_features = _build(name)
        self.mean, self.std = _published_normalisation(self.library, self._bare_name)
        self.frozen = False
        self.to(memory_format=torch.channels_last)

    @property
    def _bare_name(self) -> str:
        return self.name.removeprefix("torchvision/").removeprefix("timm/")

    def forward(self, frames: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D"]:
        frames = frames.contiguous(memory_format=torch.channels_last)
        if not self.frozen:
            return self.body(frames)
        chunk = _FROZEN_CHUNK if frames.device.type == "cpu" else len(frames)
        with torch.no_grad():
            return torch.cat([self.body(part) for part in torch.split(frames, chunk)])

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

    def published_weights(self) -> dict[str, Tensor]:
        """State dictionary that the library publishes for this network (trained on ImageNet).

        Raises:
            ConfigError: Nothing is published for it.
            DataError: It cannot be fetched.
        """
        if self.library == "kinema":
            raise ConfigError(f"init.weights: nothing is published for {self.name!r}; train it from scratch (null)")
        try:
            return _fetch(self.library, self._bare_name)
        except UNREADABLE as error:
            raise DataError(
                f"init.weights: the published weights of {self.name!r} cannot be fetched "
                f"({reason(error)}); give the path of a file instead: init.weights=FILE"
            ) from None


def _build(name: str) -> tuple[str, nn.Module, int]:
    if name == "tiny":
        return "kinema", Tiny(), Tiny.num_features
    import timm
    import torchvision

    bare = name.removeprefix("torchvision/").removeprefix("timm/")
    zoo = torchvision.models.list_models(module=torchvision.models)
    if not name.startswith("timm/") and bare in zoo:
        body = torchvision.models.get_model(bare, weights=None, **_OPTIONS.get(bare, {}))
        return "torchvision", body, _remove_classifier(body, name)
    if not name.startswith("torchvision/") and timm.is_model(bare):
        network: Any = timm.create_model(bare, pretrained=False, num_classes=0)
        # What comes out behind a last convolution or linear layer may be wider than the feature map.
        return "timm", network, getattr(network, "head_hidden_size", None) or network.num_features
    raise ConfigError(f"model.backbone: no image network {name!r}{_nearest(bare, zoo)}")


def _nearest(name: str, zoo: list[str]) -> str:
    """Only the nearest name: the libraries have over a thousand."""
    import timm

    return suggest(name, ["tiny", *zoo, *timm.list_models()]).split(" (known")[0]


def _remove_classifier(body: nn.Module, name: str) -> int:
    """Replace torchvision's classifier, under whichever of its names, by the identity up to its last linear layer."""
    for attribute in ("fc", "classifier", "heads", "head"):
        classifier = getattr(body, attribute, None)
        if isinstance(classifier, nn.Linear):
            setattr(body, attribute, nn.Identity())
            return classifier.in_features
        if isinstance(classifier, nn.Sequential):
            *before, last = classifier
            if isinstance(last, nn.Linear):
                kept = [] if all(isinstance(layer, nn.Dropout) for layer in before) else before
                setattr(body, attribute, nn.Sequential(*kept))
                return last.in_features
    raise ConfigError(f"model.backbone: {name!r} does not end in one linear layer; it cannot be a frame backbone")


def _published_normalisation(library: str, name: str) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    published: Any = None
    if library == "timm":
        import timm

        published = timm.get_pretrained_cfg(name)
    elif library == "torchvision":
        import torchvision

        published = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    if published is None:
        return IMAGENET_MEAN, IMAGENET_STD
    return tuple(published.mean), tuple(published.std)


def _fetch(library: str, name: str) -> dict[str, Tensor]:
    if library == "torchvision":
        import torchvision

        weights = torchvision.models.get_model_weights(name).DEFAULT
        # A file in the download folder may have been put there by anybody: no code in it is run.
        return dict(weights.get_state_dict(progress=False, check_hash=True, weights_only=True))
    import timm

    if timm.get_pretrained_cfg(name) is None:
        raise ConfigError(f"init.weights: timm publishes nothing for {name!r}")
    return copy.copy(timm.create_model(name, pretrained=True, num_classes=0).state_dict())
