"""Several networks, each on a stream of its own, and one answer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kinema.models.frame_model import FrameModel

Fusion = Literal["probabilities", "logits", "features"]


class StreamsModel(nn.Module):
    """A network for each stream, fused late.

    Args:
        networks: Stream -> {that stream: (B, T, C, H, W)} -> {task: (B, K)}; with `fusion="features"`, -> (B, D).
        fusion: `probabilities` and `logits` are averaged; `features` are put one behind the other, for `heads`.
        shares: How much the answer of each stream counts; they need not sum to 1.
        heads: Of `features`: gives {task: (B, K)}.
    """

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        *,
        fusion: Fusion,
        shares: Sequence[float],
        heads: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.networks = nn.ModuleDict(networks)
        self.fusion = fusion
        self.shares = [share / math.fsum(shares) for share in shares]
        self.heads = heads

    def forward(self, streams: Mapping[str, Float[Tensor, "B _T _C H W"]]) -> dict[str, Float[Tensor, "B _K"]]:
        return self._fused([network({stream: streams[stream]}) for stream, network in self.networks.items()])

    @property
    def frame_models(self) -> dict[str, FrameModel]:
        """Stream -> network, of those whose features of single frames can be stored."""
        return {name: network for name, network in self.networks.items() if isinstance(network, FrameModel)}

    def classify(self, features: Float[Tensor, "B T D"]) -> dict[str, Float[Tensor, "B _K"]]:
        """Logits from the frames' features, those of one stream behind those of the other."""
        networks = list(self.frame_models.values())
        parts = torch.split(features, [network.backbone.num_features for network in networks], dim=2)
        return self._fused([network.classify(part) for network, part in zip(networks, parts, strict=True)])

    def _fused(self, said: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        if self.heads is not None:
            found: dict[str, Tensor] = self.heads(torch.cat(list(said), dim=1))  # type: ignore[arg-type]
            return found
        return {task: self._averaged([logits[task] for logits in said]) for task in said[0]}

    def _averaged(self, logits: Sequence[Tensor]) -> Tensor:
        if self.fusion == "logits":
            return torch.stack([share * each for share, each in zip(self.shares, logits, strict=True)]).sum(dim=0)
        # Their softmax is the averaged probabilities again. In fp32: far from the likely class half precision has none.
        weighted = [
            each.float().log_softmax(dim=1) + math.log(share) for share, each in zip(self.shares, logits, strict=True)
        ]
        return torch.logsumexp(torch.stack(weighted), dim=0)


def frame_models(model: nn.Module, streams: Sequence[str]) -> dict[str, FrameModel] | None:
    """Stream -> network, of a model all of which sees single frames; None of any other.

    Args:
        model: Any.
        streams: That it sees, by name.
    """
    if isinstance(model, FrameModel):
        return {streams[0]: model} if len(streams) == 1 else None
    if not isinstance(model, StreamsModel):
        return None
    found = model.frame_models
    return found if len(found) == len(model.networks) else None
