"""From the `model:` and `init:` sections of a recipe to a module with weights."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.func import functional_call

from kinema import registry
from kinema.models.frame_model import FrameModel
from kinema.models.freezing import Backbone, backbones, freeze, of_name
from kinema.models.fused_model import FusedModel
from kinema.models.layers.backbone import IMAGENET_MEAN, IMAGENET_STD
from kinema.models.layers.channels import RGB, fit_stream
from kinema.models.matching import Loaded, load_matching, some_of
from kinema.models.streams_model import StreamsModel
from kinema.models.weights import read_config, weights_folder
from kinema.preprocessing import rgb_normalisation
from kinema.sections import InitSection
from kinema.state_dict import read_state_dict, reason
from kinema.types import ConfigError, DataError, Heads, Inputs, Preprocessing, UserError, only

log = logging.getLogger(__name__)

Normalisation: TypeAlias = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation."""

_RUN_BEFORE: set[object] = set()
"""What has been seen to run: folds and seeds of a study are of the same model."""


@dataclass(frozen=True, kw_only=True)
class Initialisation:
    """What `initialise` did.

    Attributes:
        mean: Normalisation that the weights expect.
        std: Like `mean`.
        summary: One line for a person.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
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
        module = construct(name, function, arguments, heads=heads, inputs=inputs)
        _check_centred(module, inputs)
        sizes = tuple((task, len(names)) for task, names in heads.items())
        case = (function, repr(sorted(arguments.items())), sizes, tuple(inputs.items()))
        if case not in _RUN_BEFORE:
            _check_shapes(module, inputs)
            _RUN_BEFORE.add(case)
    except UserError:
        raise
    except (RuntimeError, ValueError, AssertionError, TypeError, LookupError, ArithmeticError) as error:
        shapes = ", ".join(
            f"{shape.num_frames} frames of {shape.height_px}x{shape.width_px} px" for shape in inputs.values()
        )
        raise ConfigError(f"model.name: {name} cannot be built for clips of {shapes}: {reason(error)}") from error
    return module


def construct(
    name: str, function: Callable[..., nn.Module], arguments: Mapping[str, Any], *, heads: Heads, inputs: Inputs
) -> nn.Module:
    """What a registered function builds, with first layers for the channels of the stream that it sees.

    Raises:
        ConfigError: An argument is impossible, or the first layer is for red, green and blue alone.
    """
    module = function(heads, inputs, **arguments)
    if len(inputs) == 1 and only(inputs).channels != RGB:
        parts = backbones(module)
        ((stream, shape),) = inputs.items()
        for part in parts.values() if parts else (module,):
            fit_stream(part, stream, shape.channels, name=name)
    return module


def initialise(model: nn.Module, init: InitSection) -> Initialisation:
    """Load weights and freeze, in place.

    Raises:
        ConfigError: The setting is impossible for this model.
        DataError: A file is missing, unreadable, or fits nothing in the model.
    """
    parts = backbones(model)
    takes_all = bool(getattr(model, "normalises", False))  # an ensemble whose members expect different pixels
    part: Any = model if takes_all else next(iter(parts.values()), model)
    mean, std = getattr(part, "mean", IMAGENET_MEAN), getattr(part, "std", IMAGENET_STD)
    given = (init.mean, init.std) if init.mean is not None and init.std is not None else None
    weights = init.weights
    folder = _folder(weights) if isinstance(weights, str) else None
    if isinstance(weights, str) and (weights == "published" or _is_one_for_each(model, parts, folder)):
        # One network several times, as of the streams of a clip: weights are for each of them.
        weights = dict.fromkeys(parts if folder is None else _networks(model, parts), weights)
        folder = None
    loaded: Loaded | None = None
    meant = parts  # whose weights are given
    if takes_all and weights is not None and folder is None:
        raise ConfigError("init.weights: this model normalises pixels itself (model.means); give a weights folder")
    if given and (takes_all or folder is not None):
        why = f"{folder} brings its own" if folder else "this model normalises pixels itself (model.means)"
        raise ConfigError(f"init.mean: {why}; leave init.mean and init.std out")
    if folder is not None:
        mean, std = rgb_normalisation(read_config(folder).preprocessing)
        state = read_state_dict(folder / "model.safetensors")
        loaded = load_matching(model, state, source=str(folder), inflate=init.inflate)
    elif isinstance(weights, str):
        state = read_state_dict(Path(weights))
        mean, std = given or _assumed(weights, (mean, std))
        loaded = load_matching(model, state, source=weights, inflate=init.inflate)
    elif weights is not None:
        each = _sources(model, parts, weights)
        meant = {name: part for name, part in parts.items() if any(f"{name}.".startswith(f"{n}.") for n in each)}
        mean, std = _normalisation(parts, each, given)
        loaded = _load_each(model, parts, each, inflate=init.inflate)
    else:
        mean, std = given or (mean, std)
    frozen = freeze(model, init.freeze, train_last=init.train_last)
    if loaded is not None:
        _check_random(model, loaded, init.weights if isinstance(init.weights, str) else "init.weights", meant)
    summary = "from scratch" if loaded is None else loaded.summary
    return Initialisation(mean=mean, std=std, summary=f"{summary}, {frozen}" if frozen else summary)


def _assumed(source: str, published: Normalisation) -> Normalisation:
    mean, std = published
    log.warning(
        "init.mean and init.std are not given: %s is taken to expect the normalisation of the published "
        "weights, mean %s and std %s",
        source,
        _numbers(mean),
        _numbers(std),
    )
    return published


def _folder(weights: str) -> Path | None:
    """The weights folder of kinema that is named, or is inside a run that is."""
    folder = weights_folder(Path(weights))
    return folder if (folder / "config.json").is_file() else None


def _is_one_for_each(model: nn.Module, parts: Mapping[str, Backbone], folder: Path | None) -> bool:
    """Whether a file, or the weights folder of a model of one stream, is for each backbone, all of the same network."""
    if len({part.name for part in parts.values()}) != 1 or len(parts) == 1 or getattr(model, "normalises", False):
        return False
    is_of_streams = isinstance(model, StreamsModel | FusedModel)
    return folder is None or (is_of_streams and len(read_config(folder).preprocessing) == 1)


def _networks(model: nn.Module, parts: Mapping[str, Backbone]) -> list[str]:
    """Places of whole networks inside a model: of what holds a backbone beside its temporal module and heads."""
    found = dict.fromkeys(place.rpartition(".")[0] for place in parts)
    return [place for place in found if place and not isinstance(model.get_submodule(place), nn.ModuleList)]


def _sources(model: nn.Module, parts: Mapping[str, Backbone], weights: Mapping[str, str]) -> dict[str, str]:
    """Backbone, or whole network, by its place in the model -> `published`, a file or a weights folder.

    Raises:
        ConfigError: The model has no such part, or no backbone at all.
    """
    if not parts:
        raise ConfigError("init.weights: nothing is published for this model; give the path of a file")
    networks, found = _networks(model, parts), dict[str, str]()
    for name, source in weights.items():
        if name in networks and source == "published":
            raise ConfigError(f"init.weights: what is published is of a backbone; name {name}.backbone")
        places = [name] if name in networks else of_name(parts, name, key="init.weights")
        found.update(dict.fromkeys(places, source))
    return found


def _normalisation(
    parts: Mapping[str, Backbone], sources: Mapping[str, str], given: Normalisation | None
) -> Normalisation:
    """What the weights of all parts expect of RGB.

    Raises:
        ConfigError: They expect different pixels, or what is given says nothing of any file.
    """
    published = [parts[name] for name, source in sources.items() if source == "published"]
    folders = {str(folder): read_config(folder).preprocessing for folder in map(_folder, sources.values()) if folder}
    files = [name for name, source in sources.items() if source != "published" and not _folder(source)]
    names = ", ".join(part.name for part in published)
    expected: dict[Normalisation, str] = {
        (part.mean, part.std): f"the published weights of {names}" for part in published
    }
    if len(expected) > 1:
        raise ConfigError(f"init.weights: the published weights of {names} expect pixels of different normalisations")
    for folder, streams in folders.items():
        if any(each.motion is None for each in streams.values()):
            expected.setdefault(rgb_normalisation(streams), folder)
    if len(expected) > 1:
        one, other, *_ = expected.values()
        raise ConfigError(f"init.weights: {one} and {other} expect pixels of different normalisations")
    if given and not files:
        whose = "published weights" if published else "weights folders"
        raise ConfigError(f"init.mean: {whose} bring their own; leave init.mean and init.std out")
    if expected and given not in (None, *expected):
        (((mean, std), who),) = expected.items()
        raise ConfigError(
            f"init.mean: {who} expect mean {_numbers(mean)} and std {_numbers(std)}, {sources[files[0]]} other pixels; "
            "one model sees one kind: take files that expect the same, or published weights of all"
        )
    moving = {folder: streams for folder, streams in folders.items() if all(s.motion for s in streams.values())}
    if expected or given:
        chosen = given or next(iter(expected))
        chosen = chosen if given or not files else _assumed(sources[files[0]], chosen)
    elif moving:  # those of differences tell more: three numbers
        chosen = rgb_normalisation(max(moving.values(), key=lambda streams: "rgb_difference" in streams))
    else:
        part = next(part for name, part in parts.items() if f"{name}.".startswith(f"{files[0]}."))
        chosen = _assumed(sources[files[0]], (part.mean, part.std))
    for folder, streams in moving.items():
        _check_scale(folder, streams, chosen)
    return chosen


def _check_scale(folder: str, streams: Mapping[str, Preprocessing], chosen: Normalisation) -> None:
    """What moves is scaled by the deviation of RGB, differences by that of each colour.

    Raises:
        ConfigError: Weights expect it in another scale.
    """
    std = rgb_normalisation(streams)[1]
    pairs = zip(std, chosen[1], strict=True) if "rgb_difference" in streams else [(sum(std), sum(chosen[1]))]
    if any(abs(one - other) > 1e-4 for one, other in pairs):
        raise ConfigError(
            f"init.weights: {folder} was trained with what moves scaled by std {_numbers(std)}, and the others expect "
            f"std {_numbers(chosen[1])}; train it with init.std of these"
        )


def _load_each(model: nn.Module, parts: Mapping[str, Backbone], sources: Mapping[str, str], *, inflate: bool) -> Loaded:
    """Give backbones, and whole networks, the weights that are meant for each."""
    loaded = []
    for place, source in sources.items():
        if source == "published":
            called = source if len(parts) == 1 else f"{source} for {parts[place].name}"
            state = parts[place].published_weights()
            loaded.append(load_matching(model, state, source=called, inflate=inflate, part=place, is_its_own=True))
            continue
        folder = _folder(source)
        state = read_state_dict(Path(source) if folder is None else folder / "model.safetensors")
        state = {
            name.removeprefix(f"{place}."): t for name, t in state.items() if name.startswith(f"{place}.")
        } or state
        if place in parts:
            called = source if len(parts) == 1 else f"{source} for {parts[place].name}"
            loaded.append(load_matching(model, state, source=called, inflate=inflate, part=place))
            continue
        one = load_matching(model.get_submodule(place), state, source=f"{source} for {place}", inflate=inflate)
        others = [name for name in model.state_dict() if not name.startswith(f"{place}.")]
        loaded.append(replace(one, random=[*others, *(f"{place}.{name}" for name in one.random)]))
    random = [name for name in loaded[0].random if all(name in other.random for other in loaded)]
    hint = next((one.hint for one in loaded if one.hint), "")
    return Loaded(summary="; ".join(one.summary for one in loaded), random=random, hint=hint)


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
            f"weights{loaded.hint}"
        )
    random = [name for name in loaded.random if _is_of(name, parts)]
    if random:
        log.warning(
            "%s: %d tensors of the backbone are not in it: %s; they stay random%s",
            source,
            len(random),
            some_of(random),
            loaded.hint,
        )


def _is_of(name: str, parts: Mapping[str, Backbone]) -> bool:
    return any(name.startswith(f"{part}.") for part in parts)


def _check_centred(module: nn.Module, inputs: Inputs) -> None:
    """Raises a ConfigError where nothing is left of a clip without its mean."""
    centred = isinstance(module, FrameModel) and module.centred  # members of an ensemble are built one by one
    if centred and min(shape.num_frames for shape in inputs.values()) < 2:
        raise ConfigError(
            "model.feature_norm: clip takes the mean over frames away, which leaves nothing of a single one; raise "
            "clips.num_frames, or take batch or none"
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


def _numbers(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"
