"""Networks on frames and on motion, multi-scale Transformers over what both say, and attention between the tasks.

The `TwoStreamCrossTask` of the EPIC-KITCHENS study that kinema rebuilds (ResNet-50 on frames, another on 10 channels of
flow), which has no paper of its own; two streams as in Simonyan and Zisserman, "Two-Stream Convolutional Networks for
Action Recognition in Videos", NIPS 2014, attention as in Vaswani et al., "Attention Is All You Need", NeurIPS 2017,
https://arxiv.org/abs/1706.03762. Deviations: the features of both networks become one, of the length of the first's, by
a linear layer, frame by frame, as it is not known how the study joined them; behind it everything is as in
`cross_task_attention`: tasks attend to each other's tokens, of which the study had one per task.
"""

from __future__ import annotations

from torch import nn

from kinema.models.configurations import Configuration
from kinema.models.cross_task_attention import cross_task_attention
from kinema.models.fused_model import FeatureFusion, FusedModel, with_backbones
from kinema.registry import register_model
from kinema.types import Heads, Inputs

CONFIGURATIONS = (
    Configuration(
        name="default",
        arguments={},
        classes={"verb": 97, "noun": 300},
        num_frames=16,
        size_px=224,
        freeze="backbone",
        summary="The arguments' defaults on frames and five fields of flow, with the classes of EPIC-KITCHENS-100.",
        streams={"rgb": 3, "flow": 10},
    ),
    Configuration(
        name="epic",
        arguments={"backbone": "resnet50", "shared": True, "width": None},
        classes={"verb": 97, "noun": 300},
        num_frames=16,
        size_px=224,
        freeze=2,
        summary="As phase 3 of the EPIC-KITCHENS study, with a second ResNet-50 on five fields of flow.",
        streams={"rgb": 3, "flow": 10},
    ),
)


@register_model
def two_stream_cross_task(
    heads: Heads,
    inputs: Inputs,
    *,
    backbone: str = "mobilenet_v2",
    windows: tuple[int, ...] = (4, 8, 16),
    shared: bool = False,
    width: int | None = 512,
    num_layers: int = 2,
    num_heads: int = 8,
    feed_forward: int | None = None,
    branch_width: int = 1024,
    branch_dropout: float = 0.25,
    layer_dropout: float = 0.1,
    drop_path: float = 0.1,
    head_hidden: tuple[int, ...] = (512,),
    head_dropout: float | None = None,
    dropout: float = 0.5,
) -> nn.Module:
    """Features of frames and of motion, multi-scale Transformers, then tasks that attend to each other.

    Args:
        heads: Task -> class names.
        inputs: Stream -> shape.
        backbone: Of each stream: an image network of torchvision or timm, or `tiny`, `basic_cnn`, `flat_cnn`,
            `narrow_cnn`, `wide_cnn`.
        windows: Frames in the windows of each scale.
        shared: One Transformer for all scales instead of one for each.
        width: Of tokens, to which frame features are projected; null: as long as they are.
        num_layers: Blocks of each Transformer.
        num_heads: Of attention, over time and between tasks.
        feed_forward: Units of a block's linear layers; null: four times the width.
        branch_width: Of each task's tokens.
        branch_dropout: In each task's branch.
        layer_dropout: Inside blocks.
        drop_path: Probability that a window passes by the last block's parts; smaller in those before it.
        head_hidden: Units of hidden layers in each task's classifier.
        head_dropout: Behind these; null: `dropout`.
        dropout: Before the classifier.

    Raises:
        ConfigError: An argument is impossible, or there is one stream alone.
    """
    one = next(iter(inputs))
    first = cross_task_attention(
        heads,
        {one: inputs[one]},
        backbone=backbone,
        windows=windows,
        shared=shared,
        width=width,
        num_layers=num_layers,
        num_heads=num_heads,
        feed_forward=feed_forward,
        branch_width=branch_width,
        branch_dropout=branch_dropout,
        layer_dropout=layer_dropout,
        drop_path=drop_path,
        head_hidden=head_hidden,
        head_dropout=head_dropout,
        dropout=dropout,
    )
    networks = with_backbones(first, inputs, backbone=backbone, name="two_stream_cross_task")
    lengths = [network.backbone.num_features for network in networks.values()]
    return FusedModel(networks, FeatureFusion(lengths, lengths[0]))
