"""Several networks, each on a stream of its own, and one answer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kinema.models.clip_model import ClipModel
from kinema.models.frame_model import FrameModel, FramePart
from kinema.types import ConfigError, only

Fusion = Literal["probabilities", "logits", "features"]


class StreamsModel(nn.Module):
    """A network for each stream, fused late.

    Args:
        networks: Stream -> {that stream: (B, T, C, H, W)} -> {task: (B, K)}; with `fusion="features"`, without heads.
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
        if self.heads is None:
            return self._averaged([network({stream: streams[stream]}) for stream, network in self.networks.items()])
        described = [describe(network, {stream: streams[stream]}) for stream, network in self.networks.items()]
        return self._classified(described)

    @property
    def frame_models(self) -> dict[str, FrameModel]:
        """Stream -> network, of those whose features of single frames can be stored."""
        return {name: network for name, network in self.networks.items() if isinstance(network, FrameModel)}

    def classify(self, features: Float[Tensor, "B T D"]) -> dict[str, Float[Tensor, "B _K"]]:
        """Logits from the frames' features, those of one stream behind those of the other."""
        networks = self.frame_models
        parts = torch.split(features, [network.backbone.num_features for network in networks.values()], dim=2)
        return self.classify_parts(dict(zip(networks, parts, strict=True)))

    def frame_parts(self, streams: Sequence[str]) -> dict[str, FramePart] | None:
        """Stream -> its network, where all of these see single frames."""
        found = {name: FramePart(stream=name, network=network) for name, network in self.frame_models.items()}
        return found if len(found) == len(self.networks) else None

    def classify_parts(self, features: Mapping[str, Float[Tensor, "B _T _D *map"]]) -> dict[str, Float[Tensor, "B _K"]]:
        """Logits from the frames' features, stream by stream."""
        given = [(network, features[stream]) for stream, network in self.frame_models.items()]
        if self.heads is None:
            return self._averaged([network.classify(part) for network, part in given])
        return self._classified([network.describe(part) for network, part in given])

    def _classified(self, described: Sequence[Float[Tensor, "B _D"]]) -> dict[str, Tensor]:
        assert self.heads is not None
        found: dict[str, Tensor] = self.heads(torch.cat(list(described), dim=1))
        return found

    def _averaged(self, said: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {task: self._average([logits[task] for logits in said]) for task in said[0]}

    def _average(self, logits: Sequence[Tensor]) -> Tensor:
        if self.fusion == "logits":
            return torch.stack([share * each for share, each in zip(self.shares, logits, strict=True)]).sum(dim=0)
        # Their softmax is the averaged probabilities again. In fp32: far from the likely class half precision has none.
        weighted = [
            each.float().log_softmax(dim=1) + math.log(share) for share, each in zip(self.shares, logits, strict=True)
        ]
        return torch.logsumexp(torch.stack(weighted), dim=0)


def describe(network: nn.Module, streams: Mapping[str, Float[Tensor, "B T C H W"]]) -> Float[Tensor, "B _D"]:
    """The feature of a clip that a network's heads would take.

    Raises:
        ConfigError: It has none.
    """
    if isinstance(network, FrameModel):
        found = network.describe(network.features(only(streams)))
    elif isinstance(network, ClipModel):
        found = network.describe(streams)
    else:
        found = None
    if found is None or found.ndim != 2:
        raise ConfigError(
            f"model.fusion: the network of {next(iter(streams))} has no feature of a clip; take probabilities or logits"
        )
    return found


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
