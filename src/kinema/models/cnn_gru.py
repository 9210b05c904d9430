"""A CNN on frames and gated recurrent units over time.

Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine Translation", EMNLP 2014,
https://arxiv.org/abs/1406.1078; over frames, Ballas et al., "Delving Deeper into Convolutional Networks for Learning
Video Representations", ICLR 2016, https://arxiv.org/abs/1511.06432. Deviations: the reset gate acts on what the
recurrent weights make of the state, as in PyTorch, not on the state in front of them; over one feature per frame, not
over maps of several layers; the classifier sees the final state, or the mean of the outputs.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from kinema.models.configurations import Configuration
from kinema.models.frame_model import FrameModel
from kinema.models.layers.backbone import FrameBackbone
from kinema.models.layers.checks import unused
from kinema.models.layers.heads import LinearHeads
from kinema.models.layers.recurrent import RecurrentPool
from kinema.registry import register_model
from kinema.types import Heads, Inputs

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
)


@register_model
def cnn_gru(
    heads: Heads,
    inputs: Inputs,
    *,
    backbone: str = "mobilenet_v2",
    backbone_cut: str | None = None,
    hidden_size: int = 128,
    num_layers: int = 1,
    further_sizes: tuple[int, ...] = (),
    bidirectional: bool = False,
    pool: Literal["last", "mean"] = "last",
    projection: int | None = None,
    layer_dropout: float = 0.0,
    feature_norm: Literal["none", "batch", "clip"] = "none",
    head_norm: Literal["none", "batch", "layer"] = "none",
    head_hidden: tuple[int, ...] = (),
    head_dropout: float | None = None,
    dropout: float = 0.5,
) -> nn.Module:
    """Frame features, then gated recurrent units over time.

    Args:
        heads: Task -> class names.
        inputs: Stream -> shape.
        backbone: An image network of torchvision or timm, or `tiny`, `basic_cnn`, `flat_cnn`, `narrow_cnn`, `wide_cnn`.
        backbone_cut: Name of the module after which it ends, such as `layer3` or `features.13`; null: all of it.
        hidden_size: Units of the GRU, per direction.
        num_layers: Stacked layers of that size.
        further_sizes: Units of further layers behind them.
        bidirectional: Read the clip in both directions.
        pool: What the classifier sees: the `last` state, or the `mean` of all outputs.
        projection: Length to which frame features are projected first; null: they are not.
        layer_dropout: Between layers.
        feature_norm: `batch` normalises the frames' features; `clip` takes the clip's mean away first, so that what
            stays the same within a clip, such as the scene, is not seen. Both help on top of a frozen backbone.
        head_norm: Of the clip's feature.
        head_hidden: Units of hidden layers in each task's classifier.
        head_dropout: Behind these; null: `dropout`.
        dropout: Before the classifier.

    Raises:
        ConfigError: An argument is impossible.
    """
    if num_layers == 1 and not further_sizes:
        unused("with a single layer", layer_dropout=(layer_dropout, 0.0))
    frames = FrameBackbone(backbone, cut=backbone_cut)
    temporal = RecurrentPool(
        "gru",
        frames.num_features,
        hidden_size=hidden_size,
        num_layers=num_layers,
        further_sizes=further_sizes,
        bidirectional=bidirectional,
        pool=pool,
        projection=projection,
        dropout=layer_dropout,
    )
    classifiers = LinearHeads(
        temporal.num_features, heads, dropout=dropout, hidden=head_hidden, hidden_dropout=head_dropout, norm=head_norm
    )
    return FrameModel(frames, temporal, classifiers, feature_norm=feature_norm)
