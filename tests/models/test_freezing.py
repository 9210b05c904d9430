"""Frozen parts keep their weights and their statistics; what is frozen is said."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models.facts import MEAN, STD
from torch import nn
from torchvision.models import get_model, get_model_weights

from kinema.models.build import build_model, initialise
from kinema.models.freezing import blocks, freeze, stages
from kinema.models.layers.backbone import FrameBackbone
from kinema.models.layers.video_resnet import video_resnet
from kinema.sections import InitSection
from kinema.types import ConfigError, DataError, InputShape, UserError

HEADS = {"action": ("open", "close", "push")}
INPUTS = {"rgb": InputShape(num_frames=2, channels=3, height_px=32, width_px=32)}


def build(name: str = "cnn_lstm", **arguments: Any) -> Any:
    return build_model(name, arguments, heads=HEADS, inputs=INPUTS)


def frozen(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if not parameter.requires_grad)


def on_meta(name: str) -> Any:
    with torch.device("meta"):
        return FrameBackbone(name)


def test_two_stages_of_resnet50_are_as_many_parameters_as_project_e_froze() -> None:
    model = nn.ModuleDict({"backbone": on_meta("resnet50")})
    said = freeze(model, 2)
    assert frozen(model) == 1_444_928
    assert said == "conv1, bn1, layer1, layer2 of resnet50 frozen (1,444,928 parameters)"


@pytest.mark.parametrize(
    ("name", "first", "num_stages", "last", "num_blocks"),
    [
        ("resnet18", ["conv1", "bn1", "layer1"], 4, ["layer4.1"], 8),
        ("mobilenet_v2", ["features.0", "features.1"], 18, ["features.18"], 19),
        ("efficientnet_b0", ["features.0", "features.1"], 8, ["features.8"], 18),
        ("timm/resnet18", ["conv1", "bn1", "layer1"], 4, ["layer4.1"], 8),
        ("timm/efficientnet_b0", ["conv_stem", "bn1", "blocks.0"], 7, ["blocks.6.0", "conv_head", "bn2"], 16),
        ("timm/vit_tiny_patch16_224", ["patch_embed", "blocks.0"], 12, ["blocks.11", "norm"], 12),
        (
            "vit_b_16",
            ["conv_proj", "encoder.layers.encoder_layer_0"],
            12,
            ["encoder.layers.encoder_layer_11", "encoder.ln"],
            12,
        ),
    ],
)
def test_stages_and_blocks(name: str, first: list[str], num_stages: int, last: list[str], num_blocks: int) -> None:
    body = on_meta(name).body
    found = stages(body), blocks(body)
    assert [member for member, _ in found[0][0]] == first
    assert len(found[0]) == num_stages
    assert len(found[1]) == num_blocks
    assert [member for member, _ in found[1][-1]] == last
    for groups in found:
        modules = [module for group in groups for _, module in group]
        held = {id(parameter) for module in modules for parameter in module.parameters()}
        held |= {id(parameter) for parameter in body.parameters(recurse=False)}
        left = [n for n, p in body.named_parameters() if id(p) not in held]
        assert left in ([], ["encoder.pos_embedding"])


def test_stages_and_blocks_of_a_clip_network() -> None:
    with torch.device("meta"):
        body = video_resnet("r2plus1d_18").body
    assert [[name for name, _ in group] for group in stages(body)] == [
        ["stem", "layer1"],
        ["layer2"],
        ["layer3"],
        ["layer4"],
    ]
    assert [name for name, _ in blocks(body)[-1]] == ["layer4.1"]
    assert len(blocks(body)) == 8


@pytest.mark.parametrize(
    ("name", "starts"),
    [
        ("tiny", [f"convolutions.{n}" for n in range(4)]),
        ("basic_cnn", [f"convolutions.{n}" for n in (0, 3, 6, 9)]),
        ("flat_cnn", [f"convolutions.{n}" for n in (0, 3, 6)]),
        ("vgg16", [f"features.{n}" for n in (0, 5, 10, 17, 24)]),
        ("vgg11_bn", [f"features.{n}" for n in (0, 4, 8, 15, 22)]),
        ("alexnet", [f"features.{n}" for n in (0, 3, 6)]),
        ("convnext_tiny", [f"features.{n}" for n in (0, 2, 4, 6)]),
        ("timm/convnext_tiny", ["stem", *(f"stages.{n}" for n in (1, 2, 3))]),
        ("mobilenet_v3_small", ["features.0", *(f"features.{n}" for n in range(2, 13))]),
        ("swin_t", [f"features.{n}" for n in (0, 2, 4, 6)]),
        ("densenet121", ["features.conv0", *(f"features.transition{n}" for n in (1, 2, 3))]),
        ("shufflenet_v2_x1_0", ["conv1", "stage3", "stage4"]),
        ("timm/regnety_002", ["stem", "s2", "s3", "s4"]),
        ("timm/resnet26d", ["conv1", "layer2", "layer3", "layer4"]),
        ("timm/xcit_nano_12_p16_224", ["patch_embed", *(f"blocks.{n}" for n in range(1, 12))]),
        (
            "googlenet",
            [
                "conv1",
                "conv2",
                "conv3",
                *(f"inception{n}" for n in ["3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b"]),
            ],
        ),
        (
            "inception_v3",
            [f"Conv2d_{n}" for n in ["1a_3x3", "2a_3x3", "2b_3x3", "3b_1x1", "4a_3x3"]]
            + [f"Mixed_{n}" for n in ["5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"]],
        ),
    ],
)
def test_where_stages_start(name: str, starts: list[str]) -> None:
    body = on_meta(name).body
    found = stages(body)
    assert [group[0][0] for group in found] == starts
    held = [id(parameter) for group in found for _, module in group for parameter in module.parameters()]
    outside = {id(parameter) for parameter in body.parameters(recurse=False)}
    assert len(held) == len(set(held))
    assert {id(parameter) for parameter in body.parameters()} - set(held) <= outside


@pytest.mark.parametrize(
    ("model", "starts"),
    [
        ("c3d", ["conv1a", "conv2a", "conv3a", "conv3b", "conv4a", "conv4b", "conv5a", "conv5b", "fc6", "fc7"]),
        ("conv3d", [f"features.{n}" for n in (0, 3, 6, 9)]),
    ],
)
def test_where_stages_of_networks_on_clips_start(model: str, starts: list[str]) -> None:
    inputs = {"rgb": InputShape(num_frames=16, channels=3, height_px=112, width_px=112)}
    with torch.device("meta"):
        built = build_model(model, {}, heads=HEADS, inputs=inputs)
    assert [group[0][0] for group in stages(built.get_submodule("backbone.body"))] == starts


def test_branches_are_no_blocks() -> None:
    assert [name for name, _ in blocks(on_meta("googlenet").body)[-1]] == ["inception5b"]


@pytest.mark.parametrize("settings", [{"how": 2}, {"how": "none", "train_last": 3}, {"how": "all"}])
def test_frozen_parts_stay_as_they_are(settings: dict[str, Any]) -> None:
    model = build(backbone="resnet18")
    said = freeze(model, **settings)
    assert said
    copied = copy.deepcopy(model)
    sent = pickle.loads(pickle.dumps(model))
    for one in (model, copied, sent):
        one.eval()
        one.train()
        before = {name: value.clone() for name, value in one.state_dict().items()}
        trained = {name for name, parameter in one.named_parameters() if parameter.requires_grad}
        assert trained
        optimiser = torch.optim.SGD([p for p in one.parameters() if p.requires_grad], lr=0.1)
        one({"rgb": torch.randn(3, 2, 3, 32, 32)})["action"].square().sum().backward()
        optimiser.step()
        owners = {name.rpartition(".")[0] for name in trained}
        changed = {name for name, value in one.state_dict().items() if not torch.equal(value, before[name])}
        assert {name.rpartition(".")[0] for name in changed} <= owners
        assert {name for name in changed if name in trained} == trained
        assert any("running_mean" in name for name in changed) == (settings["how"] != "all")


def test_all_but_the_heads() -> None:
    model = build(backbone="tiny")
    assert freeze(model, "all") == "all but the heads frozen"
    assert {name.partition(".")[0] for name, p in model.named_parameters() if p.requires_grad} == {"heads"}
    assert model.backbone.frozen


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"how": 4}, "init.freeze: resnet18 has 4 stages, got 4; use backbone for all of them"),
        ({"how": 9}, "init.freeze: resnet18 has 4 stages, got 9; use backbone for all of them"),
        ({"how": "none", "train_last": 8}, "init.train_last: resnet18 has 8 blocks, got 8; leave it out to train them"),
    ],
)
def test_more_than_there_is_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        freeze(build(backbone="resnet18"), **settings)
    assert str(caught.value).startswith(message)


def test_a_frozen_stage_needs_its_weights_and_a_trained_one_does_not(tmp_path: Path) -> None:
    whole = dict(get_model("resnet18", weights=None).state_dict())
    for lacking, refused in (("layer1.0", True), ("layer4.0", False)):
        path = tmp_path / f"{lacking}.pt"
        torch.save({name: value for name, value in whole.items() if not name.startswith(lacking)}, path)
        init = InitSection(weights=str(path), mean=MEAN, std=STD, freeze=2)
        if refused:
            with pytest.raises(DataError, match=r"10 tensors of the backbone are not in it: backbone\.body\.layer1"):
                initialise(build(backbone="resnet18"), init)
        else:
            done = initialise(build(backbone="resnet18"), init)
            assert done.summary.endswith("conv1, bn1, layer1, layer2 of resnet18 frozen (683,072 parameters)")


def test_an_attention_that_is_in_no_file_cannot_be_frozen(tmp_path: Path) -> None:
    path = tmp_path / "resnet18.pt"
    torch.save(get_model("resnet18", weights=None).state_dict(), path)
    with pytest.raises(DataError, match=r"4 frozen tensors are not in it: temporal\.layers"):
        initialise(build(backbone="resnet18"), InitSection(weights=str(path), mean=MEAN, std=STD, freeze="all"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"freeze": 2}, "freeze: 2 needs init.weights"),
        ({"train_last": 2}, "train_last needs init.weights"),
        ({"freeze": 1, "train_last": 2, "weights": "published"}, "freeze and train_last exclude each other"),
        ({"inflate": True}, "inflate needs init.weights"),
        ({"freeze": 0, "weights": "published"}, "freeze"),
        ({"freeze": True, "weights": "published"}, "freeze"),
        ({"freeze": "some", "weights": "published"}, "freeze"),
        ({"freeze": (), "weights": "published"}, "freeze"),
        ({"freeze": ("tiny",)}, "freeze: tiny needs init.weights"),
        ({"weights": {}}, "weights: {} names no backbone"),
    ],
)
def test_settings_that_make_no_sense(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InitSection(**values)


def test_an_image_network_is_inflated(tmp_path: Path) -> None:
    flat: Any = get_model("resnet18", weights=None)
    path = tmp_path / "resnet18.pt"
    torch.save(flat.state_dict(), path)
    init = {"weights": str(path), "mean": MEAN, "std": STD}
    model = build("r3d_18")
    done = initialise(model, InitSection(**init, inflate=True))
    assert done.summary.startswith("120 of the backbone's 120 tensors from ")
    assert "20 of them inflated (2 not used" in done.summary
    stem = model.backbone.body.stem[0].weight
    assert torch.equal(stem[:, :, 1], flat.conv1.weight / 3)
    block = model.backbone.body.layer2[0].conv2[0].weight
    torch.testing.assert_close(block.sum(dim=2), flat.layer2[0].conv2.weight)
    assert torch.equal(model.backbone.body.layer3[1].conv1[1].weight, flat.layer3[1].bn1.weight)


def test_without_inflation_what_would_help_is_said(tmp_path: Path) -> None:
    path = tmp_path / "convolution.pt"
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, path)
    with pytest.raises(
        DataError, match=r"none of its 1 tensors fits .*; init\.inflate=true repeats an image network's over time"
    ):
        initialise(build("r3d_18"), InitSection(weights=str(path), mean=MEAN, std=STD))


def r2plus1d() -> dict[str, torch.Tensor]:
    network = get_model("r2plus1d_18", weights=None)
    return {name: value for name, value in network.state_dict().items() if not name.startswith("fc.")}


def counted(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As behind `nn.Sequential(*network.children())`."""
    children = ["stem", "layer1", "layer2", "layer3", "layer4"]
    split = {name: name.partition(".") for name in state}
    return {f"{children.index(first)}.{rest}": state[name] for name, (first, _, rest) in split.items()}


def beside(state: dict[str, torch.Tensor], prefix: str, **others: int) -> dict[str, torch.Tensor]:
    """Below a prefix, beside other modules of another shape."""
    return {
        **{f"{name}.weight": torch.zeros(size, 7) for name, size in others.items()},
        **{f"{prefix}{name}": value for name, value in state.items()},
    }


LAYOUTS: dict[str, Any] = {
    "torchvision": lambda state: beside(state, "", fc=400),
    "data parallel": lambda state: {"state_dict": beside(state, "module.", **{"module.fc": 400})},
    "compiled": lambda state: {"model": beside(state, "_orig_mod.", **{"_orig_mod.fc": 400})},
    "lightning, beside a head": lambda state: {"state_dict": beside(state, "model.encoder.", **{"model.head": 51})},
    "a backbone beside a head": lambda state: {"model_state": beside(state, "backbone.", cls_head=51)},
    "children in a row": lambda state: counted(state),
    "children in a row, beside attention": lambda state: {
        "state_dict": beside(counted(state), "model.cnn.", **{"model.cross_attention.to_q": 64, "model.fc": 51})
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_r2plus1d_load_unchanged(layout: str, tmp_path: Path) -> None:
    state = r2plus1d()
    torch.save(LAYOUTS[layout](state), tmp_path / "model.pt")
    model = build("r2plus1d_18", num_blocks=3)
    done = initialise(model, InitSection(weights=str(tmp_path / "model.pt"), mean=MEAN, std=STD, freeze="backbone"))
    body = model.backbone.body.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in body.items())
    assert done.summary.startswith(f"{len(body)} of the backbone's {len(body)} tensors")


def test_an_image_network_in_a_row_of_children_loads(tmp_path: Path) -> None:
    network = get_model("resnet18", weights=None)
    torch.save(nn.Sequential(*list(network.children())[:-1]).state_dict(), tmp_path / "model.pt")
    model = build(backbone="resnet18")
    initialise(model, InitSection(weights=str(tmp_path / "model.pt"), mean=MEAN, std=STD, freeze="backbone"))
    expected = network.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.backbone.body.state_dict().items())


def test_a_little_of_a_part_of_a_file_is_no_match(tmp_path: Path) -> None:
    """A convolution that has a name and a shape by chance."""
    state = {"other.deep.conv1.weight": torch.zeros(64, 3, 7, 7), "other.deep.odd": torch.zeros(2), "x": torch.zeros(1)}
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(DataError, match="none of its 3 tensors fits this model"):
        initialise(build(backbone="resnet18"), InitSection(weights=str(tmp_path / "model.pt"), mean=MEAN, std=STD))


# Several backbones


def side_by_side(*names: str) -> Any:
    return build("joint_ensemble", backbones=names, cnn_channels=(4,), branch_size=8, head_hidden=())


def weights_of(name: str, path: Path) -> dict[str, torch.Tensor]:
    torch.manual_seed(len(name))
    state = dict(FrameBackbone(name).body.state_dict())
    torch.save(state, path)
    return state


def test_each_backbone_has_weights_of_its_own_and_is_frozen_by_name(tmp_path: Path) -> None:
    states = {name: weights_of(name, tmp_path / f"{name}.pt") for name in ("tiny", "wide_cnn")}
    sources = {name: str(tmp_path / f"{name}.pt") for name in states}
    model = side_by_side("tiny", "wide_cnn", "resnet18")
    done = initialise(model, InitSection(weights=sources, mean=MEAN, std=STD, freeze=("tiny", "wide_cnn")))
    for part, state in zip(model.backbones, states.values(), strict=False):
        assert all(torch.equal(value, state[key]) for key, value in part.body.state_dict().items())
    assert [part.frozen for part in model.backbones] == [True, True, False]
    assert frozen(model) == sum(frozen(part) for part in model.backbones[:2]) > 0
    assert all(parameter.requires_grad for parameter in model.backbones[2].parameters())
    assert (done.mean, done.std) == (MEAN, STD)
    assert f"tensors from {sources['tiny']} for tiny; " in done.summary
    assert done.summary.endswith(", tiny, wide_cnn frozen")


def test_published_weights_of_one_backbone_beside_one_from_scratch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = tmp_path / "hub" / "checkpoints" / Path(get_model_weights("resnet18").DEFAULT.url).name
    path.parent.mkdir(parents=True)
    state = get_model("resnet18", weights=None).state_dict()
    torch.save(state, path)
    model = side_by_side("tiny", "resnet18")
    done = initialise(model, InitSection(weights={"resnet18": "published"}, freeze=("resnet18",)))
    assert all(torch.equal(value, state[key]) for key, value in model.backbones[1].body.state_dict().items())
    assert done.mean == model.backbones[1].mean
    assert not caplog.records  # nobody meant weights for the other one
    with pytest.raises(DataError, match=r"tensors of the backbone are not in it|frozen tensors are not in it"):
        initialise(side_by_side("tiny", "resnet18"), InitSection(weights={"resnet18": "published"}, freeze="backbone"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"weights": {"resnet81": "published"}}, "init.weights: this model has no backbone 'resnet81'; did you mean"),
        ({"weights": {"tiny": "published"}}, "init.weights: nothing is published for 'tiny'"),
        ({"weights": {"tiny": "absent.pt"}}, "absent.pt: no such file of weights"),
        ({"weights": {"tiny": "FILE"}, "freeze": ("body",)}, "init.freeze: this model has no backbone 'body'"),
        (
            {"weights": {"resnet18": "published", "vit_b_16": "published"}},
            "init.weights: this model has no backbone 'vit_b_16'",
        ),
    ],
)
def test_a_backbone_that_is_not_there(values: dict[str, Any], message: str, tmp_path: Path) -> None:
    weights_of("tiny", tmp_path / "tiny.pt")
    values["weights"] = {name: str(tmp_path / "tiny.pt") if v == "FILE" else v for name, v in values["weights"].items()}
    pixels = {} if "published" in values["weights"].values() else {"mean": MEAN, "std": STD}  # files do not say
    with pytest.raises(UserError) as caught:
        initialise(side_by_side("tiny", "resnet18"), InitSection(**values, **pixels))
    assert message in str(caught.value)


def test_published_weights_that_expect_different_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    model = side_by_side("tiny", "resnet18")
    model.backbones[0].mean = MEAN
    with pytest.raises(ConfigError, match="the published weights of tiny, resnet18 expect pixels of different"):
        initialise(model, InitSection(weights="published"))
