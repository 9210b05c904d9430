"""The composition that most models of kinema are: frame backbone + temporal module + heads."""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn

from kinema.models.layers.backbone import FrameBackbone
from kinema.models.layers.heads import LinearHeads
from kinema.types import ConfigError, Heads


class FrameModel(nn.Module):
    """A backbone sees each frame alone, a temporal module sees the frames' features, heads see the clip's feature.

    Whatever stores features or streams frame by frame works on this type and needs to know nothing else.

    Args:
        backbone: Frames to features.
        temporal: A module with `num_features`: (B, T, D) -> (B, num_features).
        heads: Task -> class names.
        dropout: Before the heads.
        feature_norm: `batch`: batch norm over the frames' features. Features of a frozen backbone differ in scale by
            orders of magnitude, which makes what is trained on them learn slowly. `clip`: the clip's mean is taken
            away first. What is left is what changes within the clip; the scene, which does not, cannot be learnt by
            heart. No use in front of an average over frames, which is then zero.
    """

    def __init__(
        self, backbone: FrameBackbone, temporal: nn.Module, heads: Heads, *, dropout: float, feature_norm: str
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ConfigError(f"model.dropout: has to be at least 0 and less than 1, got {dropout}")
        self.backbone = backbone
        self.centred = feature_norm == "clip"
        self.norm = nn.Identity() if feature_norm == "none" else nn.BatchNorm1d(backbone.num_features)
        self.temporal = temporal
        self.heads = LinearHeads(temporal.num_features, heads, dropout=dropout)  # type: ignore[arg-type]

    def features(self, frames: Float[Tensor, "B T C H W"]) -> Float[Tensor, "B T D"]:
        """Feature of every frame."""
        return self.backbone(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])

    def classify(self, features: Float[Tensor, "B T D"]) -> dict[str, Float[Tensor, "B _K"]]:
        """Logits from the frames' features."""
        if self.centred:
            features = features - features.mean(dim=1, keepdim=True)
        normed = self.norm(features.flatten(0, 1)).unflatten(0, features.shape[:2])
        return self.heads(self.temporal(normed))

    def forward(self, streams: Mapping[str, Float[Tensor, "B T C H W"]]) -> dict[str, Float[Tensor, "B _K"]]:
        return self.classify(self.features(streams["rgb"]))
