"""From the `model:` and `init:` sections of a recipe to a module with weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from kinema import registry
from kinema.models.freezing import Backbone, backbones, freeze
from kinema.models.layers.backbone import IMAGENET_MEAN, IMAGENET_STD
from kinema.models.matching import Loaded, load_matching, some_of
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
    parts = backbones(model)
    part: Any = next(iter(parts.values()), model)
    published = getattr(part, "mean", IMAGENET_MEAN), getattr(part, "std", IMAGENET_STD)
    given = (init.mean, init.std) if init.mean is not None and init.std is not None else None
    mean, std = published if init.weights == "published" else given or published
    loaded: Loaded | None = None
    folder = None if init.weights is None else weights_folder(Path(init.weights))
    if folder is not None and (folder / "config.json").is_file():
        preprocessing = read_config(folder).preprocessing["rgb"]
        mean, std = preprocessing.mean, preprocessing.std
        state = read_state_dict(folder / "model.safetensors")
        loaded = load_matching(model, state, source=str(folder), inflate=init.inflate)
    elif init.weights == "published":
        loaded = _load_published(model, parts, inflate=init.inflate)
    elif init.weights is not None:
        state = read_state_dict(Path(init.weights))
        if given is None:
            log.warning(
                "init.mean and init.std are not given: %s is taken to expect the normalisation of the published "
                "weights, mean %s and std %s",
                init.weights,
                _numbers(mean),
                _numbers(std),
            )
        loaded = load_matching(model, state, source=init.weights, inflate=init.inflate)
    frozen = freeze(model, init.freeze, train_last=init.train_last)
    if loaded is not None:
        _check_random(model, loaded, str(init.weights), parts)
    summary = "from scratch" if loaded is None else loaded.summary
    return Initialisation(mean=mean, std=std, summary=f"{summary}, {frozen}" if frozen else summary)


def _load_published(model: nn.Module, parts: Mapping[str, Backbone], *, inflate: bool) -> Loaded:
    """Give every backbone the weights that are published for it.

    Raises:
        ConfigError: Nothing is published for this model, or its backbones expect different pixels.
    """
    if not parts:
        raise ConfigError("init.weights: nothing is published for this model; give the path of a file")
    if len({(part.mean, part.std) for part in parts.values()}) > 1:
        names = ", ".join(part.name for part in parts.values())
        raise ConfigError(f"init.weights: the published weights of {names} expect pixels of different normalisations")
    loaded = [
        load_matching(model, part.published_weights(), source="published", inflate=inflate, part=name)
        for name, part in parts.items()
    ]
    random = [name for name in loaded[0].random if all(name in other.random for other in loaded)]
    return Loaded(summary="; ".join(one.summary for one in loaded), random=random)


def _check_random(model: nn.Module, loaded: Loaded, source: str, parts: Mapping[str, Backbone]) -> None:
    """Warn of weights of a backbone that stay random.

    Raises:
        DataError: They would stay so for good, being frozen.
    """
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    trained_modules = {name.rpartition(".")[0] for name in trained}
    lacking = [name for name in loaded.random if name.rpartition(".")[0] not in trained_modules]
    if lacking:
        what = "tensors of the backbone" if all(_is_of(name, parts) for name in lacking) else "frozen tensors"
        raise DataError(
            f"{source}: {len(lacking)} {what} are not in it: {some_of(lacking)}; a frozen backbone needs all of its "
            "weights"
        )
    random = [name for name in loaded.random if _is_of(name, parts)]
    if random:
        log.warning(
            "%s: %d tensors of the backbone are not in it: %s; they stay random", source, len(random), some_of(random)
        )


def _is_of(name: str, parts: Mapping[str, Backbone]) -> bool:
    return any(name.startswith(f"{part}.") for part in parts)


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


def _numbers(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"
