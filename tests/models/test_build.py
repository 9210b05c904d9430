"""Building a model that fits its clips, and giving it weights."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.models.facts import MEAN, STD, TRAINING
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights

from kinema.models.build import build_model, initialise
from kinema.models.layers.backbone import IMAGENET_MEAN, IMAGENET_STD
from kinema.models.matching import load_matching
from kinema.models.weights import WeightsConfig, save
from kinema.sections import InitSection
from kinema.state_dict import read_state_dict
from kinema.types import ConfigError, DataError, Inputs, InputShape, Preprocessing

HEADS = {"action": ("open", "close", "push")}


@pytest.fixture(autouse=True)
def _hear_our_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line turns this off."""
    monkeypatch.setattr(logging.getLogger("kinema"), "propagate", True)


def inputs(size_px: int = 32) -> Inputs:
    return {"rgb": InputShape(num_frames=2, channels=3, height_px=size_px, width_px=size_px)}


def build(name: str = "frame_average", backbone: str = "tiny", *, size_px: int = 32, **arguments: Any) -> Any:
    return build_model(name, {"backbone": backbone, **arguments}, heads=HEADS, inputs=inputs(size_px))


# Building


@pytest.mark.parametrize(
    ("name", "arguments", "size_px", "reason"),
    [
        ("frame_average", {"backbone": "vit_b_16"}, 64, "Wrong image height! Expected 224 but got 64!"),
        ("frame_average", {"backbone": "inception_v3"}, 64, "Kernel size can't be greater than actual input size"),
        (
            "frame_average",
            {"backbone": "swinv2_tiny_window8_256"},
            224,
            "Input height (224) doesn't match model (256).",
        ),
        ("cnn_lstm", {"sise": 3}, 32, "unexpected keyword argument 'sise'"),
    ],
)
def test_a_model_that_cannot_be_built_is_refused(
    name: str, arguments: dict[str, Any], size_px: int, reason: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        build(name, **arguments, size_px=size_px)
    message = str(caught.value)
    assert message.startswith(f"model.name: {name} cannot be built for clips of 2 frames of {size_px}x{size_px} px: ")
    assert reason in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("frame_average", {"dropout": 2.0}, "model.dropout: has to be at least 0 and less than 1, got 2.0"),
        ("cnn_lstm", {"dropout": -0.1}, "model.dropout: has to be at least 0 and less than 1, got -0.1"),
        ("cnn_lstm", {"hidden_size": 0}, "model.hidden_size: has to be at least 1, got 0"),
        ("cnn_lstm", {"num_layers": 0}, "model.num_layers: has to be at least 1, got 0"),
        ("cnn_bert", {"num_layers": 0}, "model.num_layers: has to be at least 1, got 0"),
        ("cnn_perceiver", {"num_queries": 0}, "model.num_queries: has to be at least 1, got 0"),
        ("cnn_perceiver", {"size": 0}, "model.size: has to be at least 1, got 0"),
        ("cnn_conv1d", {"kernel_size": 2}, "model.kernel_size: has to be odd and at least 1, got 2"),
    ],
)
def test_an_argument_out_of_range_is_named(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(name, **arguments)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel_size": 4}, "model.kernel_size: has to be odd and at least 1, got 4"),
        ({"kernel_size": -1}, "model.kernel_size: has to be odd and at least 1, got -1"),
        ({"channels": 0}, "model.channels: has to be at least 1, got 0"),
        ({"num_blocks": -1}, "model.num_blocks: has to be at least 0, got -1"),
        ({"backbone": "resnet_18"}, "model.backbone: no image network 'resnet_18'; did you mean 'resnet18'?"),
    ],
)
def test_an_impossible_argument_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build("cnn_conv1d", **arguments)
    assert str(caught.value) == message


def test_arguments_of_networks_on_clips_that_are_too_small_are_named() -> None:
    with pytest.raises(ConfigError, match=r"^model\.num_hidden: has to be at least 1, got 0"):
        build_model("c3d", {"num_hidden": 0}, heads=HEADS, inputs=inputs())
    with pytest.raises(ConfigError, match=r"^model\.attention_size: has to be at least 1, got 0"):
        build_model("r2plus1d_18", {"pool": "perceiver", "attention_size": 0}, heads=HEADS, inputs=inputs())


@pytest.mark.parametrize("in_ensemble", [False, True])
def test_a_clip_of_one_frame_without_its_mean_is_refused(in_ensemble: bool) -> None:
    name = "cnn_lstm"
    arguments: dict[str, Any] = {"backbone": "tiny", "feature_norm": "clip"}
    if in_ensemble:
        name, arguments = "ensemble", {"members": [{"name": name, **arguments}, {"name": name, "backbone": "tiny"}]}
    one = {"rgb": InputShape(num_frames=1, channels=3, height_px=32, width_px=32)}
    with pytest.raises(ConfigError, match=r"^model\.feature_norm: clip takes the mean .* raise clips\.num_frames"):
        build_model(name, arguments, heads=HEADS, inputs=one)
    build_model(name, arguments, heads=HEADS, inputs=inputs())


def test_an_unknown_model_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^model\.name: there is no model 'cnn_ltsm'; did you mean 'cnn_lstm'\?"):
        build("cnn_ltsm")


@pytest.mark.parametrize("task", ["two words", "a.b", ""])
def test_a_task_that_cannot_name_a_module_is_refused(task: str) -> None:
    with pytest.raises(ConfigError, match=r"^data\.labels: .* cannot name a task"):
        build_model("frame_average", {"backbone": "tiny"}, heads={task: ("a", "b")}, inputs=inputs())


@pytest.mark.parametrize("task", ["pop", "keys", "forward", "weight", "class"])
def test_a_task_may_be_called_like_a_method(task: str) -> None:
    model = build_model("frame_average", {"backbone": "tiny"}, heads={task: ("a", "b")}, inputs=inputs())
    assert model.eval()({"rgb": torch.zeros(1, 2, 3, 32, 32)})[task].shape == (1, 2)


@pytest.mark.parametrize("backbone", ["regnet_x_400mf", "swin_t", "efficientvit_m0"])
def test_networks_that_compute_while_they_are_built_can_be_built(backbone: str) -> None:
    assert build(backbone=f"timm/{backbone}" if "vit" in backbone else backbone, size_px=224).training


def test_checking_changes_neither_statistics_nor_the_random_numbers_of_weights() -> None:
    torch.manual_seed(3)
    checked = build("cnn_conv1d").state_dict()
    torch.manual_seed(3)
    from kinema.models.cnn_conv1d import cnn_conv1d

    plain = cnn_conv1d(HEADS, inputs(), backbone="tiny").state_dict()
    assert all(torch.equal(checked[key], plain[key]) for key in plain)
    assert checked["backbone.body.project.2.num_batches_tracked"] == 0


# Weights from files


def network(name: str = "resnet18") -> dict[str, Tensor]:
    torch.manual_seed(7)
    return dict(get_model(name, weights=None).state_dict())


def body(model: Any) -> dict[str, Tensor]:
    return dict(model.backbone.body.state_dict())


def write(path: Path, state: dict[str, Tensor], form: str) -> Path:
    if form == "module.":
        state = {f"module.{key}": value for key, value in state.items()}
    if form == "model.encoder.":
        state = {f"model.encoder.{key}": value for key, value in state.items()}
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    elif form in ("state_dict", "model", "module"):
        torch.save({form: state, "epoch": 3}, path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("form", ["plain", "module.", "model.encoder."])
def test_a_torchvision_file_fills_the_backbone(tmp_path: Path, suffix: str, form: str) -> None:
    state = network()
    path = write(tmp_path / f"resnet18{suffix}", state, form)
    model = build(backbone="resnet18")
    done = initialise(model, InitSection(weights=str(path), mean=MEAN, std=STD, freeze="backbone"))
    assert all(torch.equal(value, state[key]) for key, value in body(model).items())
    prefix = "" if form == "plain" else form
    left = f"2 not used: {prefix}fc.weight, {prefix}fc.bias"
    assert done.summary == f"120 of the backbone's 120 tensors from {path} ({left}), backbone frozen"
    assert (done.mean, done.std) == (MEAN, STD)


@pytest.mark.parametrize("form", ["state_dict", "model", "module"])
def test_a_checkpoint_around_the_weights_is_opened(tmp_path: Path, form: str) -> None:
    state = network()
    path = write(tmp_path / "checkpoint.pth", state, form)
    model = build(backbone="resnet18")
    initialise(model, InitSection(weights=str(path)))
    assert all(torch.equal(value, state[key]) for key, value in body(model).items())


def test_without_mean_and_std_what_is_assumed_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "resnet18.pt", network(), "plain")
    done = initialise(build(backbone="resnet18"), InitSection(weights=str(path)))
    assert (done.mean, done.std) == (IMAGENET_MEAN, IMAGENET_STD)
    assert "init.mean and init.std are not given" in caplog.text
    assert "(0.485, 0.456, 0.406)" in caplog.text


@pytest.mark.parametrize(("name", "arguments"), [("r2plus1d_18", {}), ("resnext101_3d", {"divisor": 4})])
def test_an_image_network_that_lies_elsewhere_is_refused(tmp_path: Path, name: str, arguments: dict[str, Any]) -> None:
    """Its norms have the names and sizes of those of the video network, its convolutions have not."""
    path = write(tmp_path / "resnet18.pt", network(), "plain")
    model = build_model(name, arguments, heads=HEADS, inputs=inputs())
    with pytest.raises(
        DataError, match=r"resnet18\.pt: is of another network: it has \d+ of the \d+ weights of backbone"
    ):
        initialise(model, InitSection(weights=str(path), mean=MEAN, std=STD, inflate=True))


def test_a_text_is_no_file_of_weights(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    path.write_text("hi")
    with pytest.raises(
        DataError, match=r"weights\.pt: cannot be read as weights: not a file of tensors, or a part of one$"
    ):
        initialise(build(), InitSection(weights=str(path)))


def test_from_scratch() -> None:
    done = initialise(build(), InitSection())
    assert (done.summary, done.mean, done.std) == ("from scratch", IMAGENET_MEAN, IMAGENET_STD)


def test_published_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    state = network()
    torch.save(state, folder / str(get_model_weights("resnet18").DEFAULT.url).rpartition("/")[2])
    model = build(backbone="resnet18")
    done = initialise(model, InitSection(weights="published"))
    assert all(torch.equal(value, state[key]) for key, value in body(model).items())
    assert done.summary.startswith("120 of the backbone's 120 tensors from published")


def test_a_file_that_fits_nothing_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "other.pt", {"encoder.weight": torch.zeros(3), "encoder.bias": torch.zeros(3)}, "plain")
    with pytest.raises(DataError) as caught:
        initialise(build(), InitSection(weights=str(path)))
    assert str(caught.value) == (
        f"{path}: none of its 2 tensors fits this model (it holds encoder.weight, encoder.bias; the model "
        f"{', '.join(list(build().state_dict())[:3])}, ...)"
    )


def test_images_weights_for_a_video_network_without_inflation_are_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Most tensors are those of batch norms, which fit."""
    path = write(tmp_path / "resnet18.pt", network(), "plain")
    model = build_model("r3d_18", {}, heads=HEADS, inputs=inputs())
    given = InitSection(weights=str(path), mean=MEAN, std=STD)
    with pytest.raises(DataError) as caught:
        initialise(model, given)
    assert str(caught.value) == (
        f"{path}: is of another network: it has 0 of the 20 weights of backbone, and backbone.body.stem.0.weight, "
        "backbone.body.layer1.0.conv1.0.weight, backbone.body.layer1.0.conv2.0.weight, ... would stay random; "
        "init.inflate=true repeats an image network's over time"
    )
    done = initialise(model, given.model_copy(update={"inflate": True}))
    assert done.summary.startswith("120 of the backbone's 120 tensors")
    assert not caplog.text


def test_mmaction2s_names_of_c3d_are_translated() -> None:
    """There, a convolution is wrapped together with its activation."""
    model: Any = build_model("c3d", {"padded": True, "num_hidden": 8}, heads=HEADS, inputs=inputs())
    torch.manual_seed(3)
    expected = {name: torch.randn_like(tensor) for name, tensor in body(model).items()}
    theirs = {f"backbone.{name.replace('.', '.conv.') if 'conv' in name else name}": t for name, t in expected.items()}
    assert "backbone.conv3b.conv.bias" in theirs
    theirs |= {"cls_head.fc_cls.weight": torch.zeros(101, 8), "cls_head.fc_cls.bias": torch.zeros(101)}
    loaded = load_matching(model, theirs, source="file", part="backbone")
    assert loaded.summary.startswith("20 of the backbone's 20 tensors")
    assert all(torch.equal(value, expected[name]) for name, value in body(model).items())


def test_a_part_of_the_weights_is_said_and_cannot_be_frozen(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = {key: value for key, value in network().items() if not key.startswith("layer4.")}
    path = write(tmp_path / "part.pt", state, "plain")
    done = initialise(build(backbone="resnet18"), InitSection(weights=str(path), mean=MEAN, std=STD))
    assert done.summary.startswith("90 of the backbone's 120 tensors")
    assert "25 tensors of the backbone are not in it: backbone.body.layer4.0.conv1.weight" in caplog.text
    with pytest.raises(DataError, match=r"25 tensors of the backbone are not in it: .*; a frozen backbone needs all"):
        initialise(build(backbone="resnet18"), InitSection(weights=str(path), mean=MEAN, std=STD, freeze="backbone"))


def test_another_networks_weights_cannot_be_frozen(tmp_path: Path) -> None:
    path = write(tmp_path / "resnet18.pt", network("resnet18"), "plain")
    model = build(backbone="resnet34")
    with pytest.raises(DataError, match="a frozen backbone needs all of its weights"):
        initialise(model, InitSection(weights=str(path), mean=MEAN, std=STD, freeze="backbone"))


def test_files_without_counts_of_batches_are_whole(tmp_path: Path) -> None:
    state = {key: value for key, value in network().items() if "num_batches_tracked" not in key}
    path = write(tmp_path / "old.pt", state, "plain")
    initialise(build(backbone="resnet18"), InitSection(weights=str(path), mean=MEAN, std=STD, freeze="backbone"))


def weights_of(folder: Path, name: str, **arguments: Any) -> tuple[Path, nn.Module]:
    model = build(name, **arguments)
    preprocessing = Preprocessing(num_frames=2, size_px=32, resize_px=32, fit="crop", mean=MEAN, std=STD)
    config = WeightsConfig(
        model=name, arguments={"backbone": "tiny", **arguments}, heads=HEADS, preprocessing={"rgb": preprocessing}
    )
    save(folder, model.state_dict(), config, TRAINING, card="")
    return folder, model


def test_a_weights_folder_fills_all_but_another_head(tmp_path: Path) -> None:
    folder, source = weights_of(tmp_path / "weights", "cnn_conv1d")
    target = build_model("cnn_conv1d", {"backbone": "tiny"}, heads={"action": ("a", "b")}, inputs=inputs())
    before = {key: value.clone() for key, value in target.state_dict().items()}
    done = initialise(target, InitSection(weights=str(folder), freeze="backbone"))
    expected = source.state_dict()
    for key, value in target.state_dict().items():
        own = before if key.startswith("heads.") else expected
        assert torch.equal(value, own[key]), key
    assert (done.mean, done.std) == (MEAN, STD)
    num_tensors = len(before)
    assert done.summary.startswith(f"{num_tensors - 2} of the model's {num_tensors} tensors from {folder} (2 not used")


def test_a_weights_folder_of_another_architecture_gives_its_backbone(tmp_path: Path) -> None:
    folder, source = weights_of(tmp_path / "weights", "cnn_conv1d")
    target = build("cnn_lstm", hidden_size=64)
    initialise(target, InitSection(weights=str(folder), freeze="backbone"))
    expected = body(source)
    assert all(torch.equal(value, expected[key]) for key, value in body(target).items())


def test_a_weights_folder_of_another_backbone_cannot_be_frozen(tmp_path: Path) -> None:
    folder, _ = weights_of(tmp_path / "weights", "cnn_conv1d")
    target = build("cnn_conv1d", backbone="resnet18")
    with pytest.raises(DataError, match="a frozen backbone needs all of its weights"):
        initialise(target, InitSection(weights=str(folder), freeze="backbone"))


def test_frozen_without_weights_is_refused() -> None:
    with pytest.raises(ValueError, match=r"freeze: backbone needs init\.weights"):
        InitSection(freeze="backbone")


def test_a_model_without_frame_backbone_cannot_be_frozen(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    path = write(tmp_path / "linear.pt", {"weight": torch.eye(2)}, "plain")
    with pytest.raises(ConfigError, match=r"^init\.freeze: this model has no backbone"):
        initialise(model, InitSection(weights=str(path), mean=MEAN, std=STD, freeze="backbone"))
    assert torch.equal(model.weight, torch.eye(2))


def test_published_weights_of_a_model_without_backbone() -> None:
    with pytest.raises(ConfigError, match=r"^init\.weights: nothing is published for this model"):
        initialise(nn.Linear(2, 2), InitSection(weights="published"))


# What is no file of weights


class _Planted:
    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (os.system, ("touch planted",))


def test_code_in_a_file_of_weights_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"conv1.weight": torch.zeros(1)}, "planted": _Planted()}, "weights.pt")
    with pytest.raises(DataError) as caught:
        read_state_dict(Path("weights.pt"))
    assert str(caught.value) == (
        "weights.pt: cannot be read as weights: not a file of tensors alone, and what a stranger may have written is "
        "not unpickled"
    )
    assert not Path("planted").exists()


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"text", b"\x80\x02}q\x00.", b"PK\x03\x04broken", b"\xff" * 64])
def test_a_file_that_holds_no_weights(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        initialise(build(), InitSection(weights=str(path)))
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@given(st.binary(max_size=64), st.sampled_from([".pt", ".safetensors"]))
def test_whatever_a_file_holds_it_is_refused_in_one_line(content: bytes, suffix: str) -> None:
    with TemporaryDirectory() as place:
        path = Path(place, f"weights{suffix}")
        path.write_bytes(content)
        with pytest.raises(DataError) as caught:
            read_state_dict(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [torch.zeros(3), [torch.zeros(3)], {"epoch": 3}, {"state_dict": {}}, 3])
def test_a_checkpoint_without_tensors(tmp_path: Path, content: object) -> None:
    path = tmp_path / "weights.pt"
    torch.save(content, path)
    with pytest.raises(DataError, match="holds no state dictionary"):
        initialise(build(), InitSection(weights=str(path)))


@pytest.mark.parametrize("name", ["nowhere.pt", "nowhere", "."])
def test_no_file_of_weights(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="no such file of weights"):
        initialise(build(), InitSection(weights=str(tmp_path / name)))


def test_a_shape_that_does_not_fit_is_not_loaded() -> None:
    model = nn.Linear(2, 3)
    loaded = load_matching(model, {"weight": torch.ones(3, 2), "bias": torch.ones(4)}, source="a file")
    assert loaded.summary == "1 of the model's 2 tensors from a file (1 not used: bias; of another size: bias)"
    assert (model.weight == 1).all()
    assert model.bias.shape == (3,)


def test_real_weights_of_mobilenet_fill_the_backbone(data_root: Path) -> None:
    path = data_root / "weights" / "mobilenet_v2_imagenet_dequant.pt"
    model = build(backbone="mobilenet_v2")
    init = InitSection(weights=str(path), mean=(0.5,) * 3, std=(0.5,) * 3, freeze="backbone")
    done = initialise(model, init)
    assert done.summary.startswith("312 of the backbone's 312 tensors from ")
    assert "(2 not used: classifier.1.weight, classifier.1.bias)" in done.summary
    assert replace(done, summary="").mean == (0.5, 0.5, 0.5)
