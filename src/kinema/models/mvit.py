"""MViT: a transformer that pools its tokens from stage to stage.

Fan et al., "Multiscale Vision Transformers", ICCV 2021, https://arxiv.org/abs/2104.11227 (v1_b), and Li et al.,
"MViTv2", CVPR 2022, https://arxiv.org/abs/2112.01526 (v2_s). torchvision's implementation and published weights
(Kinetics-400), which are for 16 frames of 224 px: in a network for other clips, positions stay random.
Deviations: the network can be built for clips of another length and size than torchvision's functions build it for;
dropout before the classifier can be chosen.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import nn

from kinema.models.clip_model import ClipModel
from kinema.models.configurations import Configuration
from kinema.models.layers.video import ClipBackbone, torchvision_fetch
from kinema.registry import register_model
from kinema.types import Heads, Inputs, InputShape, only

_MEAN, _STD = (0.45, 0.45, 0.45), (0.225, 0.225, 0.225)


def _configuration(name: str, variant: str) -> Configuration:
    return Configuration(
        name=name,
        arguments={"variant": variant},
        classes={"action": 400},
        num_frames=16,
        size_px=224,
        summary=f"mvit_{variant}, which torchvision publishes weights for.",
    )


CONFIGURATIONS = (_configuration("default", "v2_s"), _configuration("mvit_v1_b", "v1_b"))


@register_model
def mvit(
    heads: Heads,
    inputs: Inputs,
    *,
    variant: Literal["v1_b", "v2_s"] = "v2_s",
    head_hidden: tuple[int, ...] = (),
    head_dropout: float | None = None,
    dropout: float = 0.5,
) -> nn.Module:
    """MViT: a transformer that pools its tokens from stage to stage.

    Args:
        heads: Task -> class names.
        inputs: Stream -> shape.
        variant: Base network of the first paper, or small one of the second.
        head_hidden: Units of hidden layers in each task's classifier.
        head_dropout: Behind these; null: `dropout`.
        dropout: Before the classifier.
    """
    shape = only(inputs)
    name = f"mvit_{variant}"
    body: Any = _network(variant, shape)
    num_features: int = body.head[1].in_features
    body.head = nn.Identity()
    clips = ClipBackbone(
        body,
        num_features,
        name=name,
        fetch=torchvision_fetch(name),
        mean=_MEAN,
        std=_STD,
        classifier="head.1",
    )
    return ClipModel(clips, None, heads, dropout=dropout, hidden=head_hidden, hidden_dropout=head_dropout)


def _network(variant: str, shape: InputShape) -> nn.Module:
    """torchvision's network; its own functions fix the clip's length and size."""
    from torchvision.models.video.mvit import MSBlockConfig, MViT

    is_first = variant == "v1_b"
    pooled = (1, 3, 14)  # blocks whose queries are pooled
    every, none = [3, 3, 3], list[int]()
    num_in = 96
    settings = []
    for block in range(16):
        # The first version widens at the end of the block before its queries are pooled, the second together with it.
        num_out = 2 * num_in if block + is_first in pooled else num_in
        kv_stride = 8 if block == 0 else 4 if block < 3 else 2 if block < 14 else 1
        settings.append(
            MSBlockConfig(
                num_heads=1 if block == 0 else 2 if block < 3 else 4 if block < 14 else 8,
                input_channels=num_in,
                output_channels=num_out,
                kernel_q=every if block in pooled or not is_first else none,
                kernel_kv=every,
                stride_q=[1, 2, 2] if block in pooled else none if is_first else [1, 1, 1],
                stride_kv=[1, kv_stride, kv_stride],
            )
        )
        num_in = num_out
    # The first convolution (stride 2, 4, 4) starts a token at every begun stride, torchvision counts whole ones: told
    # of a clip that ends with a stride, it places as many positions as there are tokens.
    return MViT(
        spatial_size=(_up(shape.height_px, 4), _up(shape.width_px, 4)),
        temporal_size=_up(shape.num_frames, 2),
        block_setting=settings,
        residual_pool=not is_first,
        residual_with_cls_embed=False,
        rel_pos_embed=not is_first,
        proj_after_attn=not is_first,
        stochastic_depth_prob=0.2,
    )


def _up(size: int, stride: int) -> int:
    return -(-size // stride) * stride
