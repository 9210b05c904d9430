"""Networks on clips answer as an independent implementation with the same weights does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights

from kinema.models.build import build_model, initialise
from kinema.models.configurations import Configuration, configurations, measure
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
]


@pytest.mark.parametrize(("name", "arguments", "reference", "classifier", "num_frames", "size_px"), TORCHVISION)
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


@pytest.mark.parametrize("name", [row[2] for row in TORCHVISION])
def test_figures_are_those_of_torchvision(name: str) -> None:
    said = get_model_weights(name).DEFAULT.meta
    (model, chosen) = next(
        (model, one) for model, some in configurations().items() for one in some if is_published(model, one, name)
    )
    found = measure(model, chosen)
    assert found.total == said["num_params"]
    assert found.gflops == pytest.approx(said["_ops"], rel=2e-3)


def is_published(model: str, chosen: Configuration, name: str) -> bool:
    return (model == name and chosen.name == "default") or chosen.name == name


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
