"""A CNN on frames and an LSTM over time.

Donahue et al., "Long-term Recurrent Convolutional Networks for Visual Recognition and Description", CVPR 2015,
https://arxiv.org/abs/1411.4389; Hochreiter and Schmidhuber, "Long Short-Term Memory", Neural Computation 1997,
https://doi.org/10.1162/neco.1997.9.8.1735, with forget gates. Deviations: the classifier sees the LSTM's final state,
or the mean of its outputs, instead of averaging the predictions of every time step; the LSTM is PyTorch's, which has
two bias vectors.
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
    Configuration(
        name="epic_categories",
        arguments={"hidden_size": 50, "head_norm": "batch"},
        classes={"verb": 13},
        num_frames=20,
        size_px=256,
        freeze="backbone",
        summary="LSTM of the egocentric-vision report: 50 units, 13 verb categories.",
    ),
    Configuration(
        name="epic_resnet50",
        arguments={"backbone": "resnet50", "hidden_size": 512, "num_layers": 2, "head_hidden": (256,)},
        classes={"verb": 97, "noun": 300},
        num_frames=16,
        size_px=224,
        summary="ResNet-50 + LSTM of the EPIC-KITCHENS study: 2 layers of 512.",
    ),
    Configuration(
        name="epic_resnet50_projected",
        arguments={"backbone": "resnet50", "hidden_size": 512, "projection": 512, "head_hidden": (256,)},
        classes={"verb": 97, "noun": 300},
        num_frames=16,
        size_px=224,
        summary="The same size as the study states: one layer over features projected to 512.",
    ),
    Configuration(
        name="epic_resnet50_256",
        arguments={"backbone": "resnet50", "hidden_size": 256, "num_layers": 2, "head_hidden": (256,)},
        classes={"verb": 97, "noun": 300},
        num_frames=16,
        size_px=224,
        summary="Another of about the stated size: 2 layers of 256.",
    ),
    Configuration(
        name="epic_efficientnet_b3",
        arguments={"backbone": "efficientnet_b3", "hidden_size": 512, "num_layers": 2, "head_hidden": (256,)},
        classes={"verb": 97, "noun": 300},
        num_frames=16,
        size_px=224,
        summary="EfficientNet-B3 + LSTM of the EPIC-KITCHENS study: 2 layers of 512.",
    ),
    Configuration(
        name="epic_efficientnet_b3_bi",
        arguments={
            "backbone": "efficientnet_b3",
            "hidden_size": 512,
            "num_layers": 2,
            "bidirectional": True,
            "head_hidden": (256,),
        },
        classes={"verb": 97, "noun": 300},
        num_frames=16,
        size_px=224,
        summary="The same, bidirectional.",
    ),
    Configuration(
        name="epic_efficientnet_b3_bi_1",
        arguments={"backbone": "efficientnet_b3", "hidden_size": 512, "bidirectional": True, "head_hidden": (256,)},
        classes={"verb": 97, "noun": 300},
        num_frames=16,
        size_px=224,
        summary="The same, bidirectional, one layer.",
    ),
    Configuration(
        name="ucf_cnn_lstm",
        arguments={
            "backbone": "flat_cnn",
            "hidden_size": 256,
            "further_sizes": (128,),
            "head_hidden": (256,),
            "head_dropout": 0.5,
            "dropout": 0.0,
        },
        classes={"action": 101},
        num_frames=5,
        size_px=224,
        summary="cnn_lstm of the UCF101 framework: three convolutions and two LSTMs, from scratch.",
    ),
    Configuration(
        name="ucf_pretrained_cnn_lstm",
        arguments={"hidden_size": 256, "further_sizes": (128,), "layer_dropout": 0.5, "head_hidden": (256,)},
        classes={"action": 101},
        num_frames=5,
        size_px=224,
        freeze="backbone",
        summary="pretrained_cnn_lstm of the UCF101 framework: frozen MobileNetV2 and two LSTMs.",
    ),
)


@register_model
def cnn_lstm(
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
    """Frame features, then an LSTM over time.

    Args:
        heads: Task -> class names.
        inputs: Stream -> shape.
        backbone: An image network of torchvision or timm, or `tiny`, `basic_cnn`, `flat_cnn`, `narrow_cnn`, `wide_cnn`.
        backbone_cut: Name of the module after which it ends, such as `layer3` or `features.13`; null: all of it.
        hidden_size: Units of the LSTM, per direction.
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
        "lstm",
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
