"""MC3-18: convolutions of three dimensions in the first layers, and of each frame alone after them.

Tran et al., "A Closer Look at Spatiotemporal Convolutions for Action Recognition", CVPR 2018,
https://arxiv.org/abs/1711.11248. torchvision's implementation and published weights (Kinetics-400).
Deviation: dropout may be put before the classifier, and the network may be cut after a block.
"""

from __future__ import annotations

from torch import nn

from kinema.models.clip_model import ClipModel
from kinema.models.configurations import Configuration
from kinema.models.layers.video import MeanMaps
from kinema.models.layers.video_resnet import video_resnet
from kinema.registry import register_model
from kinema.types import Heads, Inputs

CONFIGURATIONS = (
    Configuration(
        name="default",
        arguments={},
        classes={"action": 400},
        num_frames=16,
        size_px=112,
        summary="The network that torchvision publishes weights for.",
    ),
)


@register_model
def mc3_18(
    heads: Heads,
    inputs: Inputs,
    *,
    num_blocks: int = 8,
    head_hidden: tuple[int, ...] = (),
    head_dropout: float | None = None,
    dropout: float = 0.0,
) -> nn.Module:
    """MC3-18: convolutions of three dimensions in the first layers, and of each frame alone after them.

    Args:
        heads: Task -> class names.
        inputs: Stream -> shape.
        num_blocks: Residual blocks that are kept, of 8.
        head_hidden: Units of hidden layers in each task's classifier.
        head_dropout: Behind these; null: `dropout`.
        dropout: Before the classifier.

    Raises:
        ConfigError: The network has no such block.
    """
    clips = video_resnet("mc3_18", num_blocks=num_blocks)
    return ClipModel(
        clips, MeanMaps(clips.num_features), heads, dropout=dropout, hidden=head_hidden, hidden_dropout=head_dropout
    )
