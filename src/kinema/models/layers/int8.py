"""A frozen network whose convolutions and linear layers compute in integers of 8 bits, on a CPU.

Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR 2018;
done by PyTorch's FX graph mode: batch norm becomes part of the convolution before it, weights are rounded per channel,
and what goes from layer to layer in a range that was seen on real frames.

What is seen differs in the last bits from machine to machine, so that ranges are rounded outwards to a coarse grid:
the same frames give the same ranges.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kinema.models.layers.fold import NOT_TRACEABLE
from kinema.types import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

Ranges = Mapping[str, tuple[float, float]]
"""Where in the network -> smallest and largest value that is kept apart."""

_STEPS_PER_OCTAVE = 16

_AT_ONCE = 10
"""Frames that are observed together: what goes from layer to layer takes some 10 MB each."""


def observe(body: nn.Module, frames: Iterable[Tensor], *, name: str) -> Ranges:
    """The ranges of what goes from layer to layer.

    Args:
        body: On the CPU.
        frames: Batches (N, C, H, W), normalised.
        name: Of the network, for the error.

    Raises:
        ConfigError: The way through the network cannot be traced, or there is nothing to compute in integers.
    """
    with _quiet() as quantisation:
        prepared, num_seen = _prepared(body, quantisation, name), 0
        for batch in frames:
            for part in torch.split(batch, _AT_ONCE):
                prepared(part)
                num_seen += len(part)
        if not num_seen:
            raise ConfigError(f"trainer.runtime.features: no clip could be read to see the ranges of {name} on")
        found = {
            where: (_outwards(float(observer.min_val)), _outwards(float(observer.max_val)))
            for where, observer in _observers(prepared)
        }
    if not found:
        raise ConfigError(f"trainer.runtime.features: there is nothing in {name} to compute in int8; take fp32")
    return found


def quantise(body: nn.Module, ranges: Ranges, *, name: str) -> nn.Module:
    """A copy that takes and gives fp32 and computes in int8 between.

    Raises:
        ConfigError: Like `observe`.
    """
    with _quiet() as quantisation:
        prepared = _prepared(body, quantisation, name)
        for where, observer in _observers(prepared):
            observer.min_val, observer.max_val = (torch.tensor(value) for value in ranges[where])
        converted: nn.Module = quantisation.quantize_fx.convert_fx(prepared)
    return converted


def _prepared(body: nn.Module, quantisation: Any, name: str) -> nn.Module:
    engine = torch.backends.quantized.engine
    weights = quantisation.get_default_qconfig(engine).weight
    # Smallest and largest: histograms do not do better on MobileNetV2 and depend on the last bits of what they see. 7
    # bits where sums of 8 could overflow.
    activation = quantisation.MinMaxObserver.with_args(dtype=torch.quint8, reduce_range=engine in ("x86", "fbgemm"))
    mapping = quantisation.QConfigMapping().set_global(quantisation.QConfig(activation=activation, weight=weights))
    try:
        prepared: nn.Module = quantisation.quantize_fx.prepare_fx(
            copy.deepcopy(body).eval(), mapping, (torch.zeros(1, 3, 64, 64),)
        )
    except NOT_TRACEABLE as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"trainer.runtime.features: {name} cannot compute in int8, the way through it cannot be traced ({reason}); "
            "take bf16 or fp32"
        ) from None
    return prepared


def _observers(prepared: nn.Module) -> Iterator[tuple[str, Any]]:
    """Those of what goes from layer to layer; those of weights come with the conversion."""
    for where, module in prepared.named_modules():
        if where.startswith("activation_post_process") and hasattr(module, "calculate_qparams"):
            yield where, module


def _outwards(value: float) -> float:
    if value == 0:
        return 0.0
    # A value on the grid stays there although its logarithm is not exact.
    steps = math.ceil(math.log2(abs(value)) * _STEPS_PER_OCTAVE - 1e-6)
    return math.copysign(2.0 ** (steps / _STEPS_PER_OCTAVE), value)


@contextmanager
def _quiet() -> Iterator[Any]:
    """PyTorch's quantisation, without its advice to move to a package that needs a compiler."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        from torch.ao import quantization
        from torch.ao.quantization import quantize_fx  # noqa: F401 - makes it an attribute

        yield quantization
