"""The layers of a model by name: which there are, what they give, and where in a clip their numbers belong."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kinema.models.layers.backbone import FrameBackbone
from kinema.models.layers.perceiver import PerceiverPool
from kinema.types import ConfigError

_NAMED = 12
"""Names of layers in a message."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A module that was called.

    Attributes:
        name: As `named_modules` has it.
        kind: Its class.
        shape: Of what it gave, the last time that it was called.
        grid: (t, h, w) of tokens, where it says so itself.
        module: Itself.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    grid: tuple[int, ...] | None
    module: nn.Module


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where in a clip the numbers of a layer belong.

    Attributes:
        arrange: From what the layer gives of one clip to (D, t, h, w).
        shape: (D, t, h, w); h and w are 1 of what knows moments alone.
        alone: Each moment has numbers that were computed from it alone.
    """

    arrange: Callable[[Tensor], Float[Tensor, "D t h w"]]
    shape: tuple[int, int, int, int]
    alone: bool


@contextmanager
def open_to_gradients(model: nn.Module) -> Iterator[None]:
    """A model in evaluation mode whose frozen backbones hand gradients back and run layer by layer, so that they can be
    watched. What it computes stays what it is."""
    training = {module: module.training for module in model.modules()}
    frozen = [part for part in model.modules() if isinstance(part, FrameBackbone) and part.frozen]
    needed = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval()
    model.requires_grad_(False)  # gradients are of what layers give, not of weights
    try:
        for part in frozen:
            part.frozen = False
        # A GPU's own recurrent layers have no gradients in evaluation mode.
        with torch.backends.cudnn.flags(enabled=False) if _on_gpu(model) else ExitStack():
            yield
    finally:
        for part in frozen:
            part.frozen = True
        for parameter in needed:
            parameter.requires_grad_(True)
        for module, mode in training.items():
            module.training = mode


def called_layers(model: nn.Module, run: Callable[[], object]) -> list[Layer]:
    """Layers in the order in which they end, each where it ends for the last time; of those that give tensors.

    Args:
        model: Whose layers.
        run: Runs it.
    """
    found: dict[str, Layer] = {}

    def note(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, _: Any, answer: Any) -> None:
            tensor = tensor_of(answer)
            if tensor is not None:
                found.pop(name, None)
                found[name] = Layer(
                    name=name, kind=type(module).__name__, shape=tuple(tensor.shape), grid=_grid(answer), module=module
                )

        return hook

    handles = [module.register_forward_hook(note(name)) for name, module in model.named_modules() if name]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return list(found.values())


@contextmanager
def watched(modules: Mapping[str, nn.Module], *, gradients: bool = False) -> Iterator[dict[str, Tensor]]:
    """Keep what modules give, the last time that they are called.

    Args:
        modules: Name -> module.
        gradients: Of what they give there are to be gradients, whatever was before them.

    Yields:
        Name -> what it gave, filled while the block runs the model.
    """
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Any], Any]:
        def hook(_: nn.Module, __: Any, answer: Any) -> Any:
            tensor = tensor_of(answer)
            assert tensor is not None
            if gradients and not tensor.requires_grad:
                tensor = tensor.detach().requires_grad_(True)
            kept[name] = tensor
            # What comes next may change its input in place, as many a ReLU does.
            own = tensor.clone()
            return own if isinstance(answer, Tensor) else type(answer)((own, *answer[1:]))

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def find_layer(name: str, names: Sequence[str], *, option: str = "--layer") -> str:
    """The layer that is meant: by its name, or by the end of it, where that says which.

    Raises:
        ConfigError: There is none, or there are several.
    """
    if name in names:
        return name
    ends = [known for known in names if known.endswith(f".{name}")]
    if len(ends) == 1:
        return ends[0]
    if ends:
        raise ConfigError(f"{option}: {name!r} may be {_some(ends)}; give the whole name")
    parent = name.rpartition(".")[0]
    inside = [known for known in names if parent and f".{known}".rpartition(".")[0].endswith(f".{parent}")]
    # The beginning of a name is what all of them share: what tells them apart is its end.
    short = {known.split("body.")[-1]: known for known in names}
    near = get_close_matches(name.split("body.")[-1], short, n=1, cutoff=0.6)
    meant = f"; did you mean {short[near[0]]!r}?" if near else ""
    some = inside or [known for known in names if known.count(".") <= 2]
    raise ConfigError(f"{option}: no layer {name!r}{meant} (there are {_some(some)}; kinema explain layers lists all)")


def places(layer: Layer, layers: Sequence[Layer], *, num_frames: int, without: Collection[str] = ()) -> Places | None:
    """Where the numbers of a layer belong; None where that cannot be told.

    Args:
        layer: Of one clip.
        layers: All that were called.
        num_frames: Of the clip.
        without: Beginnings of names of layers whose tokens are no moments.
    """
    shape = layer.shape
    if any(layer.name.startswith(start) for start in without):
        return None
    if len(shape) == 5 and shape[0] == 1:
        return _of_clip_map(shape)
    if len(shape) == 4:
        return _of_frame_maps(shape, num_frames)
    if len(shape) == 3:
        patches = layer.grid or _patches(layers, num_frames)
        return _of_tokens(shape, patches, num_frames, alone=layer.grid is None and _sees_frames(layers))
    if len(shape) == 2 and shape[0] == num_frames > 1:
        return Places(arrange=lambda x: x.T[:, :, None, None], shape=(shape[1], num_frames, 1, 1), alone=True)
    return None


def latent_prefixes(model: nn.Module) -> tuple[str, ...]:
    """Beginnings of names of layers on learned queries, of which there may be as many as there are frames."""
    return tuple(f"{name}." for name, module in model.named_modules() if name and isinstance(module, PerceiverPool))


def tensor_of(answer: Any) -> Tensor | None:
    """What a layer gives, where that is a tensor of real numbers, or begins with one."""
    first = answer[0] if isinstance(answer, tuple) and answer else answer
    return first if isinstance(first, Tensor) and first.is_floating_point() else None


def _of_clip_map(shape: tuple[int, ...]) -> Places | None:
    _, a, b, c, d = shape
    if c == d:  # frames are square
        return Places(arrange=lambda x: x[0], shape=(a, b, c, d), alone=False)
    if b == c:
        return Places(arrange=lambda x: x[0].movedim(-1, 0), shape=(d, a, b, c), alone=False)
    return None


def _of_frame_maps(shape: tuple[int, ...], num_frames: int) -> Places | None:
    n, a, b, c = shape
    if n == num_frames and b == c:
        return Places(arrange=lambda x: x.transpose(0, 1), shape=(a, n, b, c), alone=True)
    if n == num_frames and a == b:
        return Places(arrange=lambda x: x.movedim(-1, 0), shape=(c, n, a, b), alone=True)
    if (n, b, c) == (1, 1, num_frames):  # a clip as an image of height 1
        return Places(arrange=lambda x: x[0].transpose(1, 2)[..., None], shape=(a, num_frames, 1, 1), alone=True)
    return None


def _of_tokens(shape: tuple[int, ...], grid: tuple[int, ...] | None, num_frames: int, *, alone: bool) -> Places | None:
    """Of tokens (N, number, D).

    Args:
        shape: Of them.
        grid: (t, h, w) of the clip's patches.
        num_frames: Of the clip.
        alone: Each frame was cut into patches alone.
    """
    n, num_tokens, width = shape
    if n == num_frames and (n > 1 or grid is None):
        of_frames = _of_patches(shape)
        if of_frames is not None:
            return of_frames
    if n != 1:
        return None
    if grid is not None:
        t, h, w = grid
        first = num_tokens - t * h * w
        if first in (0, 1) and alone:  # TimeSformer: place by place, the moments of each
            return Places(
                arrange=lambda x: torch.unflatten(x[0, first:].T, 1, (h, w, t)).movedim(-1, 1),
                shape=(width, t, h, w),
                alone=False,
            )
        if first in (0, 1):
            return Places(
                arrange=lambda x: torch.unflatten(x[0, first:].T, 1, (t, h, w)), shape=(width, t, h, w), alone=False
            )
    first = num_tokens - num_frames
    if first in (0, 1) and num_frames > 1:
        return Places(arrange=lambda x: x[0, first:].T[:, :, None, None], shape=(width, num_frames, 1, 1), alone=True)
    return None


def _of_patches(shape: tuple[int, ...]) -> Places | None:
    """Of frames that were cut into squares of patches, with or without a class token in front."""
    num_frames, num_tokens, width = shape
    side = math.isqrt(num_tokens)
    first = num_tokens - side * side
    if side < 2 or first > 1:
        return None
    return Places(
        arrange=lambda x: torch.unflatten(x[:, first:], 1, (side, side)).movedim(-1, 0),
        shape=(width, num_frames, side, side),
        alone=True,
    )


def _patches(layers: Sequence[Layer], num_frames: int) -> tuple[int, ...] | None:
    """(t, h, w) of the patches of a clip: what the first convolution makes of it."""
    for layer in layers:
        if layer.kind == "Conv3d" and len(layer.shape) == 5:
            return layer.shape[2:]
        if layer.kind == "Conv2d" and len(layer.shape) == 4 and layer.shape[0] == num_frames:
            return num_frames, *layer.shape[2:]
    return None


def _sees_frames(layers: Sequence[Layer]) -> bool:
    return next((layer.kind for layer in layers if layer.kind.startswith("Conv")), "") == "Conv2d"


def _grid(answer: Any) -> tuple[int, ...] | None:
    """MViT's layers give their tokens and their number in time, height and width."""
    if isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], tuple) and len(answer[1]) == 3:
        return tuple(int(size) for size in answer[1])
    return None


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


def _on_gpu(model: nn.Module) -> bool:
    return any(parameter.is_cuda for parameter in model.parameters())
