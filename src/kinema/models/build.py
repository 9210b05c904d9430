"""From the `model:` and `init:` sections of a recipe to a module with weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from kinema import registry
from kinema.models.layers.backbone import IMAGENET_MEAN, IMAGENET_STD, FrameBackbone
from kinema.models.weights import read_config, read_state_dict, reason, weights_folder
from kinema.sections import InitSection
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
    try:
        module: nn.Module = function(heads, inputs, **arguments)
        _check_shapes(module, inputs)
    except UserError:
        raise
    except (RuntimeError, ValueError, AssertionError, TypeError, LookupError, ArithmeticError) as error:
        shapes = ", ".join(
            f"{shape.num_frames} frames of {shape.height_px}x{shape.width_px} px" for shape in inputs.values()
        )
        raise ConfigError(f"model.name: {name} cannot be built for clips of {shapes}: {reason(error)}") from error
    return module


def initialise(model: nn.Module, init: InitSection) -> Initialisation:
    """Load weights and freeze, in place.

    Raises:
        ConfigError: The setting is impossible for this model.
        DataError: A file is missing, unreadable, or fits nothing in the model.
    """
    part: Any = getattr(model, "backbone", model)
    published = getattr(part, "mean", IMAGENET_MEAN), getattr(part, "std", IMAGENET_STD)
    given = (init.mean, init.std) if init.mean is not None and init.std is not None else None
    mean, std = published if init.weights == "published" else given or published
    loaded: Loaded | None = None
    folder = None if init.weights is None else weights_folder(Path(init.weights))
    if folder is not None and (folder / "config.json").is_file():
        preprocessing = read_config(folder).preprocessing["rgb"]
        mean, std = preprocessing.mean, preprocessing.std
        loaded = load_matching(model, read_state_dict(folder / "model.safetensors"), source=str(folder))
    elif init.weights is not None:
        if init.weights == "published":
            if not hasattr(part, "published_weights"):
                raise ConfigError("init.weights: nothing is published for this model; give the path of a file")
            state = part.published_weights()
        else:
            state = read_state_dict(Path(init.weights))
            if given is None:
                log.warning(
                    "init.mean and init.std are not given: %s is taken to expect the normalisation of the published "
                    "weights, mean %s and std %s",
                    init.weights,
                    _numbers(mean),
                    _numbers(std),
                )
        loaded = load_matching(model, state, source=init.weights)
    summary = "from scratch" if loaded is None else loaded.summary
    if init.freeze == "backbone":
        if not isinstance(part, FrameBackbone):
            raise ConfigError("init.freeze: this model has no frame backbone to freeze; use none")
        part.freeze()
        summary += ", backbone frozen"
    if loaded is not None and loaded.random:
        lacking = f"{init.weights}: {len(loaded.random)} tensors of the backbone are not in it: {_some(loaded.random)}"
        if init.freeze == "backbone":
            raise DataError(f"{lacking}; a frozen backbone needs all of its weights")
        log.warning("%s; they stay random", lacking)
    return Initialisation(mean=mean, std=std, summary=summary)


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What `load_matching` did.

    Attributes:
        summary: One line that says what fitted.
        random: Names of the frame backbone's tensors that nothing was found for.
    """

    summary: str
    random: list[str]


def load_matching(model: nn.Module, state: Mapping[str, Tensor], *, source: str) -> Loaded:
    """Load the tensors whose name and shape fit: into the whole model, or into its backbone.

    Args:
        model: The model, changed in place.
        state: Name -> tensor. A prefix shared by all names (`module.`, `model.`, ...) is ignored.
        source: Where `state` comes from, for messages.

    Raises:
        DataError: Nothing fits.
    """
    own = model.state_dict()
    prefixes = ["", "backbone.body."] if isinstance(getattr(model, "backbone", None), FrameBackbone) else [""]
    part, found = "", dict[str, Tensor]()
    for prefix in prefixes:
        for names in _without_prefixes(state):
            fitting = {prefix + name: state[source_name] for name, source_name in names.items()}
            fitting = {n: tensor for n, tensor in fitting.items() if n in own and own[n].shape == tensor.shape}
            if len(fitting) > len(found):
                part, found = prefix, fitting
    if not found:
        some = ", ".join(list(state)[:3])
        raise DataError(f"{source}: none of its {len(state)} tensors fits this model (it holds {some}, ...)")
    model.load_state_dict(found, strict=False)
    num_wanted = sum(name.startswith(part) for name in own)
    num_left = len(state) - len(found)
    summary = f"{len(found)} of the {'backbone' if part else 'model'}'s {num_wanted} tensors from {source}"
    return Loaded(
        summary=summary + (f" ({num_left} not used, such as a classifier)" if num_left else ""),
        # Files from before batch norm counted its batches lack these counts, which nothing depends on.
        random=[n for n in own if n.startswith("backbone.") and n not in found and "num_batches_tracked" not in n],
    )


def _check_shapes(module: nn.Module, inputs: Inputs) -> None:
    """Run the model without memory or arithmetic (on torch's meta device), so that an impossible combination of clip
    length, size and architecture is found before training and not at its first step. In both modes, because some
    networks do other things in training."""
    tensors = [*module.named_parameters(), *module.named_buffers()]
    without_memory = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors}
    for training in (False, True):
        module.train(training)
        with torch.device("meta"), torch.no_grad():
            clips = {
                stream: torch.empty(2, shape.num_frames, shape.channels, shape.height_px, shape.width_px)
                for stream, shape in inputs.items()
            }
            functional_call(module, without_memory, (clips,))


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
