"""Image networks that end early: after a stage, a block, or any other of their modules."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call

from kinema.models.layers.channels import input_channels
from kinema.models.layers.fold import NOT_TRACEABLE
from kinema.types import ConfigError

_SIZE_PX = 224


def cut_after(network: nn.Module, where: str, *, name: str) -> tuple[nn.Module, int]:
    """What of a network comes before a module, and that module; then an average over the frame, or over tokens.

    What comes behind it is not part of the result, and what stays keeps its name: published weights fit. Only the
    modules that contain the one that is looked for are traced, so that all others stay what they are, in training too.

    Args:
        network: Takes (N, 3, H, W).
        where: Name of the module, as in `named_modules`: `layer2`, `features.13`.
        name: Of the network, for messages.

    Returns:
        The network, and the length of its features.

    Raises:
        ConfigError: There is no such module, or it is not one that frames go through.
    """
    modules = dict(network.named_modules())
    if not where or where not in modules:
        raise ConfigError(f"model.backbone_cut: {name} has no module {where!r}; {_nearest(where, modules)}")
    tracer = _Until(where)
    try:
        tracer.trace(network)
    except _ReachedError:
        pass
    except NOT_TRACEABLE as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"model.backbone_cut: {name} cannot be cut after {where!r}: {reason[:150]}") from None
    if tracer.found is None:
        raise ConfigError(
            f"model.backbone_cut: frames do not go through {where!r} of {name}; {_nearest(where, modules)}"
        )
    graph, node = tracer.graph, tracer.found
    output = graph.output(node)
    shape = shape_of(fx.GraphModule(network, graph))
    is_map = len(shape) == 4 and shape[2] == shape[3]
    if not is_map and len(shape) not in (2, 3):
        raise ConfigError(f"model.backbone_cut: after {where!r}, {name} has no features of a known form {tuple(shape)}")
    if len(shape) > 2:
        with graph.inserting_before(output):
            output.args = (graph.call_method("mean", (node, (2, 3) if is_map else 1)),)
    cut = fx.GraphModule(network, graph, class_name=type(network).__name__)
    for container in reversed([name for name in modules if where.startswith(f"{name}.")]):
        if type(modules[container]) is nn.Sequential:  # what is frozen by stages looks for these
            cut.set_submodule(container, nn.Sequential(OrderedDict(cut.get_submodule(container).named_children())))
    return cut, shape[1] if is_map else shape[-1]


def shape_of(network: nn.Module, size_px: int = _SIZE_PX) -> torch.Size:
    """Shape of what a network makes of two frames, without arithmetic."""
    tensors: Mapping[str, Tensor] = {
        name: torch.empty_like(tensor, device="meta")
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]
    }
    with torch.no_grad(), torch.device("meta"):
        answer: Tensor = functional_call(
            network, dict(tensors), torch.empty(2, input_channels(network), size_px, size_px)
        )
    return answer.shape


def drop_uncalled(network: nn.Module, used: nn.Module) -> None:
    """Put nothing in the place of parts with parameters that are not called by a network that shares others.

    Args:
        network: Changed in place.
        used: What is called: a network of the same modules.
    """
    called: set[int] = set()
    hooks = [part.register_forward_pre_hook(lambda module, _: called.add(id(module))) for part in network.modules()]
    shape_of(used)
    for hook in hooks:
        hook.remove()
    for name, part in list(network.named_modules()):
        if name and any(True for _ in part.parameters()) and called.isdisjoint(map(id, part.modules())):
            network.set_submodule(name, nn.Identity())


class LeavesTracer(fx.Tracer):
    """Looks into the network itself alone, and into none of its modules."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


class _ReachedError(Exception):
    pass


class _Until(fx.Tracer):
    """Stops behind a module."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where
        self.found: fx.Node | None = None

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not self.where.startswith(f"{module_qualified_name}.")

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        answer = super().call_module(m, forward, args, kwargs)
        if self.path_of_module(m) == self.where and isinstance(answer, fx.Proxy):
            self.found = answer.node
            raise _ReachedError
        return answer


def _nearest(where: str, modules: Mapping[str, nn.Module]) -> str:
    """Names near the one that there is not; or else those of the stages."""
    names = [name for name in modules if name]
    parent = where.rpartition(".")[0]
    inside = [name for name in names if parent and name.rpartition(".")[0] == parent]
    near = get_close_matches(where, inside or names, n=6, cutoff=0.4) or inside or [n for n in names if "." not in n]
    return f"the nearest are {', '.join(near[:12])}"
