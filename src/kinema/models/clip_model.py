"""The composition that networks on whole clips are: clip backbone + pooling + heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jaxtyping import Float
from torch import Tensor, nn

from kinema.models.layers.heads import LinearHeads
from kinema.models.layers.video import ClipBackbone
from kinema.types import Heads, only


class ClipModel(nn.Module):
    """A backbone sees the clip, a pooling makes one feature of what it says, heads see that feature.

    Args:
        backbone: Clips to feature maps, or to features.
        pool: A module with `num_features`: (B, D, t, h, w) -> (B, num_features). None: the backbone gives features.
        heads: Task -> class names.
        dropout: Before the heads.
        hidden: Hidden layers of the heads.
        hidden_dropout: Behind each of these; None: `dropout`.
    """

    def __init__(
        self,
        backbone: ClipBackbone,
        pool: nn.Module | None,
        heads: Heads,
        *,
        dropout: float,
        hidden: Sequence[int] = (),
        hidden_dropout: float | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.pool = nn.Identity() if pool is None else pool
        num_features: int = backbone.num_features if pool is None else pool.num_features  # type: ignore[assignment]
        self.heads = LinearHeads(num_features, heads, dropout=dropout, hidden=hidden, hidden_dropout=hidden_dropout)

    def forward(self, streams: Mapping[str, Float[Tensor, "B T C H W"]]) -> dict[str, Float[Tensor, "B _K"]]:
        return self.heads(self.describe(streams))

    def describe(self, streams: Mapping[str, Float[Tensor, "B T C H W"]]) -> Float[Tensor, "B _D"]:
        """The feature of the clip, which the heads take."""
        return self.pool(self.backbone(only(streams).transpose(1, 2)))
