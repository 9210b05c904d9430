"""Networks on clips answer as an independent implementation with the same weights does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights

from kinema.models.build import build_model, initialise
from kinema.models.configurations import Configuration, build_without_memory, configurations, measure
from kinema.models.resnext101_3d import ResNeXt3D
from kinema.sections import InitSection
from kinema.types import ConfigError, Inputs, InputShape

HEADS = {"action": tuple(str(number) for number in range(5))}


def shape(num_frames: int, size_px: int) -> Inputs:
    return {"rgb": InputShape(num_frames=num_frames, channels=3, height_px=size_px, width_px=size_px)}


def build(name: str, *, num_frames: int = 4, size_px: int = 32, **arguments: Any) -> Any:
    torch.manual_seed(0)
    return build_model(name, arguments, heads=HEADS, inputs=shape(num_frames, size_px))


def clips(num_frames: int, size_px: int, *, num: int = 1) -> Tensor:
    return torch.randn(num, num_frames, 3, size_px, size_px, generator=torch.Generator().manual_seed(3))


def alive(module: nn.Module) -> nn.Module:
    """Running statistics and norms that are not what they are at first."""
    torch.manual_seed(5)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.ndim == 1 and tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + (0.5 if "bias" not in name and "mean" not in name else -0.5))
    return module.eval()


TORCHVISION: list[tuple[str, dict[str, Any], str, str, int, int]] = [
    ("r2plus1d_18", {}, "r2plus1d_18", "fc", 4, 32),
    ("r3d_18", {}, "r3d_18", "fc", 3, 48),
    ("mc3_18", {}, "mc3_18", "fc", 4, 32),
    ("s3d", {}, "s3d", "classifier.1", 16, 224),
    ("s3d", {}, "s3d", "classifier.1", 24, 224),
    ("mvit", {"variant": "v1_b"}, "mvit_v1_b", "head.1", 16, 224),
    ("mvit", {"variant": "v2_s"}, "mvit_v2_s", "head.1", 16, 224),
    ("swin3d", {"variant": "t"}, "swin3d_t", "head", 4, 32),
    ("swin3d", {"variant": "s"}, "swin3d_s", "head", 4, 32),
    ("swin3d", {"variant": "b"}, "swin3d_b", "head", 4, 32),
]
SAMPLE = 3
"""Of the above, in the fast suite."""
SLOW = [row if i < SAMPLE else pytest.param(*row, marks=pytest.mark.slow) for i, row in enumerate(TORCHVISION)]


@pytest.mark.parametrize(("name", "arguments", "reference", "classifier", "num_frames", "size_px"), SLOW)
def test_answers_are_those_of_torchvision(
    name: str, arguments: dict[str, Any], reference: str, classifier: str, num_frames: int, size_px: int
) -> None:
    network: Any = alive(get_model(reference, weights=None, num_classes=5))
    model = build(name, num_frames=num_frames, size_px=size_px, **arguments).eval()
    missing, unexpected = model.backbone.body.load_state_dict(network.state_dict(), strict=False)
    assert not missing
    assert {key.rpartition(".")[0] for key in unexpected} == {classifier}
    with torch.no_grad():
        for key, parameter in zip(("weight", "bias"), model.heads.linear["task_action"].parameters(), strict=True):
            parameter.copy_(network.state_dict()[f"{classifier}.{key}"].reshape(parameter.shape))
        batch = clips(num_frames, size_px)
        expected = network(batch.transpose(1, 2))
        found = model({"rgb": batch})["action"]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", sorted({row[2] for row in TORCHVISION}))
def test_figures_are_those_of_torchvision(name: str) -> None:
    said = get_model_weights(name).DEFAULT.meta
    (model, chosen) = next(
        (model, one) for model, some in configurations().items() for one in some if is_published(model, one, name)
    )
    found = measure(model, replace(chosen, num_frames=16))
    assert found.total == said["num_params"]
    assert found.gflops == pytest.approx(said["_ops"], rel=2e-3)


def is_published(model: str, chosen: Configuration, name: str) -> bool:
    variant = chosen.arguments.get("variant")
    return f"{model}_{variant}" == name if variant else (model, chosen.name) == (name, "default")


@pytest.mark.parametrize("variant", ["v1_b", "v2_s"])
def test_mvit_has_the_layers_of_torchvision(variant: str) -> None:
    """In the fast suite; that it answers the same is in the slow one."""
    with torch.device("meta"):
        expected = get_model(f"mvit_{variant}", weights=None)
        found: Any = build_without_memory("mvit", mvit_configuration(variant)).backbone
    said = {key: value.shape for key, value in expected.state_dict().items() if not key.startswith("head.")}
    assert {key: value.shape for key, value in found.body.state_dict().items()} == said
    for one, other in zip(expected.blocks, found.body.blocks, strict=True):
        assert repr(one) == repr(other)


def mvit_configuration(variant: str) -> Configuration:
    return next(one for one in configurations()["mvit"] if one.arguments["variant"] == variant)


def plain_c3d(body: Any, clips: Tensor, *, padded: bool) -> Tensor:
    """One convolution per place of its kernel, and maxima of slices."""
    hidden = clips
    for name, pool in zip(
        ["conv1a", "conv2a", "conv3a", "conv3b", "conv4a", "conv4b", "conv5a", "conv5b"],
        [1, 2, 0, 2, 0, 2, 0, 2],
        strict=True,
    ):
        layer = getattr(body, name)
        hidden = plain_convolution(hidden, layer.weight, layer.bias).clamp_min(0)
        if pool and name == "conv5b" and padded:
            hidden = nn.functional.pad(hidden, (1, 1, 1, 1), value=-torch.inf)
        if pool:
            t = min(pool, hidden.shape[2])
            sizes = [size // window * window for size, window in zip(hidden.shape[2:], (t, 2, 2), strict=True)]
            hidden = hidden[:, :, : sizes[0], : sizes[1], : sizes[2]]
            corners = [hidden[:, :, a::t, b::2, c::2] for a in range(t) for b in range(2) for c in range(2)]
            hidden = torch.stack(corners).amax(dim=0)
    for layer in (body.fc6, body.fc7):
        hidden = (hidden.reshape(len(hidden), -1) @ layer.weight.T + layer.bias).clamp_min(0)
    return hidden


def plain_convolution(
    clips: Tensor, weight: Tensor, bias: Tensor | None, *, groups: int = 1, stride: int = 1
) -> Tensor:
    """A convolution of odd size with padding, as a sum over the places of its kernel."""
    pads = [size // 2 for size in weight.shape[2:]]
    padded = nn.functional.pad(clips, [pad for size in reversed(pads) for pad in (size, size)])
    parts = padded.chunk(groups, dim=1)
    answers = []
    for part, filters in zip(parts, weight.chunk(groups, dim=0), strict=True):
        total = torch.zeros(())
        for a in range(weight.shape[2]):
            for b in range(weight.shape[3]):
                for c in range(weight.shape[4]):
                    last = [n - 2 * p for n, p in zip(part.shape[2:], pads, strict=True)]
                    window = part[:, :, a : a + last[0], b : b + last[1], c : c + last[2]]
                    total = total + torch.einsum("bcthw,oc->bothw", window, filters[:, :, a, b, c])
        answers.append(total)
    answer = torch.cat(answers, dim=1)[:, :, ::stride, ::stride, ::stride]
    return answer if bias is None else answer + bias[:, None, None, None]


@pytest.mark.parametrize(("num_frames", "size_px", "padded"), [(16, 32, False), (2, 48, False), (16, 48, True)])
def test_c3d_is_the_slow_one(num_frames: int, size_px: int, padded: bool) -> None:
    model = build("c3d", num_frames=num_frames, size_px=size_px, num_hidden=16, padded=padded).eval()
    batch = clips(num_frames, size_px).transpose(1, 2)
    with torch.no_grad():
        found, expected = model.backbone(batch), plain_c3d(model.backbone.body, batch, padded=padded)
    assert found.abs().max() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def plain_norm(layer: Any, values: Tensor) -> Tensor:
    scale, shift, mean, var = (
        tensor[:, None, None, None] for tensor in (layer.weight, layer.bias, layer.running_mean, layer.running_var)
    )
    return (values - mean) / torch.sqrt(var + layer.eps) * scale + shift


def plain_resnext(body: Any, clips: Tensor, *, slope: float) -> Tensor:
    def active(values: Tensor) -> Tensor:
        return torch.where(values > 0, values, slope * values)

    def through(convolution: Any, norm: Any, values: Tensor, *, stride: int = 1) -> Tensor:
        answer = plain_convolution(
            values, convolution.weight, convolution.bias, groups=convolution.groups, stride=stride
        )
        return plain_norm(norm, answer)

    stem = plain_convolution(clips, body.conv1.weight, body.conv1.bias)[:, :, :, ::2, ::2]
    hidden = active(plain_norm(body.bn1, stem))
    hidden = nn.functional.max_pool3d(hidden, 3, stride=2, padding=1)
    for number in range(1, 5):
        for index, block in enumerate(getattr(body, f"layer{number}")):
            stride = 2 if number > 1 and index == 0 else 1
            inner = active(through(block.conv1, block.bn1, hidden))
            inner = active(through(block.conv2, block.bn2, inner, stride=stride))
            inner = through(block.conv3, block.bn3, inner)
            if index == 0:
                hidden = through(block.downsample[0], block.downsample[1], hidden, stride=stride)
            hidden = active(hidden + inner)
    return hidden


@pytest.mark.parametrize(("classic", "slope"), [(False, 0.01), (True, 0.0)])
def test_resnext_is_the_slow_one(classic: bool, slope: float) -> None:
    body = alive(ResNeXt3D(classic=classic, divisor=4, blocks=(1, 2, 1, 1)))
    batch = clips(4, 32).transpose(1, 2)
    with torch.no_grad():
        found, expected = body(batch), plain_resnext(body, batch, slope=slope)
    assert found.abs().max() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("num_blocks", [0, 9])
def test_a_block_that_is_not_there_is_refused(num_blocks: int) -> None:
    with pytest.raises(ConfigError, match=r"^model\.num_blocks: has to be from 1 to 8"):
        build("r2plus1d_18", num_blocks=num_blocks)


@pytest.mark.parametrize("num_blocks", [2, 3, 4, 5, 6, 7, 8])
def test_bert_has_a_position_for_every_moment(num_blocks: int) -> None:
    for num_frames in (1, 5, 8):
        with torch.device("meta"):
            from kinema.models.r2plus1d_18 import r2plus1d_18

            model: Any = r2plus1d_18(HEADS, shape(num_frames, 32), num_blocks=num_blocks, pool="bert")
            maps = model.backbone(torch.empty(1, 3, num_frames, 32, 32))
        assert model.pool.temporal.positions.shape[1] == maps.shape[2] + 1


def test_published_weights_of_a_clip_network(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    state = get_model("mc3_18", weights=None).state_dict()
    torch.save(state, folder / str(get_model_weights("mc3_18").DEFAULT.url).rpartition("/")[2])
    model = build("mc3_18")
    done = initialise(model, InitSection(weights="published"))
    assert all(torch.equal(value, state[key]) for key, value in model.backbone.body.state_dict().items())
    assert done.mean == (0.43216, 0.394666, 0.37645)
