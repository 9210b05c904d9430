"""Grad-CAM: the plain computation, and evidence in a known place at a known moment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from tests.videos import numbered_frames, write_video
from torch import Tensor, nn

from kinema.data.device import to_model_input
from kinema.data.one_clip import open_clip
from kinema.data.reading import read_clip
from kinema.explain.clips import Shown, read_shown
from kinema.explain.layers import called_layers, find_layer, places
from kinema.explain.saliency import saliency, upsample
from kinema.models.build import build_model
from kinema.models.layers.backbone import FrameBackbone
from kinema.types import ConfigError, Inputs, InputShape, Preprocessing

HEADS = {"action": ("none", "red", "blue")}
T, SIZE = 8, 32


def shown_of(clip: Tensor, stream: str = "rgb") -> Shown:
    frames = (clip[0].clamp(0, 1) * 255).byte()
    return Shown(
        inputs={stream: clip},
        frames={stream: frames},
        times_s={stream: tuple(i / 4 for i in range(clip.shape[1]))},
        duration_s=clip.shape[1] / 4,
    )


class Colours(nn.Module):
    """A class for each colour: its amount in the frame where there is most of it, or in the whole clip."""

    def __init__(self, *, three: bool) -> None:
        super().__init__()
        self.three = three
        self.find: nn.Module = nn.Conv3d(3, 3, 1, bias=False) if three else nn.Conv2d(3, 3, 1, bias=False)
        weight = torch.tensor([[0.0, 1.0, 0.0], [1.0, -0.5, -0.5], [-0.5, -0.5, 1.0]])
        self.find.weight = nn.Parameter(weight.view(3, 3, *[1] * (3 if three else 2)))
        self.coarser: nn.Module = nn.Conv3d(3, 3, 4, stride=4, groups=3, bias=False) if three else nn.Identity()
        if three:
            nn.init.constant_(self.coarser.weight, 1.0)  # type: ignore[arg-type]

    def forward(self, streams: Mapping[str, Tensor]) -> dict[str, Tensor]:
        frames = streams["rgb"]
        if self.three:
            return {"action": self.coarser(self.find(frames.transpose(1, 2)).relu()).amax(dim=(2, 3, 4))}
        found = self.find(frames.flatten(0, 1)).relu().mean(dim=(2, 3))
        return {"action": found.unflatten(0, frames.shape[:2]).amax(dim=1)}


def coloured_clip(moment: int, row: int, column: int) -> Tensor:
    """Grey noise, but for a red square at one moment, and a blue one elsewhere at another."""
    clip = 0.3 + 0.02 * torch.rand(1, T, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    clip[0, moment, 0, row : row + 8, column : column + 8] = 1.0
    clip[0, (moment + 4) % T, 2, SIZE - 8 - row : SIZE - row, 0:8] = 0.9
    return clip


@pytest.mark.parametrize("three", [False, True])
@pytest.mark.parametrize(("moment", "row", "column"), [(2, 4, 20), (5, 20, 8)])
def test_the_peak_is_where_and_when_the_evidence_is(three: bool, moment: int, row: int, column: int) -> None:
    clip = coloured_clip(moment, row, column)
    found = saliency(Colours(three=three).eval(), shown_of(clip), HEADS, label="red", layer="find", check=True)
    assert found.heat.shape == (T, SIZE, SIZE)
    t, y, x = (int(i) for i in torch.unravel_index(found.heat.argmax(), found.heat.shape))
    assert t == moment
    assert row <= y < row + 8
    assert column <= x < column + 8
    assert found.moments is not None
    assert found.moments.index(max(found.moments)) == moment
    assert sum(found.moments) == pytest.approx(1)
    assert float(found.heat.max()) == pytest.approx(1)
    assert found.check is not None
    assert found.check.without_marked < found.check.without_random


def test_another_class_another_place() -> None:
    clip = coloured_clip(2, 4, 20)
    found = saliency(Colours(three=False).eval(), shown_of(clip), HEADS, label="blue", layer="find", check=False)
    t, y, x = (int(i) for i in torch.unravel_index(found.heat.argmax(), found.heat.shape))
    assert (t, y // 8, x // 8) == (6, 2, 0)
    assert found.label == "blue"
    assert found.check is None


@pytest.mark.parametrize(
    ("name", "arguments", "layer"),
    [
        ("cnn_transformer", {"backbone": "tiny", "width": None, "num_layers": 1}, "backbone.body.convolutions"),
        ("cnn_lstm", {"backbone": "tiny", "hidden_size": 16}, "backbone.body.convolutions.2"),
        ("cnn_perceiver", {"backbone": "tiny", "size": 32, "num_queries": T}, "backbone.body.convolutions"),
        ("tsm", {"backbone": "resnet18"}, "backbone.body.layer3"),
        ("r2plus1d_18", {"num_blocks": 2, "pool": "perceiver", "num_queries": T}, "backbone.body.layer1"),
        ("c3d", {"num_hidden": 16}, "backbone.body.conv4a"),
        ("frame_average", {"backbone": "timm/vit_tiny_patch16_224"}, "backbone.body.blocks.10"),
    ],
)  # fmt: skip
def test_as_computed_plainly(name: str, arguments: dict[str, object], layer: str) -> None:
    torch.manual_seed(1)
    size = 224 if "vit" in str(arguments) else SIZE
    inputs: Inputs = {"rgb": InputShape(num_frames=T, channels=3, height_px=size, width_px=size)}
    model = build_model(name, arguments, heads={"verb": ("a", "b"), "noun": ("c", "d", "e")}, inputs=inputs)
    clip = torch.randn(1, T, 3, size, size)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    found = saliency(model.train(), shown_of(clip), {"verb": ("a", "b"), "noun": ("c", "d", "e")}, task="noun",
                     label="d", layer=layer, check=False)  # fmt: skip
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())

    model.eval()
    kept: list[Tensor] = []

    def keep(module: nn.Module, given: object, answer: Tensor) -> Tensor:
        kept.append(answer)
        return answer.clone()  # what comes next may change it in place

    handle = model.get_submodule(layer).register_forward_hook(keep)
    logit = model({"rgb": clip})["noun"][0, 1]
    handle.remove()
    activation = kept[0]
    (gradient,) = torch.autograd.grad(logit, activation)
    if activation.ndim == 5:
        _, d, t, h, w = activation.shape
        expected = torch.zeros(t, h, w)
        for channel in range(d):
            expected += gradient[0, channel].mean() * activation[0, channel]
    else:
        if activation.ndim == 3:  # tokens behind a class token
            side = int((activation.shape[1] - 1) ** 0.5)
            activation = activation[:, 1:].transpose(1, 2).reshape(T, -1, side, side)
            gradient = gradient[:, 1:].transpose(1, 2).reshape(T, -1, side, side)
        expected = torch.stack(
            [sum(g[c].mean() * a[c] for c in range(len(a))) for a, g in zip(activation, gradient, strict=True)]
        )
    expected = expected.clamp(min=0).detach()
    torch.testing.assert_close(found.coarse, expected, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(found.heat, upsample(expected, (T, size, size)), rtol=1e-4, atol=1e-5)
    assert found.logit == pytest.approx(float(logit.detach()), rel=1e-4)


def test_a_frozen_backbone_is_seen_through() -> None:
    torch.manual_seed(0)
    inputs: Inputs = {"rgb": InputShape(num_frames=T, channels=3, height_px=SIZE, width_px=SIZE)}
    model = build_model("frame_average", {"backbone": "tiny"}, heads=HEADS, inputs=inputs).eval()
    shown = shown_of(torch.randn(1, T, 3, SIZE, SIZE))
    before = saliency(model, shown, HEADS, label="red")
    (backbone,) = (part for part in model.modules() if isinstance(part, FrameBackbone))
    backbone.freeze()
    after = saliency(model, shown, HEADS, label="red")
    assert backbone.frozen
    assert before.layer == after.layer == "backbone.body.convolutions"
    torch.testing.assert_close(before.coarse, after.coarse)


@pytest.mark.parametrize("architecture", ["videomae", "timesformer", "vivit"])
def test_tokens_of_video_transformers_lie_where_their_patches_are(architecture: str) -> None:
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    inputs: Inputs = {"rgb": InputShape(num_frames=4, channels=3, height_px=32, width_px=32)}
    sizes = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "patch_size": 8}
    model = build_model("video_transformer", {"architecture": architecture, **sizes}, heads=HEADS, inputs=inputs).eval()
    clip, other = torch.zeros(1, 4, 3, 32, 32), torch.zeros(1, 4, 3, 32, 32)
    other[0, 3, :, 8:16, 24:32] = 3.0
    layers = called_layers(model, lambda: model({"rgb": clip}))
    first = next(one for one in layers if one.kind.endswith("Embeddings") and "patch" not in one.name.lower())
    where = places(first, layers, num_frames=4)
    assert where is not None
    kept: list[Tensor] = []
    first.module.register_forward_hook(lambda module, given, answer: kept.append(answer))
    with torch.no_grad():
        model({"rgb": clip})
        model({"rgb": other})
    changed = where.arrange((kept[1] - kept[0]).abs()).sum(dim=0)
    t, h, w = (int(i) for i in torch.unravel_index(changed.argmax(), changed.shape))
    assert int((changed > 1e-6).sum()) == 1
    assert (t, h, w) == (len(changed) - 1, 1, 3)
    found = saliency(model, shown_of(torch.randn(1, 4, 3, 32, 32)), HEADS)
    assert found.coarse.shape == tuple(where.shape[1:])


def test_it_sees_what_evaluation_sees(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", numbered_frames(20), fps=10)
    own = Preprocessing(
        num_frames=4, size_px=32, resize_px=40, fit="crop", pixels="i420", mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)
    )
    shown = read_shown(video, {"rgb": own}, start_s=0.5, stop_s=1.5)
    clip, found = open_clip(video, start_s=0.5, stop_s=1.5)
    expected = to_model_input({"rgb": read_clip(clip, found, own)[None]}, {"rgb": own})["rgb"]
    torch.testing.assert_close(shown.inputs["rgb"], expected, rtol=0, atol=0)
    assert shown.frames["rgb"].shape == (4, 3, 32, 32)
    assert shown.times_s["rgb"] == pytest.approx((0.6, 0.8, 1.1, 1.3), abs=0.051)
    assert shown.duration_s == pytest.approx(1.0)


def test_names_of_layers() -> None:
    names = ["backbone.body.features.0", "backbone.body.features.1", "temporal.blocks.0", "other.blocks.0"]
    assert find_layer("features.1", names) == "backbone.body.features.1"
    assert find_layer("temporal.blocks.0", names) == "temporal.blocks.0"
    with pytest.raises(ConfigError, match=r"may be temporal\.blocks\.0, other\.blocks\.0; give the whole name"):
        find_layer("blocks.0", names)
    with pytest.raises(ConfigError, match=r"no layer 'feature.1'; did you mean 'backbone.body.features.1'\?"):
        find_layer("feature.1", names)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"task": "verb"}, "--task: no task 'verb'"),
        ({"label": "rad"}, "--class: action has no class 'rad'; did you mean 'red'"),
        ({"layer": "fnd"}, "--layer: no layer 'fnd'; did you mean 'find'"),
    ],
)
def test_what_there_is_not(arguments: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace("?", r"\?")):
        saliency(Colours(three=False), shown_of(coloured_clip(2, 4, 20)), HEADS, **arguments)  # type: ignore[arg-type]
