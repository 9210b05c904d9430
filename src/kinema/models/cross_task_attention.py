"""Multi-scale Transformers over frame features, a branch for each task, and attention between the branches.

The third phase of the EPIC-KITCHENS study that kinema rebuilds (ResNet-50, windows of 4, 8 and 16 frames, verbs and
nouns), which has no paper of its own; attention is that of Vaswani et al., "Attention Is All You Need", NeurIPS 2017,
https://arxiv.org/abs/1706.03762. Deviations: tasks attend to each other's tokens of frames or windows, where the study
had one token per task, which leaves nothing to attend to; windows lie over the whole clip, where the study took the
clip's first frames.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from kinema.models.configurations import Configuration
from kinema.models.frame_model import FrameModel
from kinema.models.layers.backbone import FrameBackbone
from kinema.models.layers.checks import unused
from kinema.models.layers.cross_task import CrossTaskHeads
from kinema.models.layers.transformer import MultiScalePool, TransformerPool, window_starts
from kinema.registry import register_model
from kinema.types import ConfigError, Heads, Inputs, only

CONFIGURATIONS = (
    Configuration(
        name="default",
        arguments={},
        classes={"verb": 97, "noun": 300},
        num_frames=16,
        size_px=224,
        freeze="backbone",
        summary="The arguments' defaults, with the classes of EPIC-KITCHENS-100.",
    ),
    Configuration(
        name="epic",
        arguments={"backbone": "resnet50", "shared": True, "width": None},
        classes={"verb": 97, "noun": 300},
        num_frames=16,
        size_px=224,
        freeze=2,
        summary="Phase 3 of the EPIC-KITCHENS study with one Transformer for all scales.",
    ),
    Configuration(
        name="epic_three_scales",
        arguments={"backbone": "resnet50", "width": None},
        classes={"verb": 97, "noun": 300},
        num_frames=16,
        size_px=224,
        freeze=2,
        summary="The same with a Transformer for each scale.",
    ),
)


@register_model
def cross_task_attention(
    heads: Heads,
    inputs: Inputs,
    *,
    backbone: str = "mobilenet_v2",
    backbone_cut: str | None = None,
    tokens: Literal["windows", "frames"] = "windows",
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
    feature_norm: Literal["none", "batch", "clip"] = "none",
    head_hidden: tuple[int, ...] = (512,),
    head_dropout: float | None = None,
    dropout: float = 0.5,
) -> nn.Module:
    """Multi-scale Transformers, then tasks that attend to each other.

    Args:
        heads: Task -> class names.
        inputs: Stream -> shape.
        backbone: An image network of torchvision or timm, or `tiny`, `basic_cnn`, `flat_cnn`, `narrow_cnn`, `wide_cnn`.
        backbone_cut: Name of the module after which it ends, such as `layer3` or `features.13`; null: all of it.
        tokens: What tasks attend to: `windows` of several lengths, or `frames`.
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
        feature_norm: `batch` normalises the frames' features; `clip` takes the clip's mean away first, so that what
            stays the same within a clip, such as the scene, is not seen. Both help on top of a frozen backbone.
        head_hidden: Units of hidden layers in each task's classifier.
        head_dropout: Behind these; null: `dropout`.
        dropout: Before the classifier.

    Raises:
        ConfigError: An argument is impossible.
    """
    frames = FrameBackbone(backbone, cut=backbone_cut)
    num_frames = only(inputs).num_frames
    if tokens == "frames":
        unused("with model.tokens=frames", windows=(tuple(windows), (4, 8, 16)), shared=(shared, False))
    if len(heads) < 3:  # a task attends to the tokens of one other, or its own
        _see_several(tokens, windows, num_frames=num_frames, shared=shared)
    temporal: MultiScalePool | TransformerPool
    if tokens == "windows":
        temporal = MultiScalePool(
            frames.num_features,
            num_frames=num_frames,
            windows=windows,
            shared=shared,
            width=width,
            num_layers=num_layers,
            num_heads=num_heads,
            feed_forward=feed_forward,
            dropout=layer_dropout,
            drop_path=drop_path,
            pool=False,
        )
    else:
        temporal = TransformerPool(
            frames.num_features,
            num_frames=num_frames,
            width=width,
            num_layers=num_layers,
            num_heads=num_heads,
            feed_forward=feed_forward,
            pool="none",
            dropout=layer_dropout,
            drop_path=drop_path,
        )
    classifiers = CrossTaskHeads(
        temporal.num_features,
        heads,
        width=branch_width,
        num_heads=num_heads,
        branch_dropout=branch_dropout,
        dropout=dropout,
        hidden=head_hidden,
        hidden_dropout=head_dropout,
    )
    return FrameModel(frames, temporal, classifiers, feature_norm=feature_norm)


def _see_several(tokens: str, windows: tuple[int, ...], *, num_frames: int, shared: bool) -> None:
    """See to it that tasks do not attend to one token alone, or to equal ones, which gets the same weight whatever it
    says.

    Raises:
        ConfigError: They do.
    """
    advice = "attention to a single one says nothing"
    if tokens == "frames" and num_frames == 1:
        raise ConfigError(f"model.tokens: a clip of one frame is one token, and {advice}; raise clips.num_frames")
    different = {
        (0 if shared else scale, start, min(window, num_frames))
        for scale, window in enumerate(windows)
        if window > 0
        for start in window_starts(num_frames, window)
    }
    if tokens == "windows" and len(different) == 1:
        raise ConfigError(
            f"model.windows: {list(windows)} make one token of a clip of {num_frames} frames, and {advice}; give "
            "shorter windows, or model.tokens=frames"
        )
