"""The composition that most models of kinema are: frame backbone + temporal module + heads."""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn

from kinema.models.layers.backbone import FrameBackbone
from kinema.types import only


class FrameModel(nn.Module):
    """A backbone sees each frame alone, a temporal module sees the frames' features, heads see what it makes of them.

    Whatever stores features or streams frame by frame works on this type and needs to know nothing else.

    Args:
        backbone: Frames to features; for a temporal module that takes maps, made with `maps=True`.
        temporal: (B, T, D) -> what the heads take, mostly (B, num_features); or (B, T, D, h, w) -> that, if it says
            `takes_maps = True`.
        heads: Gives {task: (B, K)}.
        feature_norm: `batch`: batch norm over the frames' features. Features of a frozen backbone differ in scale by
            orders of magnitude, which makes what is trained on them learn slowly. `clip`: the clip's mean is taken
            away first. What is left is what changes within the clip; the scene, which does not, cannot be learnt by
            heart. No use in front of an average over frames, which is then zero.

    Attributes:
        takes_maps: The temporal module sees features before they are averaged over the frame.
    """

    def __init__(self, backbone: FrameBackbone, temporal: nn.Module, heads: nn.Module, *, feature_norm: str) -> None:
        super().__init__()
        self.backbone = backbone
        self.takes_maps = bool(getattr(temporal, "takes_maps", False))
        self.centred = feature_norm == "clip"
        self.norm: nn.Module = nn.Identity()
        if feature_norm != "none":
            norm = nn.BatchNorm2d if self.takes_maps else nn.BatchNorm1d
            self.norm = norm(backbone.num_features)
        self.temporal = temporal
        self.heads = heads

    def features(self, frames: Float[Tensor, "B T C H W"]) -> Float[Tensor, "B T D *map"]:
        """Feature of every frame: (B, T, D), or maps (B, T, D, h, w)."""
        run = self.backbone.maps if self.takes_maps else self.backbone
        return run(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])

    def feature_shape(self, size_px: int) -> tuple[int, ...]:
        """Of one frame: (D,), or (D, h, w) where the temporal module takes maps."""
        return self.backbone.map_shape(size_px) if self.takes_maps else (self.backbone.num_features,)

    def describe(self, features: Float[Tensor, "B T D *map"]) -> Float[Tensor, "B *_feature"]:
        """What the heads take, from the frames' features."""
        if self.centred:
            features = features - features.mean(dim=1, keepdim=True)
        return self.temporal(self.norm(features.flatten(0, 1)).unflatten(0, features.shape[:2]))

    def classify(self, features: Float[Tensor, "B T D *map"]) -> dict[str, Float[Tensor, "B _K"]]:
        """Logits from the frames' features."""
        return self.heads(self.describe(features))

    def forward(self, streams: Mapping[str, Float[Tensor, "B T C H W"]]) -> dict[str, Float[Tensor, "B _K"]]:
        return self.classify(self.features(only(streams)))
