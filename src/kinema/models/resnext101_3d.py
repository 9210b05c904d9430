"""3D ResNeXt-101: residual blocks of grouped convolutions of three dimensions.

Hara et al., "Can Spatiotemporal 3D CNNs Retrace the History of 2D CNNs and ImageNet?", CVPR 2018,
https://arxiv.org/abs/1711.09577. Its parameters have the names that they have in the paper's implementation.
Deviations, which are those of the Kinetics project that kinema rebuilds, and which `classic` takes back: convolutions
have biases, and the activation is leaky.
"""

from __future__ import annotations

from torch import Tensor, nn

from kinema.models.clip_model import ClipModel
from kinema.models.configurations import Configuration
from kinema.models.layers.video import ClipBackbone, MeanMaps
from kinema.registry import register_model
from kinema.types import ConfigError, Heads, Inputs

_BLOCKS = (3, 4, 23, 3)
_WIDTHS = (128, 256, 512, 1024)
_CARDINALITY = 32

CONFIGURATIONS = (
    Configuration(
        name="default",
        arguments={},
        classes={"action": 600},
        num_frames=16,
        size_px=112,
        summary="That of the Kinetics project, on Kinetics-600; it counts 137,856 running statistics too.",
    ),
    Configuration(
        name="classic",
        arguments={"classic": True},
        classes={"action": 400},
        num_frames=16,
        size_px=112,
        summary="The paper's network.",
    ),
)


class ResNeXt3D(nn.Module):
    """All but the average and the classifier.

    Args:
        classic: The paper's network.
        divisor: Layers are this many times narrower.
        blocks: Blocks per layer.
    """

    def __init__(self, *, classic: bool, divisor: int = 1, blocks: tuple[int, ...] = _BLOCKS) -> None:
        super().__init__()
        num_in = 64 // divisor
        self.conv1 = nn.Conv3d(3, num_in, 7, stride=(1, 2, 2), padding=3, bias=not classic)
        self.bn1 = nn.BatchNorm3d(num_in)
        self.relu = _activation(classic)
        self.maxpool = nn.MaxPool3d(3, stride=2, padding=1)
        for number, (num_blocks, width) in enumerate(zip(blocks, _WIDTHS, strict=True)):
            layer = nn.Sequential()
            for block in range(num_blocks):
                stride = 2 if number and not block else 1
                layer.append(_Bottleneck(num_in, width // divisor, stride, classic=classic))
                num_in = 2 * width // divisor
            setattr(self, f"layer{number + 1}", layer)
        self.num_features = num_in
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, clips: Tensor) -> Tensor:
        hidden = self.maxpool(self.relu(self.bn1(self.conv1(clips))))
        for number in range(len(_WIDTHS)):
            hidden = getattr(self, f"layer{number + 1}")(hidden)
        return hidden


class _Bottleneck(nn.Module):
    def __init__(self, num_in: int, width: int, stride: int, *, classic: bool) -> None:
        super().__init__()
        num_out = 2 * width
        bias = not classic
        self.conv1 = nn.Conv3d(num_in, width, 1, bias=bias)
        self.bn1 = nn.BatchNorm3d(width)
        self.conv2 = nn.Conv3d(width, width, 3, stride=stride, padding=1, groups=_CARDINALITY, bias=bias)
        self.bn2 = nn.BatchNorm3d(width)
        self.conv3 = nn.Conv3d(width, num_out, 1, bias=bias)
        self.bn3 = nn.BatchNorm3d(num_out)
        self.relu = _activation(classic)
        self.downsample: nn.Module | None = None
        if stride > 1 or num_in != num_out:
            self.downsample = nn.Sequential(
                nn.Conv3d(num_in, num_out, 1, stride=stride, bias=bias), nn.BatchNorm3d(num_out)
            )

    def forward(self, hidden: Tensor) -> Tensor:
        shortcut = hidden if self.downsample is None else self.downsample(hidden)
        hidden = self.relu(self.bn1(self.conv1(hidden)))
        hidden = self.relu(self.bn2(self.conv2(hidden)))
        return self.relu(self.bn3(self.conv3(hidden)) + shortcut)


def _activation(classic: bool) -> nn.Module:
    return nn.ReLU(inplace=True) if classic else nn.LeakyReLU(0.01, inplace=True)


@register_model
def resnext101_3d(
    heads: Heads,
    inputs: Inputs,
    *,
    classic: bool = False,
    divisor: int = 1,
    head_hidden: tuple[int, ...] = (),
    head_dropout: float | None = None,
    dropout: float = 0.0,
) -> nn.Module:
    """3D ResNeXt-101: residual blocks of grouped convolutions of three dimensions.

    Args:
        heads: Task -> class names.
        inputs: Stream -> shape.
        classic: The paper's network, without biases in convolutions and with plain ReLU; else the Kinetics project's.
        divisor: Every layer is this many times narrower: 1, 2 or 4.
        head_hidden: Units of hidden layers in each task's classifier.
        head_dropout: Behind these; null: `dropout`.
        dropout: Before the classifier.

    Raises:
        ConfigError: The layers cannot be cut so.
    """
    if divisor not in (1, 2, 4):
        raise ConfigError(f"model.divisor: has to be 1, 2 or 4, got {divisor}")
    body = ResNeXt3D(classic=classic, divisor=divisor)
    clips = ClipBackbone(body, body.num_features, name="resnext101_3d", classifier="fc")
    return ClipModel(
        clips, MeanMaps(clips.num_features), heads, dropout=dropout, hidden=head_hidden, hidden_dropout=head_dropout
    )
