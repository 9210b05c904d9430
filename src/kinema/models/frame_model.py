"""The composition that most models of kinema are: frame backbone + temporal module + heads."""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn

from kinema.models.layers.backbone import FrameBackbone
from kinema.models.layers.heads import LinearHeads
from kinema.types import Heads


class FrameModel(nn.Module):
    """A backbone sees each frame alone, a temporal module sees the frames' features, heads see the clip's feature.

    Whatever stores features or streams frame by frame works on this type and needs to know nothing else.

    Args:
        backbone: Frames to features.
        temporal: A module with `num_features`: (B, T, D) -> (B, num_features).
        heads: Task -> class names.
        dropout: Before the heads.
    """

    def __init__(self, backbone: FrameBackbone, temporal: nn.Module, heads: Heads, *, dropout: float) -> None:
        super().__init__()
        self.backbone = backbone
        self.temporal = temporal
        self.heads = LinearHeads(temporal.num_features, heads, dropout=dropout)  # type: ignore[arg-type]

    def features(self, frames: Float[Tensor, "B T C H W"]) -> Float[Tensor, "B T D"]:
        """Feature of every frame."""
        return self.backbone(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])

    def classify(self, features: Float[Tensor, "B T D"]) -> dict[str, Float[Tensor, "B _K"]]:
        """Logits from the frames' features."""
        return self.heads(self.temporal(features))

    def forward(self, streams: Mapping[str, Float[Tensor, "B T C H W"]]) -> dict[str, Float[Tensor, "B _K"]]:
        return self.classify(self.features(streams["rgb"]))
