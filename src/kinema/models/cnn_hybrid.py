"""A CNN on frames, and a bidirectional LSTM beside a Transformer over time.

The hybrid of the EPIC-KITCHENS study that kinema rebuilds, which has no paper of its own: Hochreiter and Schmidhuber,
"Long Short-Term Memory", Neural Computation 1997, https://doi.org/10.1162/neco.1997.9.8.1735, beside Vaswani et al.,
"Attention Is All You Need", NeurIPS 2017, https://arxiv.org/abs/1706.03762. Deviations: pre-norm blocks and learned
positions.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from kinema.models.configurations import Configuration
from kinema.models.frame_model import FrameModel
from kinema.models.layers.backbone import FrameBackbone
from kinema.models.layers.heads import LinearHeads
from kinema.models.layers.recurrent import RecurrentPool
from kinema.models.layers.temporal import HybridPool
from kinema.models.layers.transformer import TransformerPool
from kinema.registry import register_model
from kinema.types import Heads, Inputs, only

CONFIGURATIONS = (
    Configuration(
        name="default",
        arguments={},
        classes={"action": 101},
        num_frames=20,
        size_px=224,
        freeze="backbone",
        summary="The arguments' defaults, with the classes of UCF101.",
    ),
    Configuration(
        name="epic_resnet50",
        arguments={"backbone": "resnet50", "head_hidden": (256,)},
        classes={"verb": 97, "noun": 300},
        num_frames=16,
        size_px=224,
        summary="Hybrid of the EPIC-KITCHENS study: BiLSTM of 256 beside two blocks.",
    ),
)


@register_model
def cnn_hybrid(
    heads: Heads,
    inputs: Inputs,
    *,
    backbone: str = "mobilenet_v2",
    backbone_cut: str | None = None,
    width: int = 512,
    hidden_size: int = 256,
    num_layers: int = 2,
    num_heads: int = 8,
    feed_forward: int = 1024,
    layer_dropout: float = 0.1,
    drop_path: float = 0.1,
    feature_norm: Literal["none", "batch", "clip"] = "none",
    head_norm: Literal["none", "batch", "layer"] = "none",
    head_hidden: tuple[int, ...] = (),
    head_dropout: float | None = None,
    dropout: float = 0.5,
) -> nn.Module:
    """Frame features, then a bidirectional LSTM beside a Transformer, joined by a linear layer.

    Args:
        heads: Task -> class names.
        inputs: Stream -> shape.
        backbone: An image network of torchvision or timm, or `tiny`, `basic_cnn`, `flat_cnn`, `narrow_cnn`, `wide_cnn`.
        backbone_cut: Name of the module after which it ends, such as `layer3` or `features.13`; null: all of it.
        width: To which frame features are projected, and of what is joined.
        hidden_size: Units of the LSTM, per direction.
        num_layers: Layers of the LSTM and blocks of the Transformer.
        num_heads: Of attention.
        feed_forward: Units of a block's linear layers.
        layer_dropout: Between layers and inside blocks.
        drop_path: Probability that a clip passes by the last block's parts; smaller in those before it.
        feature_norm: `batch` normalises the frames' features; `clip` takes the clip's mean away first, so that what
            stays the same within a clip, such as the scene, is not seen. Both help on top of a frozen backbone.
        head_norm: Of the clip's feature.
        head_hidden: Units of hidden layers in each task's classifier.
        head_dropout: Behind these; null: `dropout`.
        dropout: Before the classifier.

    Raises:
        ConfigError: An argument is impossible.
    """
    frames = FrameBackbone(backbone, cut=backbone_cut)
    lstm = RecurrentPool(
        "lstm", width, hidden_size=hidden_size, num_layers=num_layers, bidirectional=True, dropout=layer_dropout
    )
    transformer = TransformerPool(
        width,
        num_frames=only(inputs).num_frames,
        width=None,
        num_layers=num_layers,
        num_heads=num_heads,
        feed_forward=feed_forward,
        pool="mean",
        dropout=layer_dropout,
        drop_path=drop_path,
    )
    temporal = HybridPool(frames.num_features, lstm=lstm, transformer=transformer, width=width)
    classifiers = LinearHeads(
        temporal.num_features, heads, dropout=dropout, hidden=head_hidden, hidden_dropout=head_dropout, norm=head_norm
    )
    return FrameModel(frames, temporal, classifiers, feature_norm=feature_norm)
