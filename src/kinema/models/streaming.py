"""How a model can follow a stream of frames, by what it is made of.

`state`: every frame is seen once and forgotten, since the model goes on from a state of constant size.
`window`: every frame passes the backbones once, and what is behind them sees the features of the last frames again.
Neither: the network sees whole clips, so that frames are computed again for every answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from kinema.models.frame_model import FramePart
from kinema.models.layers.stepping import can_step

Streaming = Literal["state", "window"]


@runtime_checkable
class OfFrames(Protocol):
    """A model that may be made of networks on single frames, and of what makes an answer of their features."""

    def frame_parts(self, streams: Sequence[str]) -> dict[str, FramePart] | None:
        """Name -> network; None if one of them sees more than single frames.

        Args:
            streams: That the model sees, by name.
        """

    def classify_parts(self, features: Mapping[str, Tensor]) -> dict[str, Float[Tensor, "B _K"]]:
        """Logits from the features of all parts, (B, T, D, *map) each."""


def streaming(model: nn.Module) -> Streaming | None:
    """`state`, `window`, or None: it sees whole clips."""
    if can_step(model):
        return "state"
    return None if frame_parts(model, ("",)) is None else "window"


def frame_parts(model: nn.Module, streams: Sequence[str]) -> dict[str, FramePart] | None:
    """Name -> network, of a model all of which sees single frames; None of any other.

    Args:
        model: Any.
        streams: That it sees, by name.
    """
    return model.frame_parts(streams) if isinstance(model, OfFrames) else None
