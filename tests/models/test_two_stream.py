"""Networks on frames and on motion, side by side: the contract of all models, and how answers are fused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models import contract
from tests.models.contract import ONE, THREE
from tests.models.facts import MEAN, STD, TRAINING
from torch import Tensor, nn

from kinema.models.build import build_model, initialise
from kinema.models.frame_model import FrameModel
from kinema.models.freezing import backbones
from kinema.models.fused_model import FusedModel, MapFusion
from kinema.models.layers.heads import ConsensusHeads
from kinema.models.streams_model import StreamsModel, frame_models
from kinema.models.weights import WeightsConfig, save
from kinema.sections import InitSection
from kinema.types import ConfigError, Heads, Inputs, InputShape

SIZE_PX = 32
LSTM: dict[str, Any] = {"name": "cnn_lstm", "backbone": "tiny", "hidden_size": 16}
KINDS: dict[str, dict[str, Any]] = {
    "probabilities": {"network": LSTM},
    "logits": {"network": LSTM, "fusion": "logits", "shares": {"flow": 2.0}},
    "features": {"network": LSTM, "fusion": "features", "head_norm": "batch"},
    "branches": {"network": LSTM, "fusion": "features", "branch_size": 8, "head_hidden": [16]},
    "convolution": {"network": LSTM, "fusion": "convolution"},
    "convolution of maps": {
        "networks": {
            "rgb": {"name": "cnn_conv_lstm", "backbone": "tiny", "channels": 8, "feature_norm": "batch"},
            "flow": {"name": "frame_average", "backbone": "timm/resnet10t", "backbone_cut": "layer3"},
        },
        "fusion": "convolution",
    },
    "segments": {"network": {"name": "tsn", "backbone": "tiny"}, "fusion": "logits"},
    "of clips": {"network": {"name": "conv3d"}, "fusion": "features"},
    "mixed": {"network": LSTM, "networks": {"flow": {"name": "conv3d"}}},
}


def inputs(num_frames: int = 4, stack: int = 2) -> Inputs:
    def of(channels: int) -> InputShape:
        return InputShape(num_frames=num_frames, channels=channels, height_px=SIZE_PX, width_px=SIZE_PX)

    return {"rgb": of(3), "flow": of(2 * stack)}


def build(kind: str = "probabilities", heads: Heads = ONE, **more: Any) -> nn.Module:
    torch.manual_seed(0)
    return build_model("two_stream", {**KINDS[kind], **more}, heads=heads, inputs=inputs())


def clips(num: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(num)
    return {
        stream: torch.randn(num, shape.num_frames, shape.channels, SIZE_PX, SIZE_PX, generator=generator)
        for stream, shape in inputs().items()
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("heads", [ONE, THREE], ids=["one", "three"])
def test_contract(kind: str, heads: Heads, tmp_path: Path) -> None:
    model = build(kind, heads)
    contract.check_answers(model, clips(3), heads)
    contract.check_forward_makes_no_parameter_and_changes_none(build(kind, heads), clips(3))
    contract.check_evaluation(build(kind, heads), clips(3))
    contract.check_gradient(build(kind, heads), clips(4))
    contract.check_half_precision(build(kind, heads), clips(3))
    contract.check_round_trip(
        build(kind, heads), clips(4), tmp_path / "weights", name="two_stream", arguments=KINDS[kind], heads=heads
    )


def answers(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    assert isinstance(model, StreamsModel)
    return {stream: network({stream: batch[stream]})["action"] for stream, network in model.networks.items()}


def test_fused_as_computed_by_hand() -> None:
    batch = clips(3)
    with torch.no_grad():
        model = build("logits").eval()
        each = answers(model, batch)
        torch.testing.assert_close(model(batch)["action"], each["rgb"] / 3 + each["flow"] * 2 / 3)
        model = build(shares={"rgb": 3.0}).eval()
        each = answers(model, batch)
        expected = 0.75 * each["rgb"].softmax(1) + 0.25 * each["flow"].softmax(1)
        torch.testing.assert_close(model(batch)["action"].softmax(1), expected)


@pytest.mark.parametrize("kind", ["probabilities", "logits", "features", "convolution"])
def test_each_stream_counts(kind: str) -> None:
    model, batch = build(kind).eval(), clips(3)
    with torch.no_grad():
        plain = model(batch)["action"]
        for stream in batch:
            other = model({**batch, stream: batch[stream].flip(0)})["action"]
            assert not torch.allclose(plain, other), stream


def test_snippets_of_three_streams_come_to_a_consensus() -> None:
    """Temporal segment networks on frames, differences and stacked flow: the mean over snippets, then over streams."""
    shapes = {**inputs(), "rgb_difference": replace(inputs()["rgb"], channels=9)}
    torch.manual_seed(0)
    model = build_model("two_stream", KINDS["segments"], heads=ONE, inputs=shapes).eval()
    assert isinstance(model, StreamsModel)
    batch = {**clips(2), "rgb_difference": torch.randn(2, 4, 9, SIZE_PX, SIZE_PX)}
    said = []
    with torch.no_grad():
        for stream, network in model.networks.items():
            assert isinstance(network, FrameModel)
            features = network.backbone(batch[stream].flatten(0, 1))
            assert isinstance(network.heads, ConsensusHeads)
            said.append(network.heads.heads(features)["action"].reshape(2, 4, 3).mean(dim=1))
        torch.testing.assert_close(model(batch)["action"], torch.stack(said).mean(dim=0))


def test_convolved_as_computed_by_hand() -> None:
    """Maps one behind the other, times the weights of each place, through what is behind the first backbone."""
    model, batch = build("convolution").eval(), clips(3)
    assert isinstance(model, FusedModel)
    first, second = model.networks.values()
    assert isinstance(first, FrameModel)
    assert isinstance(second, FrameModel)
    assert isinstance(model.fuse, MapFusion)
    weight, bias = model.fuse.convolution.weight, model.fuse.convolution.bias
    assert bias is not None
    with torch.no_grad():
        maps = [net.backbone.maps(batch[stream].flatten(0, 1)) for stream, net in (("rgb", first), ("flow", second))]
        stacked = torch.cat(maps, dim=1)
        fused = torch.einsum("ndhw,ed->nehw", stacked, weight[:, :, 0, 0])
        fused = (fused + bias[:, None, None]).clamp_min(0)
        expected = first.classify(fused.mean(dim=(2, 3)).reshape(3, 4, -1))
        torch.testing.assert_close(model(batch)["action"], expected["action"])
    assert not list(second.temporal.parameters())
    assert not list(second.heads.parameters())


def test_it_begins_as_the_sum() -> None:
    one, other = torch.rand(2, 5, 3, 3), torch.rand(2, 5, 3, 3)
    torch.testing.assert_close(MapFusion([5, 5], 5)([one, other]), one + other)


def test_maps_of_another_size_are_refused() -> None:
    networks = {"flow": {"name": "frame_average", "backbone": "timm/resnet10t", "backbone_cut": "layer2"}}
    message = r"model\.fusion: convolution fuses maps of the same size, and these are of 2x2 \(rgb\) and 4x4 \(flow\)"
    with pytest.raises(ConfigError, match=message):
        build("convolution", networks=networks)


@pytest.mark.parametrize("kind", ["probabilities", "features", "branches"])
def test_from_features_it_says_the_same(kind: str) -> None:
    model, batch = build(kind).eval(), clips(3)
    assert isinstance(model, StreamsModel)
    networks = frame_models(model, list(batch))
    assert networks is not None
    with torch.no_grad():
        features = torch.cat([networks[stream].features(frames) for stream, frames in batch.items()], dim=2)
        torch.testing.assert_close(model.classify(features)["action"], model(batch)["action"])


def test_networks_on_whole_clips_have_no_features_of_frames() -> None:
    assert frame_models(build("mixed"), ["rgb", "flow"]) is None


def test_a_file_is_for_every_stream(tmp_path: Path) -> None:
    """One stream's first layer has its weights as they are, the other's adapted; and one may begin from the other."""
    source = build_model("cnn_lstm", {"backbone": "tiny"}, heads=ONE, inputs={"rgb": inputs()["rgb"]})
    (part,) = backbones(source).values()
    torch.save(part.body.state_dict(), tmp_path / "tiny.pt")
    model = build()
    settings = {"weights": str(tmp_path / "tiny.pt"), "mean": (0.5,) * 3, "std": (0.5,) * 3, "freeze": "backbone"}
    found = initialise(model, InitSection.model_validate(settings))
    assert "backbone frozen" in found.summary
    rgb, flow = backbones(model).values()
    name = "convolutions.0.0.weight"
    expected = part.body.get_parameter(name)
    torch.testing.assert_close(rgb.body.get_parameter(name), expected)
    torch.testing.assert_close(
        flow.body.get_parameter(name), expected.mean(dim=1, keepdim=True).expand(-1, 4, -1, -1) * 0.75
    )
    one = build()
    initialise(one, InitSection(weights={"networks.flow.backbone": str(tmp_path / "tiny.pt")}, mean=None, std=None))
    assert not torch.equal(backbones(one)["networks.rgb.backbone"].body.get_parameter(name), expected)


def trained(
    folder: Path, stream: str, *, name: str = "cnn_lstm", std: tuple[float, ...] | None = None, seed: int = 5
) -> tuple[nn.Module, str]:
    """A network of one stream, as a run of its own leaves it."""
    torch.manual_seed(seed)
    shape, arguments = inputs()[stream], {key: value for key, value in LSTM.items() if key != "name"}
    model = build_model(name, arguments, heads=ONE, inputs={stream: shape})
    own = contract.preprocessing(stream, clips(1)[stream])
    given = replace(own, std=std or own.std)
    config = WeightsConfig(model=name, arguments=arguments, heads=ONE, preprocessing={stream: given})
    save(folder, model.state_dict(), config, TRAINING, card="# A model\n")
    return model, str(folder)


def flow_std() -> tuple[float, ...]:
    """Of flow beside frames that are scaled by `STD`."""
    return (sum(STD) / 3,) * 4


@pytest.mark.parametrize("kind", ["logits", "convolution"])
def test_networks_begin_from_runs_of_their_own(kind: str, tmp_path: Path) -> None:
    """All of each network, not the backbone alone, where it is there; trained together then."""
    rgb, from_rgb = trained(tmp_path / "rgb", "rgb")
    flow, from_flow = trained(tmp_path / "flow", "flow", std=flow_std(), seed=6)
    model = build(kind)
    weights = {"networks.rgb": from_rgb, "networks.flow": from_flow}
    found = initialise(model, InitSection.model_validate({"weights": weights}))
    assert (found.mean, found.std) == (MEAN, STD)
    assert isinstance(model, StreamsModel | FusedModel)
    for source, stream in ((rgb, "rgb"), (flow, "flow")):
        state = source.state_dict()
        for name, tensor in model.networks[stream].state_dict().items():
            torch.testing.assert_close(tensor, state[name])
    assert all(parameter.requires_grad for parameter in model.parameters())
    if kind == "logits":
        batch = clips(2)
        with torch.no_grad():
            each = [one.eval()({stream: batch[stream]})["action"] for one, stream in ((rgb, "rgb"), (flow, "flow"))]
            torch.testing.assert_close(model.eval()(batch)["action"], each[0] / 3 + each[1] * 2 / 3)


def test_a_run_on_frames_is_for_both_streams(tmp_path: Path) -> None:
    """Wang et al., 2016: the network on flow begins from the one on frames, whose first layer is adapted."""
    rgb, folder = trained(tmp_path / "rgb", "rgb")
    both, one = build(), build()
    found = initialise(both, InitSection.model_validate({"weights": folder}))
    assert (found.mean, found.std) == (MEAN, STD)
    assert found.summary.count("the first layer's from RGB to 4 channels") == 1
    initialise(one, InitSection.model_validate({"weights": {"networks.flow": folder}}))
    state, first = rgb.state_dict(), "backbone.body.convolutions.0.0.weight"
    for model, streams in ((both, ("rgb", "flow")), (one, ("flow",))):
        assert isinstance(model, StreamsModel)
        for stream in streams:
            for name, tensor in model.networks[stream].state_dict().items():
                expected = state[name]
                if stream == "flow" and name == first:
                    expected = expected.mean(dim=1, keepdim=True).expand(-1, 4, -1, -1) * 0.75
                torch.testing.assert_close(tensor, expected)
    assert isinstance(one, StreamsModel)
    assert not torch.equal(one.networks["rgb"].get_parameter(first), state[first])


def test_a_network_of_several_begins_from_its_own_stream(tmp_path: Path) -> None:
    torch.manual_seed(7)
    source = build_model("two_stream", KINDS["logits"], heads=ONE, inputs=inputs())
    preprocessing = {stream: contract.preprocessing(stream, frames) for stream, frames in clips(1).items()}
    config = WeightsConfig(model="two_stream", arguments=KINDS["logits"], heads=ONE, preprocessing=preprocessing)
    save(tmp_path / "both", source.state_dict(), config, TRAINING, card="# A model\n")
    model = build()
    weights = {"networks.flow": str(tmp_path / "both"), "networks.rgb.backbone": str(tmp_path / "both")}
    initialise(model, InitSection.model_validate({"weights": weights}))
    state = source.state_dict()
    for name, tensor in model.state_dict().items():
        if name.startswith(("networks.flow.", "networks.rgb.backbone.")):
            torch.testing.assert_close(tensor, state[name])


@pytest.mark.parametrize(
    ("weights", "mean", "message"),
    [
        ({"networks.flow": "published"}, None, "what is published is of a backbone; name networks.flow.backbone"),
        ({"networks.flov": "RGB"}, None, "this model has no backbone 'networks.flov'"),
        ({"networks.flow": "RGB"}, (0.5,) * 3, "init.mean: weights folders bring their own"),
        ({"networks.rgb": "RGB", "networks.flow": "OTHER"}, None, "rgb and .*other expect pixels of different normal"),
        ({"networks.rgb": "RGB", "networks.flow": "FLOW"}, None, "flow was trained with what moves scaled by std"),
        ({"networks.flow": "GRU"}, None, None),
    ],
)
def test_weights_of_runs_that_do_not_go_together(
    weights: dict[str, str], mean: tuple[float, ...] | None, message: str | None, tmp_path: Path
) -> None:
    folders = {
        "RGB": trained(tmp_path / "rgb", "rgb")[1],
        "OTHER": trained(tmp_path / "other", "rgb", std=(0.1, 0.1, 0.1))[1],
        "FLOW": trained(tmp_path / "flow", "flow", std=(0.4,) * 4)[1],
        "GRU": trained(tmp_path / "gru", "rgb", name="cnn_gru")[1],
    }
    given = {"weights": {name: folders.get(source, source) for name, source in weights.items()}}
    section = InitSection.model_validate({**given, "mean": mean, "std": mean})
    if message is None:  # what fits of another model is taken: its backbone
        assert "of the model's" in initialise(build(), section).summary
        return
    with pytest.raises(ConfigError, match=message):
        initialise(build(), section)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"networks": {"depth": LSTM}}, r"model\.networks: there is no stream 'depth'; data\.modality names rgb, flow"),
        ({"shares": {"depth": 1.0}}, r"model\.shares: there is no stream 'depth'"),
        ({"network": LSTM, "shares": {"rgb": 0.0}}, r"model\.shares: have to be above 0"),
        ({"network": LSTM, "shares": {"rgb": 2.0}, "fusion": "features"}, r"model\.shares: features are not averaged"),
        ({"network": LSTM, "shares": {"rgb": 2.0}, "fusion": "convolution"}, r"model\.shares: maps are not averaged"),
        ({"network": LSTM, "branch_size": 4}, r"model\.branch_size: has no effect with model\.fusion=probabilities"),
        ({"network": LSTM, "fusion": "features", "branch_size": 0}, r"model\.branch_size: has to be at least 1"),
        (
            {"network": LSTM, "networks": {"flow": {"name": "conv3d"}}, "fusion": "convolution"},
            r"model\.fusion: convolution is of maps of single frames, and the network of flow has none",
        ),
        (
            {"network": LSTM, "networks": {"flow": LSTM}, "fusion": "convolution"},
            r"model\.networks\.flow\.hidden_size: has no effect with model\.fusion=convolution",
        ),
        (
            {"network": {"name": "tsn", "backbone": "tiny"}, "fusion": "features"},
            r"model\.fusion: the network of rgb has no feature of a clip; take probabilities or logits",
        ),
        ({"network": {"name": "two_stream"}}, r"model\.networks\.rgb: two_stream is no network of one stream"),
        ({"network": {"name": "cnn_lstm", "hiden": 3}}, r"model\.networks\.rgb\.hiden: unknown key"),
    ],
)
def test_impossible_settings_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_model("two_stream", arguments, heads=ONE, inputs=inputs())


def test_one_stream_is_too_few_and_two_are_too_many_for_others() -> None:
    with pytest.raises(ConfigError, match="two_stream fuses several streams, and there is one"):
        build_model("two_stream", {}, heads=ONE, inputs={"rgb": inputs()["rgb"]})
    with pytest.raises(ConfigError, match=r"data\.modality: one stream is looked at here, not 2 \(rgb, flow\)"):
        build_model("cnn_lstm", {"backbone": "tiny"}, heads=ONE, inputs=inputs())
