"""Batch norm as part of the convolution before it.

In evaluation mode a batch norm multiplies every channel by one number and adds another, which the convolution before it
can do at no cost. After Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", CVPR 2018, section 3.2; torch does the arithmetic, here is found where it applies:
from the graph of what is computed, since the order in which modules are listed says nothing about it.
"""

from __future__ import annotations

import copy
import logging
from collections import Counter
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

log = logging.getLogger(__name__)

TOLERANCE = 1e-4
"""Folding moves what a network answers by rounding errors, relative to its largest number, of some 1e-6."""

NOT_TRACEABLE = (
    fx.proxy.TraceError,
    RuntimeError,
    TypeError,
    ValueError,
    AttributeError,
    AssertionError,
    LookupError,
    NotImplementedError,
)
"""What tracing raises where the way through a network depends on the values in it, or on their shapes."""


def fold(module: nn.Module, *, keep: tuple[type[nn.Module], ...] = ()) -> nn.Module:
    """A copy in evaluation mode, in which batch norms are part of convolutions wherever that is certain to be the same.

    A module that cannot be traced is left as it is, and its parts are tried.

    Args:
        module: Not changed.
        keep: Types of modules that stay what they are, as they can do more than be called; their parts are folded.
    """
    return _fold(copy.deepcopy(module).eval(), keep, type(module).__name__)


def count_batch_norms(module: nn.Module) -> int:
    return sum(isinstance(part, _BatchNorm) for part in module.modules())


def same(one: Any, other: Any, tolerance: float = TOLERANCE) -> bool:
    """Whether two answers, tensors or task -> tensor, differ by no more than `tolerance` of their largest number."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[task], other[task], tolerance) for task in one)
    one, other = one.float(), other.float()
    if one.shape != other.shape:
        return False
    return bool((one - other).abs().max() <= tolerance * one.abs().max()) if one.numel() else True


def _fold(module: nn.Module, keep: tuple[type[nn.Module], ...], name: str) -> nn.Module:
    if not count_batch_norms(module) or isinstance(module, _BatchNorm):
        return module
    if not isinstance(module, keep):
        try:
            return _folded(module)
        except NOT_TRACEABLE as error:
            log.debug("%s cannot be traced, its parts are tried: %s", name, (str(error).splitlines() or [""])[0])
    for child_name, child in module.named_children():
        setattr(module, child_name, _fold(child, keep, f"{name}.{child_name}"))
    return module


class _Tracer(fx.Tracer):
    """Goes only where there is a batch norm to fold: much of the rest of a network cannot be traced."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, _BatchNorm) or not count_batch_norms(m)


def _folded(module: nn.Module) -> nn.Module:
    graph = _Tracer().trace(module)
    traced = fx.GraphModule(module, graph, class_name=type(module).__name__)
    modules = dict(traced.named_modules())
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    for node in list(graph.nodes):
        before = node.args[0] if node.op == "call_module" and len(node.args) == 1 else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        norm, convolution = modules[str(node.target)], modules[str(before.target)]
        if calls[node.target] > 1 or calls[before.target] > 1 or not _fits(convolution, norm):
            continue
        traced.set_submodule(str(before.target), fuse_conv_bn_eval(convolution, norm))  # type: ignore[type-var]
        rest = _rest(norm)
        if rest is not None:
            traced.set_submodule(str(node.target), rest)
            continue
        node.replace_all_uses_with(before)
        graph.erase_node(node)
    traced.delete_all_unused_submodules()
    graph.lint()
    traced.recompile()
    return traced.eval()


def _fits(convolution: nn.Module, norm: nn.Module) -> bool:
    if type(convolution) not in (nn.Conv1d, nn.Conv2d, nn.Conv3d):  # one of its descendants may change its weights
        return False
    if type(norm) not in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d) and _rest(norm) is None:
        return False
    return isinstance(norm, _BatchNorm) and norm.running_mean is not None


def _rest(norm: nn.Module) -> nn.Module | None:
    """What a batch norm of timm's does after normalising; None for torch's, which does nothing."""
    if type(norm).__name__ != "BatchNormAct2d" or not isinstance(norm, nn.BatchNorm2d):
        return None
    return nn.Sequential(norm.drop, norm.act)  # type: ignore[arg-type]


def channels_last(module: nn.Module) -> None:
    """Lay the weights of convolutions out with their channels last, in place. What they answer follows."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim in (4, 5):
                parameter.data = parameter.data.contiguous(memory_format=last(parameter))


def last(values: Tensor) -> torch.memory_format:
    """The memory format that has the channels of these values last."""
    return torch.channels_last if values.ndim == 4 else torch.channels_last_3d
