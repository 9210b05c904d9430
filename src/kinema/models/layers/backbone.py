"""Frame backbones: image networks of timm and torchvision, or our own, that turn a frame into a feature vector."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, Self

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn

from kinema.models.layers.cut import LeavesTracer, cut_after, drop_uncalled, shape_of
from kinema.models.layers.fold import NOT_TRACEABLE, channels_last, fold, same
from kinema.models.layers.int8 import Ranges, observe, quantise
from kinema.models.layers.plain import PlainCNN
from kinema.models.layers.tiny import Tiny
from kinema.registry import suggest
from kinema.state_dict import UNREADABLE, reason
from kinema.types import ConfigError, DataError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Arithmetic = Literal["fp32", "bf16", "int8"]

log = logging.getLogger(__name__)

_FROZEN_CHUNK = 10
"""Frames that a frozen backbone takes at once on a CPU. Measured with MobileNetV2 and ResNet-18, 1 to 40 frames of 224
px: from 8 to 16 is fastest; of more, activations do not stay in the caches."""

_OPTIONS: dict[str, dict[str, Any]] = {
    # Their weights were trained with another normalisation than torchvision's, which the network does itself; and
    # their auxiliary classifiers give several outputs in training.
    name: {"aux_logits": False, "transform_input": True, "init_weights": False}
    for name in ("googlenet", "inception_v3")
}

_OURS: dict[str, Callable[[], Tiny | PlainCNN]] = {
    "tiny": Tiny,
    "basic_cnn": lambda: PlainCNN((32, 64, 128, 128), grid=12, hidden=512),
    "flat_cnn": lambda: PlainCNN((32, 64, 128), grid=26),
    "narrow_cnn": lambda: PlainCNN((32, 64, 128), grid=1),
    "wide_cnn": lambda: PlainCNN((64, 128, 256), grid=1),
}


class FrameBackbone(nn.Module):
    """An image network without its classifier, applied to single frames.

    Args:
        name: One of ours (`tiny`, `basic_cnn`, `flat_cnn`, `narrow_cnn`, `wide_cnn`), a torchvision model, or a timm
            model; `torchvision/NAME` and `timm/NAME` where both have it. Without prefix torchvision comes first, its
            layout of keys being the older one.
        cut: Name of the module after which the network ends, such as `layer3` or `features.13`: its maps are the
            features. None: the whole network.
        maps: For use of its maps alone: without what comes behind them, and the features are their averages.

    Attributes:
        name: Of the network, and where it is cut.
        num_features: Length D of a frame's feature.
        mean: Normalisation that the published weights expect, per channel, of pixels in 0..1.
        std: Like `mean`.
        classifier: What the layer is called that classifies its features where its weights are published. None: there
            is none.
        arithmetic: What it computes in when it is frozen.
        ranges: Of "int8": of maps or not -> what `observe` has seen.

    Raises:
        ConfigError: No library has a model of that name, it is no image classifier, or it cannot be cut there.
    """

    def __init__(self, name: str, *, cut: str | None = None, maps: bool = False) -> None:
        super().__init__()
        self.name = name if cut is None else f"{name} up to {cut}"
        self.library, self.body, self.num_features, classifier = _build(name)
        self._bare_name = name.removeprefix("torchvision/").removeprefix("timm/")
        self.mean, self.std = _published_normalisation(self.library, self._bare_name)
        self.is_cut = cut is not None
        self.classifier = None if self.is_cut else classifier
        if cut is not None:
            self.body, self.num_features = cut_after(self.body, cut, name=name)
        self.frozen = False
        self.folds = True
        self.arithmetic: Arithmetic = "fp32"
        self.ranges: dict[bool, Ranges] = {}
        self.micro_batch: int | None = None
        self._maps: list[nn.Module] = []  # not parts of their own: their parts are those of the body
        self._fast: dict[bool, tuple[Any, nn.Module]] = {}
        self.ends_in_maps = False
        if maps:
            self.end_in_maps()
        channels_last(self)

    @property
    def _dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.arithmetic == "bf16" else torch.float32

    def end_in_maps(self) -> None:
        """Take away what comes behind its maps, for use of these alone; its features are their averages then.

        Raises:
            ConfigError: The network has no such maps.
        """
        drop_uncalled(self.body, self._maps_body())
        self.ends_in_maps = True
        self.num_features = self.num_map_channels

    @property
    def num_map_channels(self) -> int:
        """Channels of `maps`, which may be fewer than there are features."""
        return self.map_shape(224)[0]

    def map_shape(self, size_px: int) -> tuple[int, ...]:
        """(D, h, w) of the maps of frames of a size.

        Raises:
            ConfigError: The network has no such maps.
        """
        return tuple(shape_of(self._maps_body(), size_px)[1:])

    def forward(self, frames: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D"]:
        if self.ends_in_maps:
            return self.maps(frames).mean(dim=(2, 3))
        return self._run(frames, of_maps=False)

    def maps(self, frames: Float[Tensor, "N C H W"]) -> Float[Tensor, "N _D h w"]:
        """Features before they are averaged over the frame.

        Raises:
            ConfigError: The network has no such maps; a vision transformer has none.
        """
        return self._run(frames, of_maps=True)

    def _run(self, frames: Tensor, *, of_maps: bool) -> Tensor:
        frames = frames.contiguous(memory_format=torch.channels_last)
        body = self._maps_body() if of_maps else self.body
        if not self.frozen or frames.is_meta:
            return body(frames)
        on_cpu = frames.device.type == "cpu"
        chunk = self.micro_batch or (_FROZEN_CHUNK if on_cpu else max(1, len(frames)))
        # Under autocast, numbers would depend on who asks; a frozen body's arithmetic is its own setting.
        with torch.no_grad(), torch.autocast(frames.device.type, enabled=False), _all_digits():
            frames = frames.float() if frames.dtype in (torch.bfloat16, torch.float16) else frames
            body = self._fast_body(body, frames, of_maps=of_maps)
            parts = torch.split(frames.to(self._dtype), chunk)
            return torch.cat([body(part).to(frames.dtype) for part in parts])

    def _fast_body(self, body: nn.Module, frames: Tensor, *, of_maps: bool) -> nn.Module:
        """What stands for a frozen body: a copy with folded batch norm, made again when a weight has changed."""
        if not self.folds and self.arithmetic == "fp32":
            return body
        tensors, known = [*self.body.parameters(), *self.body.buffers()], self._fast.get(of_maps)
        state = [self.folds, self.arithmetic, tensors[0].device, sum(tensor._version for tensor in tensors)]
        if known is not None and known[0] == state:
            return known[1]
        if self.arithmetic == "int8":
            fast = quantise(body, self.ranges[of_maps], name=self.name)
            self._fast[of_maps] = state, fast
            return fast
        fast = fold(body) if self.folds else copy.deepcopy(body)
        if self.folds and not same(body(frames[:2]), fast(frames[:2])):
            log.debug("%s: batch norm is not folded, its features would not stay the same", self.name)
            fast = copy.deepcopy(body)
        channels_last(fast.to(self._dtype))
        self._fast[of_maps] = state, fast
        return fast

    def _maps_body(self) -> nn.Module:
        if not self._maps:
            self._maps.append(_without_pooling(self.body, self.library, self.name, is_cut=self.is_cut))
        return self._maps[0]

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        self._forget()  # it moves, or changes type
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def _load_from_state_dict(self, *arguments: Any, **named: Any) -> None:
        self._forget()
        super()._load_from_state_dict(*arguments, **named)

    def _forget(self) -> None:
        self._fast.clear()
        self._maps.clear()

    def freeze(self) -> None:
        """Keep all weights, and batch norm's running statistics, as they are from now on."""
        self.frozen = True
        self._forget()
        self.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.frozen:
            self.body.eval()
        return self

    def observe(self, frames: Iterable[Tensor], *, of_maps: bool) -> None:
        """See in which ranges it computes, before `arithmetic` may be "int8".

        Args:
            frames: Batches (N, C, H, W) of what it will be given.
            of_maps: Whether for `maps`, or for features averaged over the frame.

        Raises:
            ConfigError: It is not on a CPU, or cannot compute in int8.
        """
        if next(self.parameters()).device.type != "cpu":
            raise ConfigError("trainer.runtime.features: int8 is for processors; on a GPU take bf16 or fp32")
        self._fast.pop(of_maps, None)
        with torch.no_grad():
            body = self._maps_body() if of_maps else self.body
            self.ranges[of_maps] = observe(body, (batch.float() for batch in frames), name=self.name)

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


@contextmanager
def _all_digits() -> Iterator[None]:
    """fp32 that is fp32. By default a GPU rounds what its convolutions multiply to 10 bits (TF32), and features would
    differ by 1e-3 from those that a CPU stored; who wants speed there has bf16."""
    cudnn: Any = torch.backends.cudnn  # its settings have no types
    convolutions = cudnn.conv
    before = convolutions.fp32_precision
    convolutions.fp32_precision = "ieee"
    try:
        yield
    finally:
        convolutions.fp32_precision = before


def _build(name: str) -> tuple[str, nn.Module, int, str | None]:
    """Library, network without its classifier, length of its features, name of the classifier."""
    if name in _OURS:
        ours = _OURS[name]()
        return "kinema", ours, ours.num_features, None
    import timm
    import torchvision

    bare = name.removeprefix("torchvision/").removeprefix("timm/")
    zoo = torchvision.models.list_models(module=torchvision.models)
    if not name.startswith("timm/") and bare in zoo:
        body = torchvision.models.get_model(bare, weights=None, **_OPTIONS.get(bare, {}))
        return "torchvision", body, *_remove_classifier(body, name)
    if not name.startswith("torchvision/") and timm.is_model(bare):
        network: Any = timm.create_model(bare, pretrained=False, num_classes=0)
        # What comes out behind a last convolution or linear layer may be wider than the feature map.
        num_features = getattr(network, "head_hidden_size", None) or network.num_features
        classifier = network.default_cfg.get("classifier")  # some have several
        return "timm", network, num_features, classifier if isinstance(classifier, str) else None
    raise ConfigError(f"model.backbone: no image network {name!r}{_nearest(bare, zoo)}")


def _nearest(name: str, zoo: list[str]) -> str:
    """Only the nearest name: the libraries have over a thousand."""
    import timm

    return suggest(name, [*_OURS, *zoo, *timm.list_models()]).split(" (known")[0]


def _remove_classifier(body: nn.Module, name: str) -> tuple[int, str]:
    """Replace torchvision's classifier, under whichever of its names, by the identity up to its last linear layer.

    Returns:
        Inputs of that layer, and its name.
    """
    for attribute in ("fc", "classifier", "heads", "head"):
        classifier = getattr(body, attribute, None)
        if isinstance(classifier, nn.Linear):
            setattr(body, attribute, nn.Identity())
            return classifier.in_features, attribute
        if isinstance(classifier, nn.Sequential):
            names = [name for name, _ in classifier.named_children()]
            *before, last = classifier
            if isinstance(last, nn.Linear):
                while before and isinstance(before[-1], nn.Dropout):  # heads have their own
                    before.pop()
                setattr(body, attribute, nn.Sequential(*before))
                return last.in_features, f"{attribute}.{names[-1]}"
    raise ConfigError(f"model.backbone: {name!r} does not end in one linear layer; it cannot be a frame backbone")


class _TimmMaps(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, frames: Tensor) -> Tensor:
        maps: Tensor = self.body.forward_features(frames)  # type: ignore[operator]
        return maps


def _without_pooling(body: nn.Module, library: str, name: str, *, is_cut: bool) -> nn.Module:
    """The same network up to where it averages over the frame; it shares the weights of `body`."""
    refusal = ConfigError(f"model.backbone: {name!r} has no feature maps; take a convolutional network")
    if isinstance(body, Tiny | PlainCNN):
        return body.convolutions
    if library == "timm" and not is_cut:
        channels = getattr(body, "num_features", None)
        network = _TimmMaps(body)
        shape = shape_of(network)
        if len(shape) != 4 or shape[1] != channels:
            raise refusal
        return network
    try:
        maps = fx.GraphModule(body, LeavesTracer().trace(body))
    except NOT_TRACEABLE:
        raise refusal from None
    modules = dict(body.named_modules())
    (output,) = (node for node in maps.graph.nodes if node.op == "output")
    for node in reversed(list(maps.graph.nodes)):
        target = modules.get(str(node.target)) if node.op == "call_module" else node.target
        if isinstance(target, nn.AdaptiveAvgPool2d) or target in (nn.functional.adaptive_avg_pool2d, "mean"):
            output.args = (node.args[0],)
            maps.graph.eliminate_dead_code()
            maps.recompile()
            if len(shape_of(maps)) == 4:
                return maps
    raise refusal


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
