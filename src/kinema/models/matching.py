"""Tensors from elsewhere, put where they fit into a model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from kinema.models.freezing import backbones
from kinema.models.layers.channels import RGB, adapted, has_colours
from kinema.models.layers.heads import LinearHeads
from kinema.types import DataError

_TRANSLATIONS = (
    # An image network's names -> those of torchvision's residual video networks, which pair convolution and norm.
    (re.compile(r"^conv1\."), "stem.0."),
    (re.compile(r"^bn1\."), "stem.1."),
    (re.compile(r"^(layer\d\.\d+)\.conv(\d)\."), r"\1.conv\2.0."),
    (re.compile(r"^(layer\d\.\d+)\.bn(\d)\."), r"\1.conv\2.1."),
    # mmaction2's names of C3D's convolutions, which it wraps.
    (re.compile(r"^(conv\d[ab])\.conv\."), r"\1."),
)

_INFLATE = "; init.inflate=true repeats an image network's over time"


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What `load_matching` did.

    Attributes:
        summary: One line that says what fitted.
        random: Names of the model's tensors that nothing was found for.
        hint: What to try, behind a message about these.
    """

    summary: str
    random: list[str]
    hint: str = ""


def load_matching(
    model: nn.Module,
    state: Mapping[str, Tensor],
    *,
    source: str,
    inflate: bool = False,
    part: str | None = None,
    is_its_own: bool = False,
) -> Loaded:
    """Load the tensors whose name and shape fit: into the whole model, or into a backbone. With the latter, what the
    network in the file classified with becomes the model's classifier, where that sees the same and is as large.

    Args:
        model: The model, changed in place.
        state: Name -> tensor. A prefix shared by all names (`module.`, `model.`, ...) is ignored.
        source: Where `state` comes from, for messages.
        inflate: Repeat weights of image networks over time, divided by how often, so that a clip that stands still is
            answered as its frame would be (Carreira and Zisserman, "Quo Vadis, Action Recognition?", CVPR 2017).
        part: Only into this backbone of the model.
        is_its_own: Whether it is known to be of this very network, of which it may lack a part.

    Raises:
        DataError: Nothing fits, or of a backbone so little that it would stay random for the most part.
    """
    own = model.state_dict()
    places = [name for name in backbones(model) if part in (None, name)]
    prefixes = [*([""] if part is None else []), *(f"{name}.body." for name in places)]
    best = _best(model, own, state, _namings(state), prefixes, inflate=inflate)
    if 2 * len(best.found) < best.num_wanted:
        # It may be a part of what is in the file; then there is most of it.
        inside = [naming for names in _parts(list(state)) for naming in _namings(state, names)]
        other = _best(model, own, state, inside, prefixes, inflate=inflate)
        best = other if 2 * len(other.found) >= other.num_wanted else best
    found, names = best.found, best.names
    if not found:
        hint = _INFLATE if not inflate and _would_inflate(model, state) else ""
        raise DataError(
            f"{source}: none of its {len(state)} tensors fits this model (it holds {some_of(list(state))}; the model "
            f"{some_of([name for name in own if name.startswith(prefixes[0])])}){hint}"
        )
    for place in () if is_its_own else places:
        _check_fits(
            own, found, f"{place}.body.", source, hint=_INFLATE if _would_fit_inflated(own, state, best) else ""
        )
    classifier, head = _classifier(model, own, state, best)
    model.load_state_dict({**found, **head}, strict=False)
    of_another_size = [name for name in names if name in own and name not in found]
    found = {**found, **head}
    return Loaded(
        summary=_summary(state, best, source, classifier, of_another_size, has_head=bool(head)),
        # Files from before batch norm counted its batches lack these counts, which nothing depends on.
        random=[name for name in own if name not in found and "num_batches_tracked" not in name],
        hint=_INFLATE if _would_fit_inflated(own, state, best) else "",
    )


def _check_fits(own: Mapping[str, Tensor], found: Mapping[str, Tensor], prefix: str, source: str, *, hint: str) -> None:
    """Refuse another network: norms, which are alike everywhere, would fit, and stand between random weights.

    Raises:
        DataError: Most of what is multiplied with has nothing in the file.
    """
    weights = [name for name in own if name.startswith(prefix) and own[name].ndim > 1]
    lacking = [name for name in weights if name not in found]
    if any(name.startswith(prefix) for name in found) and 2 * len(lacking) > len(weights):
        raise DataError(
            f"{source}: is of another network: it has {len(weights) - len(lacking)} of the {len(weights)} weights of "
            f"{prefix.removesuffix('.body.')}, and {some_of(lacking)} would stay random{hint}"
        )


def _would_fit_inflated(own: Mapping[str, Tensor], state: Mapping[str, Tensor], best: _Match) -> bool:
    """Whether something has another size only because it is of an image network, and is not to be inflated."""
    return any(
        _fit(state[in_file], own[name], inflate=True) is not None
        for name, in_file in best.names.items()
        if name in own and name not in best.found
    )


@dataclass(frozen=True)
class _Match:
    """Tensors for names of the model; names of the model, and of what is not in it -> names in the file; how many
    tensors there are to be filled."""

    prefix: str
    found: dict[str, Tensor]
    names: dict[str, str]
    num_wanted: int


def _best(
    model: nn.Module,
    own: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    namings: list[dict[str, str]],
    prefixes: list[str],
    *,
    inflate: bool,
) -> _Match:
    """What fills the most."""
    best, colours = _Match("", {}, {}, len(own)), has_colours(model)
    for prefix in prefixes:
        num_wanted = sum(name.startswith(prefix) for name in own)
        children = [name for name, _ in model.get_submodule(prefix.rstrip(".")).named_children()]
        for names in [*namings, *(_counted(names, children) for names in namings)]:
            found = {}
            for name, name_in_file in names.items():
                place = prefix + name
                fitting = _fit(state[name_in_file], own.get(place), inflate=inflate, of_colours=place in colours)
                if fitting is not None:
                    found[prefix + name] = fitting
            if len(found) > len(best.found):
                in_file = {prefix + name: original for name, original in names.items()}
                best = _Match(prefix, found, in_file, num_wanted)
    return best


def _classifier(
    model: nn.Module, own: Mapping[str, Tensor], state: Mapping[str, Tensor], best: _Match
) -> tuple[list[str], dict[str, Tensor]]:
    """What the network that fills a backbone classified with: its names in the file, and, for the model's head, its
    tensors. None of these where the head sees something else than that did, or has other classes."""
    if not best.prefix:
        return [], {}
    place = best.prefix.removesuffix(".body.")
    backbone = backbones(model)[place]
    if backbone.classifier is None:
        return [], {}
    parts = ("weight", "bias")
    in_file = {part: best.names.get(f"{best.prefix}{backbone.classifier}.{part}") for part in parts}
    names = [name for name in in_file.values() if name is not None]
    whole = place.rpartition(".")[0]
    head = _head_on_features(model.get_submodule(whole), backbone)
    if head is None or len(names) < len(parts):
        return names, {}
    given = {f"{whole}.{head}.{part}".removeprefix("."): state[name] for part, name in in_file.items() if name}
    # A convolution of one place is the linear layer that it is written as here.
    shaped = {name: t.flatten(1) if t.ndim > 2 and t.shape[2:].numel() == 1 else t for name, t in given.items()}
    return names, shaped if all(own[name].shape == tensor.shape for name, tensor in shaped.items()) else {}


def _head_on_features(module: nn.Module, backbone: nn.Module) -> str | None:
    """Name of the one linear layer of a model's one task, if it sees a backbone's features as they are, or their mean
    or maximum over time: if nothing else in the model has weights."""
    between = [part for name, part in module.named_children() if part is not backbone and name != "heads"]
    heads = getattr(module, "heads", None)
    if not isinstance(heads, nn.Module) or any(next(part.parameters(), None) is not None for part in between):
        return None
    holders = {name.rpartition(".")[0] for name, _ in heads.named_parameters()}
    sees_changes = bool(getattr(module, "centred", False))
    if len(holders) != 1 or sees_changes or not any(isinstance(part, LinearHeads) for part in heads.modules()):
        return None
    (name,) = holders
    return f"heads.{name}" if isinstance(heads.get_submodule(name), nn.Linear) else None


def _summary(
    state: Mapping[str, Tensor],
    best: _Match,
    source: str,
    classifier: list[str],
    of_another_size: list[str],
    *,
    has_head: bool,
) -> str:
    """One line: what fitted, and what in the file nothing was done with."""
    what = "backbone" if best.prefix else "model"
    said = f"{len(best.found)} of the {what}'s {best.num_wanted} tensors from {source}"
    changed = [(tensor, state[best.names[name]]) for name, tensor in best.found.items()]
    num_inflated = sum(tensor.ndim != before.ndim for tensor, before in changed)
    said += f", {num_inflated} of them inflated" if num_inflated else ""
    wide = [tensor for tensor, before in changed if tensor.ndim == before.ndim and tensor.shape != before.shape]
    said += f", the first layer's from RGB to {wide[0].shape[1]} channels" if wide else ""
    said += f", and its classifier {classifier[0].rpartition('.')[0]} as the head" if has_head else ""
    used = {best.names[name] for name in best.found} | set(classifier)
    left = [*(() if has_head else classifier), *(name for name in state if name not in used)]
    if not left:
        return said
    sizes = f"; of another size: {some_of(of_another_size)}" if of_another_size else ""
    return f"{said} ({len(left)} not used: {some_of(left)}{sizes})"


def _counted(names: Mapping[str, str], children: list[str]) -> dict[str, str]:
    """Names that begin with the number of a child, as behind `nn.Sequential(*network.children())`, with its name."""
    counted = {}
    for name, original in names.items():
        first, _, rest = name.partition(".")
        if first.isdecimal() and int(first) < len(children):
            counted[f"{children[int(first)]}.{rest}"] = original
    return counted


def _parts(names: list[str]) -> list[list[str]]:
    """Names in a file that begin alike, by their first, their first two and their first three parts."""
    groups: dict[str, list[str]] = {}
    for name in names:
        parts = name.split(".")
        for depth in range(1, min(4, len(parts))):
            groups.setdefault(".".join(parts[:depth]), []).append(name)
    return [group for group in groups.values() if 1 < len(group) < len(names)]


def some_of(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _fit(tensor: Tensor, own: Tensor | None, *, inflate: bool, of_colours: bool = False) -> Tensor | None:
    if own is None or own.shape == tensor.shape:
        return None if own is None else tensor
    if own.ndim == tensor.ndim > 3 and tensor.shape[1] == RGB != own.shape[1]:
        # Of a first layer, for a stream of something else.
        return (
            adapted(tensor, own.shape[1], of_colours=of_colours)
            if own.shape[0] == tensor.shape[0] and own.shape[2:] == tensor.shape[2:]
            else None
        )
    is_flat = own.ndim == 5 and tensor.ndim == 4
    if not inflate or not is_flat or tensor.shape != (*own.shape[:2], *own.shape[3:]):
        return None
    return (tensor / own.shape[2]).unsqueeze(2).expand(own.shape)


def _would_inflate(model: nn.Module, state: Mapping[str, Tensor]) -> bool:
    own = model.state_dict()
    return any(
        _fit(state[in_file], own.get(prefix + name), inflate=True) is not None
        for prefix in ("", *(f"{name}.body." for name in backbones(model)))
        for names in _namings(state)
        for name, in_file in names.items()
    )


def _namings(state: Mapping[str, Tensor], chosen: list[str] | None = None) -> list[dict[str, str]]:
    """Candidates: name without the first 0, 1, 2 or 3 parts that all names share -> name in the file; and the same with
    names translated. Of all names in the file, or those that are chosen."""
    names = {name: name for name in (state if chosen is None else chosen)}
    candidates = [names]
    for _ in range(3):
        heads = {name.partition(".")[0] for name in names}
        if len(heads) != 1 or not all("." in name for name in names):
            break
        names = {name.partition(".")[2]: original for name, original in names.items()}
        candidates.append(names)
    return candidates + [{_translated(name): original for name, original in names.items()} for names in candidates]


def _translated(name: str) -> str:
    for pattern, replacement in _TRANSLATIONS:
        if pattern.search(name):
            return pattern.sub(replacement, name)
    return name
