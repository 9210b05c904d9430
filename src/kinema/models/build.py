"""From the `model:` and `init:` sections of a recipe to a module with weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kinema import registry
from kinema.config import InitSection
from kinema.models.layers.backbone import IMAGENET_MEAN, IMAGENET_STD, FrameBackbone
from kinema.models.weights import read_config, read_state_dict
from kinema.types import ConfigError, DataError, Heads, Inputs, UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Initialisation:
    """What `initialise` did.

    Attributes:
        mean: Normalisation that the weights expect.
        std: Like `mean`.
        summary: One line for a person.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    summary: str


def build_model(name: str, arguments: Mapping[str, Any], *, heads: Heads, inputs: Inputs) -> nn.Module:
    """Build a registered model with random weights, and check that it can take such clips.

    Args:
        name: A registered model.
        arguments: Keyword arguments of its function.
        heads: Task -> class names.
        inputs: Stream -> shape of the clips that it will be given.

    Raises:
        ConfigError: There is no such model, an argument is impossible, or it cannot be built for these clips.
    """
    function = registry.entry("model", name, key="model.name").load()
    _check_shapes(function, name, arguments, heads, inputs)
    module: nn.Module = function(heads, inputs, **arguments)
    return module


def initialise(model: nn.Module, init: InitSection) -> Initialisation:
    """Load weights and freeze, in place.

    Raises:
        ConfigError: The setting is impossible for this model.
        DataError: A file is missing, unreadable, or fits nothing in the model.
    """
    part: Any = getattr(model, "backbone", model)
    mean, std = getattr(part, "mean", IMAGENET_MEAN), getattr(part, "std", IMAGENET_STD)
    summary = "from scratch"
    if init.weights is not None and (Path(init.weights) / "config.json").is_file():
        folder = Path(init.weights)
        preprocessing = read_config(folder).preprocessing["rgb"]
        mean, std = preprocessing.mean, preprocessing.std
        summary = load_matching(model, read_state_dict(folder / "model.safetensors"), source=init.weights)
    elif init.weights is not None:
        if init.weights == "published":
            if not hasattr(part, "published_weights"):
                raise ConfigError("init.weights: nothing is published for this model; give the path of a file")
            state = part.published_weights()
        else:
            state = read_state_dict(Path(init.weights))
            if init.mean is None:
                log.warning(
                    "init.mean and init.std are not given: %s is taken to expect the normalisation of the published "
                    "weights, mean %s and std %s",
                    init.weights,
                    _numbers(mean),
                    _numbers(std),
                )
        summary = load_matching(model, state, source=init.weights)
    if init.mean is not None and init.std is not None:
        mean, std = init.mean, init.std
    if init.freeze == "backbone":
        if not isinstance(part, FrameBackbone):
            raise ConfigError("init.freeze: this model has no frame backbone to freeze; use none")
        part.freeze()
        summary += ", backbone frozen"
    return Initialisation(mean=mean, std=std, summary=summary)


def load_matching(model: nn.Module, state: Mapping[str, Tensor], *, source: str) -> str:
    """Load the tensors whose name and shape fit: into the whole model, or into its backbone.

    Args:
        model: The model, changed in place.
        state: Name -> tensor. A prefix shared by all names (`module.`, `model.`, ...) is ignored.
        source: Where `state` comes from, for messages.

    Returns:
        One line that says what fitted.

    Raises:
        DataError: Nothing fits.
    """
    backbone = getattr(model, "backbone", None)
    targets = [model, backbone.body] if isinstance(backbone, FrameBackbone) else [model]
    best: tuple[nn.Module, dict[str, Tensor]] | None = None
    for target in targets:
        own = target.state_dict()
        for names in _without_prefixes(state):
            found = {n: state[s] for n, s in names.items() if n in own and own[n].shape == state[s].shape}
            if found and (best is None or len(found) > len(best[1])):
                best = (target, found)
    if best is None:
        some = ", ".join(list(state)[:3])
        raise DataError(f"{source}: none of its {len(state)} tensors fits this model (it holds {some}, ...)")
    target, found = best
    missing = [name for name in target.state_dict() if name not in found]
    target.load_state_dict(found, strict=False)
    if missing and target is not model:
        log.warning("%s: %d tensors of the backbone stay random: %s", source, len(missing), _some(missing))
    part = "model" if target is model else "backbone"
    left = len(state) - len(found)
    return f"{len(found)} of the {part}'s {len(found) + len(missing)} tensors from {source}" + (
        f" ({left} not used, such as a classifier)" if left else ""
    )


def _check_shapes(function: Any, name: str, arguments: Mapping[str, Any], heads: Heads, inputs: Inputs) -> None:
    """Run the model once without memory or arithmetic (torch's meta device), so that an impossible combination of
    clip length, size and architecture is found before training and not at its first step."""
    try:
        with torch.device("meta"), torch.no_grad():
            model = function(heads, inputs, **arguments).eval()
            clips = {
                stream: torch.empty(2, shape.num_frames, shape.channels, shape.height_px, shape.width_px)
                for stream, shape in inputs.items()
            }
            model(clips)
    except UserError:
        raise
    except (RuntimeError, ValueError, AssertionError, TypeError) as error:
        shapes = ", ".join(
            f"{shape.num_frames} frames of {shape.height_px}x{shape.width_px} px" for shape in inputs.values()
        )
        reason = str(error).splitlines()[0]
        raise ConfigError(f"model.name: {name} cannot be built for clips of {shapes}: {reason}") from None


def _without_prefixes(state: Mapping[str, Tensor]) -> list[dict[str, str]]:
    """Candidate namings: name without the first 0, 1, 2 or 3 parts that all names share -> name in the file."""
    names = {name: name for name in state}
    candidates = [names]
    for _ in range(3):
        heads = {name.partition(".")[0] for name in names}
        if len(heads) != 1 or not all("." in name for name in names):
            break
        names = {name.partition(".")[2]: original for name, original in names.items()}
        candidates.append(names)
    return candidates


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _numbers(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"
