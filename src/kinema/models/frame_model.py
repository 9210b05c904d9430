"""The composition that most models of kinema are: frame backbone + temporal module + heads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from kinema.models.layers.backbone import FrameBackbone
from kinema.models.layers.heads import ConsensusHeads
from kinema.models.layers.stepping import State, Steps, can_step
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

    def frame_parts(self, streams: Sequence[str]) -> dict[str, FramePart]:
        """All of it is one."""
        return {"": FramePart(stream=streams[0], network=self)}

    def classify_parts(self, features: Mapping[str, Float[Tensor, "B T D *map"]]) -> dict[str, Float[Tensor, "B _K"]]:
        """Logits from the features of its one part."""
        return self.classify(only(features))

    @property
    def can_step(self) -> bool:
        """Whether it can go on from a state. The mean that `feature_norm="clip"` takes away is known at the end."""
        return can_step(self.temporal) and not self.centred

    def step(
        self, feature: Float[Tensor, "B D *map"], state: State = None
    ) -> tuple[dict[str, Float[Tensor, "B _K"]], State]:
        """One frame further in a stream.

        Args:
            feature: Of the frame.
            state: What the last call returned; None before the first frame.

        Returns:
            Logits for all frames up to this one, and the state to go on from, whose size stays the same.
        """
        of_temporal, of_heads = (None, None) if state is None else state
        assert isinstance(self.temporal, Steps)
        hidden, of_temporal = self.temporal.step(self.norm(feature), of_temporal)
        if isinstance(self.heads, ConsensusHeads):
            logits, of_heads = self.heads.step(hidden, of_heads)
        else:
            logits = self.heads(hidden)
        return logits, (of_temporal, of_heads)

    def forward(self, streams: Mapping[str, Float[Tensor, "B T C H W"]]) -> dict[str, Float[Tensor, "B _K"]]:
        return self.classify(self.features(only(streams)))


@dataclass(frozen=True, kw_only=True)
class FramePart:
    """One of the networks of a model, which sees single frames.

    Attributes:
        stream: Of the model, that holds its frames.
        network: What sees them.
        normalise: Applied to frames as the model takes them, before.
    """

    stream: str
    network: FrameModel
    normalise: Callable[[Tensor], Tensor] | None = None

    def features(self, frames: Float[Tensor, "B T C H W"]) -> Float[Tensor, "B T D *map"]:
        """Of every frame."""
        return self.network.features(frames if self.normalise is None else self.normalise(frames))
