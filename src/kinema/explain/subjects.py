"""Which networks pictures can be shown to, and how: a frame backbone still ones, a model moving ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from kinema.explain.features import Subject, unit_activations
from kinema.explain.gallery import Settings
from kinema.explain.layers import Layer, called_layers, find_layer, latent_prefixes, places
from kinema.explain.opened import Opened
from kinema.models.fused_model import FusedModel
from kinema.models.layers.backbone import FrameBackbone
from kinema.models.layers.shift import Shift
from kinema.models.matching import load_matching
from kinema.models.streams_model import StreamsModel
from kinema.state_dict import read_state_dict
from kinema.types import ConfigError, DataError, Preprocessing, fingerprint

SIZE_PX = 128
"""Of still pictures, by default: a network of convolutions takes any size, and small ones are made sooner."""

_BLOCKS = 4
"""Layers that are shown where none are named."""


def of_model(opened: Opened, *, size_px: int | None = None) -> list[Subject]:
    """A model's frame backbones, which are shown still pictures, and the model itself, which is shown clips.

    Args:
        opened: The model.
        size_px: Of still pictures.

    Raises:
        ConfigError: The network cannot take pictures of that size, or sees no pictures but what moves.
    """
    preprocessing = {stream: one for stream, one in opened.config.preprocessing.items() if one.motion is None}
    if not preprocessing:
        seen = ", ".join(opened.config.preprocessing)
        raise ConfigError(f"features are drawn as pictures, and this model sees none but {seen}; try explain saliency")
    model = opened.model
    if isinstance(model, StreamsModel) and len(preprocessing) == 1:
        model = model.networks[next(iter(preprocessing))]
    own = next(iter(preprocessing.values()))
    if isinstance(model, FusedModel):  # behind its backbones it sees several streams at once
        return [_still(model.backbones[stream], of, size_px=size_px) for stream, of in preprocessing.items()]
    subjects = [
        _still(module, own, size_px=size_px)
        for module in model.modules()
        if isinstance(module, FrameBackbone) and not _sees_neighbours(module)
    ]
    return [*subjects, _moving(model, preprocessing)]


def of_backbone(
    name: str,
    weights: Path | None,
    *,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    size_px: int | None,
    random: bool = False,
) -> Subject:
    """An image network with weights of a file, or published ones.

    Args:
        name: Of torchvision, timm or ours.
        weights: The file; None: the published ones.
        mean: Normalisation that they expect; by default that of the published ones.
        std: Like `mean`.
        size_px: Of pictures.
        random: Weights do not matter.

    Raises:
        ConfigError: There is no such network, or it cannot take pictures of that size.
        DataError: The weights are not its.
    """
    backbone = FrameBackbone(name)
    if not random:
        _load(backbone, weights)
    own = Preprocessing(
        num_frames=1, size_px=224, resize_px=256, fit="crop", mean=mean or backbone.mean, std=std or backbone.std
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return _still(backbone.to(device).eval(), own, size_px=size_px)


def _load(backbone: FrameBackbone, weights: Path | None) -> None:
    state = backbone.published_weights() if weights is None else read_state_dict(weights)
    holder, source = nn.ModuleDict({"backbone": backbone}), str(weights or "published weights")
    loaded = load_matching(holder, state, source=source, inflate=False, part="backbone", is_its_own=weights is None)
    missing = [name for name in loaded.random if not name.endswith("num_batches_tracked")]
    if missing:
        raise DataError(f"{source}: {len(missing)} tensors of {backbone.name} are not in it, such as {missing[0]}")


def layers_of(subject: Subject) -> list[Layer]:
    """Layers of a network that have units, in the order in which they end."""
    device = next(subject.module.parameters()).device
    picture = torch.full((1, 3, *subject.shape), 0.5, device=device)
    layers = called_layers(subject.module, lambda: subject.run(subject.given(picture)))
    return [layer for layer in layers if len(layer.shape) >= 2]


def choose_layers(subjects: Sequence[Subject], names: Sequence[str] | None) -> dict[str, tuple[Subject, Layer]]:
    """Layers by name, or some from the first to the last; of a backbone's layers, those that see still pictures.

    Raises:
        ConfigError: There is none of a name.
    """
    known: dict[str, tuple[Subject, Layer]] = {}
    for subject in reversed(subjects):  # still pictures are clearer, and made sooner
        prefix = _prefix(subjects[-1].module, subject.module)
        for layer in layers_of(subject):
            known[prefix + layer.name] = subject, layer
    ordered = sorted(known, key=lambda name: known[name][0] is subjects[-1] and len(subjects) > 1)
    chosen = _blocks(known) if names is None else [find_layer(name, ordered, option="--layers") for name in names]
    return {name: known[name] for name in chosen}


def rows_of_layers(subjects: Sequence[Subject]) -> list[dict[str, str]]:
    """For a list: name, class, shape of what it gives, whether saliency can use it, and what features it shows."""
    whole = subjects[-1]
    num_frames = whole.shape[0] if len(whole.shape) == 3 else 1
    without = latent_prefixes(whole.module)
    layers = layers_of(whole)
    still = {
        _prefix(whole.module, subject.module) + layer.name
        for subject in subjects
        if len(subject.shape) == 2
        for layer in layers_of(subject)
    }
    rows = []
    for layer in layers:
        where = places(layer, layers, num_frames=num_frames, without=without)
        t, h = (1, 1) if where is None else where.shape[1:3]
        rows.append(
            {
                "layer": layer.name,
                "kind": layer.kind,
                "gives": " x ".join(map(str, layer.shape)),
                "saliency": "places" if h > 1 else "moments" if t > 1 else "-",
                "features": "still" if layer.name in still else "moving",
            }
        )
    return rows


def choose_units(layer: Layer, subject: Subject, *, num: int, named: Sequence[int] | None) -> list[int]:
    """Units of a layer by number, or some from the first to the last.

    Raises:
        ConfigError: There is no such unit.
    """
    device = next(subject.module.parameters()).device
    picture = torch.full((1, 3, *subject.shape), 0.5, device=device)
    num_units = unit_activations(subject, layer.name, picture).shape[1]
    wrong = [unit for unit in named or () if not 0 <= unit < num_units]
    if wrong:
        raise ConfigError(f"--units: {layer.name} has units 0 to {num_units - 1}, not {wrong[0]}")
    return list(named) if named else sorted({round(i * (num_units - 1) / max(1, num - 1)) for i in range(num)})


def settings_of(subject: Subject, *, steps: int, seed: int) -> Settings:
    """What pictures of a network depend on."""
    facts = [
        (name, list(tensor.shape), float(tensor.double().sum()), float(tensor.double().square().sum()))
        for name, tensor in subject.module.state_dict().items()
    ]
    network = fingerprint([facts, subject.mean, subject.std])
    return Settings(network=network, shape=subject.shape, steps=steps, seed=seed)


def _still(module: FrameBackbone, own: Preprocessing, *, size_px: int | None) -> Subject:
    for size in (size_px or SIZE_PX, *(() if size_px else (own.size_px,))):
        subject = Subject(module=module, run=module, shape=(size, size), mean=own.mean, std=own.std)
        try:
            layers_of(subject)
        except (RuntimeError, AssertionError, ValueError):  # a network of patches takes one size alone
            continue
        return subject
    raise ConfigError(f"--size: {module.name} does not take pictures of {size_px or own.size_px} px")


def _moving(model: nn.Module, preprocessing: Mapping[str, Preprocessing]) -> Subject:
    own = next(iter(preprocessing.values()))
    if any((one.num_frames, one.size_px) != (own.num_frames, own.size_px) for one in preprocessing.values()):
        raise ConfigError("this model sees clips in several sizes; visualise its members one by one")

    def run(clips: Tensor) -> object:
        return model(dict.fromkeys(preprocessing, clips))

    return Subject(module=model, run=run, shape=(own.num_frames, own.size_px, own.size_px), mean=own.mean, std=own.std)


def _sees_neighbours(backbone: FrameBackbone) -> bool:
    """Frames are shifted between its layers: it is shown clips."""
    hooks = [hook for module in backbone.modules() for hook in module._forward_pre_hooks.values()]
    return any(isinstance(hook, Shift) for hook in hooks)


def _prefix(model: nn.Module, part: nn.Module) -> str:
    return next(f"{name}." if name else "" for name, module in model.named_modules() if module is part)


def _blocks(known: Mapping[str, tuple[Subject, Layer]]) -> list[str]:
    """Some of the layers that a backbone is a row of."""
    rows: dict[str, list[str]] = {}
    for name, (_, layer) in known.items():
        if len(layer.shape) >= 3 and not layer.name.startswith(("heads", "temporal")):
            rows.setdefault(name.rpartition(".")[0], []).append(name)
    whole = [row for row in rows.values() if len(row) >= _BLOCKS]
    row = min(whole, key=lambda names: names[0].count("."), default=list(known))
    return [row[round((i + 1) * (len(row) - 1) / _BLOCKS)] for i in range(_BLOCKS)] if len(row) > _BLOCKS else row
