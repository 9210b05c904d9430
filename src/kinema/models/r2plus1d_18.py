"""R(2+1)D-18: convolutions over space and over time in turn; whole or cut, with or without attention behind it.

Tran et al., "A Closer Look at Spatiotemporal Convolutions for Action Recognition", CVPR 2018,
https://arxiv.org/abs/1711.11248. torchvision's implementation and published weights (Kinetics-400).
`pool: perceiver` is a Perceiver (Jaegle et al., ICML 2021, https://arxiv.org/abs/2103.03206) on the places of the
last map. `pool: bert` is Kalfaoglu et al., "Late Temporal Modeling in 3D CNN Architectures with BERT for Action
Recognition", ECCV workshops 2020, https://arxiv.org/abs/2008.01232.
Deviations: dropout may be put before the classifier, and the network may be cut after a block. Of the Perceiver: every
cross attention has queries of its own, to which what came before is added, and its own weights, as has every
self-attention; the classifier sees a class token instead of the mean over queries, wherever there is self-attention;
feed-forward layers are gated (GEGLU). Of BERT: no token is masked in training.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from kinema.models.clip_model import ClipModel
from kinema.models.configurations import Configuration
from kinema.models.layers.bert import BertPool
from kinema.models.layers.checks import at_least, share, unused
from kinema.models.layers.perceiver import PerceiverPool
from kinema.models.layers.video import MeanMaps, MomentPool, TokenPool
from kinema.models.layers.video_resnet import video_resnet
from kinema.registry import register_model
from kinema.types import Heads, Inputs, only

_BLOCKS_PER_HALVING = 2


def _ablation(name: str, num_blocks: int, num_cross: int, num_self: int) -> Configuration:
    return Configuration(
        name=name,
        arguments={"num_blocks": num_blocks, "pool": "perceiver", "num_cross": num_cross, "num_self": num_self},
        classes={"action": 51},
        num_frames=16,
        size_px=112,
        summary=f"HMDB51 project's ablation: {num_blocks} blocks, {num_cross} cross and {num_self} self-attentions.",
    )


CONFIGURATIONS = (
    Configuration(
        name="default",
        arguments={},
        classes={"action": 400},
        num_frames=16,
        size_px=112,
        summary="The network that torchvision publishes weights for; the HMDB51 project counts its baseline so.",
    ),
    Configuration(
        name="hmdb51",
        arguments={},
        classes={"action": 51},
        num_frames=16,
        size_px=112,
        summary="Baseline of the HMDB51 project.",
    ),
    _ablation("perceiver_1c6s", 8, 1, 6),
    _ablation("perceiver_1c2s", 8, 1, 2),
    _ablation("perceiver_1c1s", 8, 1, 1),
    _ablation("perceiver_1c", 8, 1, 0),
    _ablation("perceiver_6s", 8, 0, 6),
    _ablation("perceiver_1s", 8, 0, 1),
    _ablation("perceiver_7_blocks", 7, 1, 6),
    _ablation("perceiver_6_blocks", 6, 1, 6),
    _ablation("perceiver_4_blocks", 4, 1, 6),
    _ablation("perceiver_4_blocks_2c12s", 4, 2, 12),
    Configuration(
        name="bert",
        arguments={"pool": "bert"},
        classes={"action": 51},
        num_frames=16,
        size_px=112,
        summary="3D CNN + BERT, which the HMDB51 project compares with.",
    ),
    Configuration(
        name="epic",
        arguments={"head_hidden": (512,)},
        classes={"verb": 97, "noun": 300},
        num_frames=16,
        size_px=112,
        summary="Phase 1 of the EPIC-KITCHENS study, for clips of the published weights' size.",
    ),
)


@register_model
def r2plus1d_18(
    heads: Heads,
    inputs: Inputs,
    *,
    num_blocks: int = 8,
    pool: Literal["mean", "perceiver", "bert"] = "mean",
    num_cross: int = 1,
    num_self: int = 6,
    num_queries: int = 256,
    attention_size: int = 512,
    num_layers: int = 1,
    attention_dropout: float = 0.0,
    head_hidden: tuple[int, ...] = (),
    head_dropout: float | None = None,
    dropout: float = 0.0,
) -> nn.Module:
    """R(2+1)D-18, whole or cut, with a mean, a Perceiver or BERT behind it.

    Args:
        heads: Task -> class names.
        inputs: Stream -> shape.
        num_blocks: Residual blocks that are kept, of 8.
        pool: What makes one feature of the last map: its `mean`, a `perceiver` over its places, or `bert` over time.
        num_cross: Cross attentions of the perceiver; 0 lets the places attend to each other, without regard to
            where and when they are.
        num_self: Self-attentions of the perceiver, spread over its cross attentions.
        num_queries: Learned queries of a cross attention.
        attention_size: Length of a query.
        num_layers: Encoder layers of BERT.
        attention_dropout: Within the perceiver, or BERT.
        head_hidden: Units of hidden layers in each task's classifier.
        head_dropout: Behind these; null: `dropout`.
        dropout: Before the classifier.

    Raises:
        ConfigError: An argument is impossible.
    """
    share(attention_dropout=attention_dropout)
    if pool == "mean":
        unused("with model.pool=mean", attention_dropout=(attention_dropout, 0.0))
    if pool != "perceiver":
        unused(
            f"with model.pool={pool}",
            num_cross=(num_cross, 1),
            num_self=(num_self, 6),
            num_queries=(num_queries, 256),
            attention_size=(attention_size, 512),
        )
    if pool != "bert":
        unused(f"with model.pool={pool}", num_layers=(num_layers, 1))
    clips = video_resnet("r2plus1d_18", num_blocks=num_blocks)
    pooling: nn.Module = MeanMaps(clips.num_features)
    if pool == "perceiver":
        at_least(1, attention_size=attention_size)
        perceiver = PerceiverPool(
            clips.num_features,
            num_axes=3,
            num_cross=num_cross,
            num_self=num_self,
            num_queries=num_queries,
            size=attention_size,
            dropout=attention_dropout,
        )
        pooling = TokenPool(perceiver)
    if pool == "bert":
        num_moments = only(inputs).num_frames
        for _ in range((num_blocks - 1) // _BLOCKS_PER_HALVING):  # every layer but the first halves the clip
            num_moments = (num_moments + 1) // 2
        bert = BertPool(clips.num_features, num_tokens=num_moments, num_layers=num_layers, dropout=attention_dropout)
        pooling = MomentPool(bert)
    return ClipModel(clips, pooling, heads, dropout=dropout, hidden=head_hidden, hidden_dropout=head_dropout)
