"""Several image networks side by side, trained as one: their features meet in front of the classifier.

The `ensemble` of the UCF101 framework that kinema rebuilds, which has no paper: frozen MobileNetV2 (Sandler et al.,
CVPR 2018, https://arxiv.org/abs/1801.04381), frozen EfficientNet-B0 (Tan and Le, ICML 2019,
https://arxiv.org/abs/1905.11946) and a small network of its own, each with a linear layer behind it. It is a fusion of
features, trained together; an average of models that were trained alone is `ensemble`.
Deviations: what is averaged over the frames of a clip are each network's features, the original sees single frames; by
default the small network pools behind its last convolution too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kinema.models.configurations import Configuration
from kinema.models.layers.backbone import FrameBackbone
from kinema.models.layers.checks import at_least, unused
from kinema.models.layers.heads import LinearHeads
from kinema.models.layers.plain import PlainCNN
from kinema.registry import register_model
from kinema.types import ConfigError, Heads, Inputs, only

CONFIGURATIONS = (
    Configuration(
        name="default",
        arguments={},
        classes={"action": 101},
        num_frames=1,
        size_px=224,
        freeze="backbone",
        summary="The arguments' defaults, with the classes of UCF101.",
    ),
    Configuration(
        name="ucf_ensemble",
        arguments={"cnn_pool_last": False},
        classes={"action": 101},
        num_frames=1,
        size_px=224,
        freeze="backbone",
        summary="ensemble of the UCF101 framework: frozen MobileNetV2 and EfficientNet-B0 beside a small network.",
    ),
)


class JointEnsemble(nn.Module):
    """Networks side by side; each one's features, averaged over the frames, go through a linear layer of its own.

    Args:
        backbones: Whose weights may come from elsewhere.
        plain: One more, which is trained from scratch.
        branch_size: Units of each linear layer.
        heads: Takes what these say, one behind the other.
    """

    def __init__(
        self, backbones: Sequence[FrameBackbone], plain: PlainCNN | None, *, branch_size: int, heads: LinearHeads
    ) -> None:
        super().__init__()
        self.backbones = nn.ModuleList(backbones)
        self.plain = plain
        lengths = [backbone.num_features for backbone in backbones]
        lengths += [] if plain is None else [plain.num_features]
        self.projections = nn.ModuleList(nn.Linear(length, branch_size) for length in lengths)
        self.heads = heads

    def forward(self, streams: Mapping[str, Float[Tensor, "B T C H W"]]) -> dict[str, Float[Tensor, "B _K"]]:
        frames = only(streams)
        networks = [*self.backbones, *([] if self.plain is None else [self.plain])]
        said = []
        for network, projection in zip(networks, self.projections, strict=True):
            features = network(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
            said.append(torch.relu(projection(features.mean(dim=1))))
        return self.heads(torch.cat(said, dim=1))


@register_model
def joint_ensemble(
    heads: Heads,
    inputs: Inputs,
    *,
    backbones: tuple[str, ...] = ("mobilenet_v2", "efficientnet_b0"),
    cnn_channels: tuple[int, ...] = (64, 128, 256),
    cnn_pool_last: bool = True,
    branch_size: int = 256,
    head_hidden: tuple[int, ...] = (512,),
    head_dropout: float | None = None,
    dropout: float = 0.5,
) -> nn.Module:
    """Several image networks, averaged over frames, then one classifier on all of their features.

    Args:
        heads: Task -> class names.
        inputs: Stream -> shape.
        backbones: Image networks of torchvision or timm, or `tiny`, `basic_cnn`, `flat_cnn`, `narrow_cnn`, `wide_cnn`.
            `init.weights` and `init.freeze` can name each of them.
        cnn_channels: Filters of the convolutions of one more network, which is trained from scratch; []: there is none.
        cnn_pool_last: A maximum over 2x2 behind the last of these, as behind the others; not so in the UCF101
            framework.
        branch_size: Units of the linear layer behind each network.
        head_hidden: Units of hidden layers in each task's classifier.
        head_dropout: Behind these; null: `dropout`.
        dropout: Before the classifier.

    Raises:
        ConfigError: An argument is impossible.
    """
    at_least(1, cnn_channels=cnn_channels, branch_size=branch_size)
    if not backbones:
        raise ConfigError("model.backbones: has to name one at least")
    networks = [FrameBackbone(name) for name in backbones]
    if not cnn_channels:
        unused("without model.cnn_channels", cnn_pool_last=(cnn_pool_last, True))
    channels = only(inputs).channels
    plain = PlainCNN(cnn_channels, grid=1, pool_last=cnn_pool_last, input_channels=channels) if cnn_channels else None
    classifiers = LinearHeads(
        branch_size * (len(networks) + (plain is not None)),
        heads,
        dropout=dropout,
        hidden=head_hidden,
        hidden_dropout=head_dropout,
    )
    return JointEnsemble(networks, plain, branch_size=branch_size, heads=classifiers)
