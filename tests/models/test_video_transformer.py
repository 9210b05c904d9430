"""The adapter answers as the network of transformers with the same weights does."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from tests.models.facts import MEAN, STD

from kinema.models.build import build_model, initialise
from kinema.models.freezing import blocks, stages
from kinema.sections import InitSection
from kinema.types import ConfigError, InputShape

HEADS = {"action": ("open", "close", "push")}
SMALL = {"hidden_size": 32, "num_layers": 3, "num_heads": 2}
ARCHITECTURES = ("videomae", "timesformer", "vivit", "vjepa2")


def build(architecture: str, *, size_px: int = 32, **arguments: Any) -> Any:
    torch.manual_seed(0)
    shape = InputShape(num_frames=4, channels=3, height_px=size_px, width_px=size_px)
    return build_model(
        "video_transformer", {**SMALL, "architecture": architecture, **arguments}, heads=HEADS, inputs={"rgb": shape}
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_it_answers_as_the_library_does(architecture: str, tmp_path: Any) -> None:
    import transformers

    model = build(architecture)
    config = model.backbone.body.config
    config.num_labels = 3
    torch.manual_seed(9)
    classifier: Any = transformers.AutoModelForVideoClassification
    reference = classifier.from_config(config).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    torch.save(reference.state_dict(), tmp_path / "model.pt")
    initialise(model, InitSection(weights=str(tmp_path / "model.pt"), mean=MEAN, std=STD, freeze="backbone"))
    model.heads.linear["task_action"].load_state_dict(reference.classifier.state_dict())
    batch = torch.randn(2, 4, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()({"rgb": batch})["action"], reference(batch).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_parameter_is_trained(architecture: str) -> None:
    model = build(architecture)
    model({"rgb": torch.randn(3, 4, 3, 32, 32)})["action"].square().sum().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_layers_are_stages_and_blocks(architecture: str) -> None:
    body = build(architecture).backbone.body
    for groups in (stages(body), blocks(body)):
        assert len(groups) >= SMALL["num_layers"]
        assert ".0" in groups[0][-1][0]


def test_without_transformers_what_to_install_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r'pip install "kinema\[transformers\]"'):
        build("videomae")


def test_sizes_that_do_not_go_together() -> None:
    with pytest.raises(ConfigError, match=r"^model\.num_heads: 32 features are not shared by 5 heads"):
        build("videomae", num_heads=5)
    with pytest.raises(ConfigError, match=r"^clips\.size_px: has to be a multiple of model\.patch_size, 16"):
        build("videomae", size_px=40)
