"""Which parts of a model keep their weights in training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

from torch import nn

from kinema.models.layers.backbone import FrameBackbone
from kinema.models.layers.video import ClipBackbone
from kinema.registry import suggest
from kinema.types import ConfigError

Backbone = FrameBackbone | ClipBackbone


def backbones(model: nn.Module) -> dict[str, Backbone]:
    """Name within the model -> backbone, of all that it has."""
    return {name: part for name, part in model.named_modules() if isinstance(part, Backbone)}


def of_name(parts: Mapping[str, Backbone], name: str, *, key: str) -> dict[str, Backbone]:
    """Those backbones that are called so, by their network (`mobilenet_v2`) or their place in the model.

    Args:
        parts: All of a model.
        name: What is looked for.
        key: The recipe's key that holds the name, for the error message.

    Raises:
        ConfigError: There is none.
    """
    found = {place: part for place, part in parts.items() if name in (place, part.name)}
    if not found:
        raise ConfigError(
            f"{key}: this model has no backbone {name!r}{suggest(name, [p.name for p in parts.values()])}"
        )
    return found


def freeze(model: nn.Module, how: str | int | tuple[str, ...], *, train_last: int | None = None) -> str:
    """Keep a part of the weights, and the running statistics of its batch norms, as they are from now on.

    Args:
        model: Changed in place.
        how: The recipe's `init.freeze`.
        train_last: The recipe's `init.train_last`.

    Returns:
        What was frozen, in words; empty if nothing was.

    Raises:
        ConfigError: The model has no such part.
    """
    if how == "none" and train_last is None:
        return ""
    parts = backbones(model)
    if not parts:
        raise ConfigError("init.freeze: this model has no backbone to freeze; use none")
    if how in ("backbone", "all"):
        for part in parts.values():
            part.freeze()
        if how == "backbone":
            return "backbone frozen"
        _freeze_all(model)
        return "all but the heads frozen"
    if isinstance(how, tuple):
        for name in how:
            for part in of_name(parts, name, key="init.freeze").values():
                part.freeze()
        return f"{', '.join(how)} frozen"
    said = []
    for part in parts.values():
        if train_last is None:
            groups, key, num = stages(part.body), "init.freeze", int(how)
            frozen, what = groups[:num], "stages"
        else:
            groups, key, num = blocks(part.body), "init.train_last", train_last
            frozen, what = groups[: len(groups) - num], "blocks"
        if num >= len(groups):
            advice = "use backbone for all of them" if train_last is None else "leave it out to train them all"
            raise ConfigError(f"{key}: {part.name} has {len(groups)} {what}, got {num}; {advice}")
        before = {id(parameter) for parameter in part.body.parameters() if not parameter.requires_grad}
        _freeze_modules(module for group in frozen for _, module in group)
        held = {id(parameter) for group in groups for _, module in group for parameter in module.parameters()}
        for parameter in part.body.parameters():
            if id(parameter) not in held:  # class tokens and positions, which come first
                parameter.requires_grad_(False)
        count = sum(p.numel() for p in part.body.parameters() if not p.requires_grad and id(p) not in before)
        names = [name for group in frozen for name, _ in group]
        shown = ", ".join(names if len(names) <= 6 else [*names[:2], "...", names[-1]])
        said.append(f"{shown} of {part.name} frozen ({count:,} parameters)")
    return "; ".join(said)


Group = list[tuple[str, nn.Module]]


def stages(body: nn.Module) -> list[Group]:
    """A network's stages, in order.

    They are its lists of blocks (`layer1` to `layer4` of a ResNet); or, of a network with one such list, that list's
    items (`features` of a MobileNetV2, `stages` of a ConvNeXt in timm). A list without blocks ends a stage where it
    pools (VGG). A network without lists has its modules as stages (C3D, and the mixed blocks of Inception). What comes
    before the first belongs to it, what comes behind the last, such as linear layers, to that; and what makes maps
    smaller between two stages to the second.
    """
    units = _with_parameters(body)
    lists = [name for name, child in units if _holds_blocks(child)]
    if len(lists) > 1 and not _has_most_blocks(body.get_submodule(lists[0]), [body.get_submodule(n) for n in lists]):
        return _grouped(units, starts=_starts_of(units, lists))
    found = lists[0] if lists else next((name for name, child in units if _leads_to_blocks(child)), None)
    if found is None:
        plain = {name: _num_weights(child) for name, child in units if _is_list(child)}
        found = max(plain, key=lambda name: plain[name], default=None)
        if found is None or plain[found] < 2:
            return _grouped(units, starts={name for name, child in units if _num_weights(child)})
    place = [name for name, _ in units].index(found)
    chosen = units[place][1]
    inner = _items(chosen) if _is_list(chosen) or lists else stages(chosen)
    groups = [[(f"{found}.{name}", module) for name, module in group] for group in inner]
    groups[0] = [*units[:place], *groups[0]]
    groups[-1] += units[place + 1 :]
    return groups


def _items(container: nn.Module) -> list[Group]:
    """The stages that a list is made of."""
    units = _with_parameters(container)
    large = [(name, child) for name, child in units if next(child.children(), None) is not None]
    if not large:
        return _between_poolings(container)
    starts = [name for name, _ in large]
    kinds = [type(child) for _, child in large]
    lists = [name for name, child in large if _holds_blocks(child)]
    if len(lists) > 1 and (len(set(kinds)) > 1 or kinds[0] is nn.Sequential):
        behind = starts[starts.index(lists[-1]) + 1 :]
        return _grouped(units, starts=_starts_of(large, lists) | set(behind))
    if len(starts) > 2 and kinds[0] is not kinds[1]:
        starts = starts[1:]  # the first is of another kind, a stem, and belongs to the stage behind it
    return _grouped(units, starts=set(starts))


def _starts_of(units: Group, lists: list[str]) -> set[str]:
    """Where stages start that are lists: what lies between two belongs to the second."""
    names = [name for name, _ in units]
    return {lists[0]} | {names[names.index(before) + 1] for before in lists[:-1]}


def _between_poolings(container: nn.Module) -> list[Group]:
    """Layers up to a pooling are a stage; where nothing is pooled, each layer that has weights is one."""
    groups: list[Group] = [[]]
    pools = any("Pool" in type(layer).__name__ for layer in container.children())
    for name, layer in container.named_children():
        if next(layer.parameters(), None) is not None:
            if not pools and _num_weights(layer) and groups[-1]:
                groups.append([])
            groups[-1].append((name, layer))
        elif "Pool" in type(layer).__name__ and groups[-1]:
            groups.append([])
    return [group for group in groups if group]


def _with_parameters(module: nn.Module) -> Group:
    return [(name, child) for name, child in module.named_children() if next(child.parameters(), None) is not None]


def _num_weights(module: nn.Module) -> int:
    """Layers that are no norms."""
    return sum(parameter.ndim >= 2 for parameter in module.parameters())


def _is_block(module: nn.Module) -> bool:
    return next(module.children(), None) is not None and _num_weights(module) >= 2


def _holds_blocks(module: nn.Module) -> bool:
    """Whether all that it holds is of one kind, of blocks with several layers."""
    children = [child for _, child in _with_parameters(module)]
    if not _is_list(module) and any(_is_list(child) or _leads_to_blocks(child) for child in children):
        return False  # it is a block itself, or something around a list
    return len({type(child) for child in children}) == 1 and any(_is_block(child) for child in children)


def _leads_to_blocks(module: nn.Module) -> bool:
    """Whether blocks of one kind come several times in a list inside it."""
    for part in module.modules():
        kinds = [type(child) for child in part.children() if _is_block(child)] if _is_list(part) else []
        if len(kinds) > len(set(kinds)):
            return True
    return False


def _has_most_blocks(one: nn.Module, lists: list[nn.Module]) -> bool:
    """Whether it is the body, and other lists are short ones behind it, such as attention of class tokens."""
    return 4 * len(list(one.children())) > 3 * sum(len(list(each.children())) for each in lists)


def blocks(body: nn.Module) -> list[Group]:
    """A network's smallest repeated parts, in order."""
    units, items = _units(body, depth=3)
    return _grouped(units, starts=set(items or [name for name, _ in units]))


def _units(module: nn.Module, *, depth: int, prefix: str = "") -> tuple[Group, list[str]]:
    """Children with parameters, in order; lists of layers, and what has one inside, are taken apart. And the names of
    those that come out of a list."""
    units: Group = []
    items: list[str] = []
    for name, child in module.named_children():
        holds_list = any(_is_list(part) and _is_uniform(part) for part in child.children()) and not prefix
        leads_to_list = any(type(part) is nn.ModuleList and _is_uniform(part) for part in child.modules())
        if depth and (_is_list(child) or holds_list or leads_to_list):
            inner, inner_items = _units(child, depth=depth - _is_list(child), prefix=f"{prefix}{name}.")
            units += inner
            items += inner_items
        elif next(child.parameters(), None) is not None:
            units.append((f"{prefix}{name}", child))
            items += [f"{prefix}{name}"] if prefix and _is_list(module) else []
    return units, items


def _is_list(module: nn.Module) -> bool:
    return type(module) in (nn.Sequential, nn.ModuleList) and next(module.parameters(), None) is not None


def _is_uniform(module: nn.Module) -> bool:
    """Whether a list is of several blocks of one kind; not of the layers of one branch of a block."""
    return len(list(module.children())) > 1 and _holds_blocks(module)


def _grouped(units: Group, *, starts: set[str]) -> list[Group]:
    groups: list[Group] = [[]]
    for name, module in units:
        if name in starts and any(member in starts for member, _ in groups[-1]):
            groups.append([])
        groups[-1].append((name, module))
    return groups


def _freeze_all(model: nn.Module) -> None:
    heads = getattr(model, "heads", None)
    if not isinstance(heads, nn.Module):
        raise ConfigError("init.freeze: all is all but the heads, and this model has none of that name; use backbone")
    trained = {id(parameter) for parameter in heads.parameters()}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in trained)
    _freeze_modules(child for child in model.children() if child is not heads and not isinstance(child, Backbone))


def _freeze_modules(modules: Iterable[nn.Module]) -> None:
    for module in modules:
        module.requires_grad_(False)
        # Whoever sets the mode of the whole model leaves the statistics of this part as they are. A partial follows
        # when the model is copied, or sent to another process.
        module.train = partial(_stay, module)  # type: ignore[method-assign]
        _stay(module)


def hold(part: Backbone, num_stages: int) -> list[Group]:
    """Freeze the first stages of a backbone one by one, so that each can be let go. What belongs to no stage, class
    tokens and positions, comes before the first.

    Args:
        part: Changed in place. Frozen as a whole or not at all, it is frozen by its stages from now on.
        num_stages: How many.

    Returns:
        The stages, in order.
    """
    groups = stages(part.body)[:num_stages]
    part.frozen = False
    _freeze_modules(module for group in groups for _, module in group)
    return groups


def let_go(group: Group) -> None:
    """Let a stage that was frozen learn, its batch norms' statistics with it."""
    for _, module in group:
        module.requires_grad_(True)
        module.__dict__.pop("train", None)


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:
    return nn.Module.train(module, False)
