"""The adapter answers as the network of transformers with the same weights does."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models.facts import MEAN, STD

from kinema.models.build import build_model, initialise
from kinema.models.freezing import blocks, stages
from kinema.sections import InitSection
from kinema.types import ConfigError, DataError, InputShape

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


def saved(folder: Path, model: Any) -> str:
    """As transformers writes it."""
    model.save_pretrained(folder)
    return str(folder)


def test_what_a_published_network_lacks_is_not_taken_for_published(tmp_path: Path) -> None:
    """V-JEPA 2 without its pooling, as it is before it is trained to classify."""
    import transformers

    library: Any = transformers.AutoModelForVideoClassification
    classifier = library.from_config(build("vjepa2").backbone.body.config)
    name = saved(tmp_path / "vjepa2", classifier.vjepa2)
    model = build("vjepa2", published=name)
    before = {key: value.clone() for key, value in model.backbone.body.state_dict().items()}
    done = initialise(model, InitSection(weights="published"))
    expected = classifier.vjepa2.state_dict()
    num_random = 0
    for key, value in model.backbone.body.state_dict().items():
        is_random = key.startswith("pooler.")
        num_random += is_random
        assert torch.equal(value, before[key] if is_random else expected[key.removeprefix("vjepa2.")])
    assert num_random
    assert done.summary.startswith(f"{len(before) - num_random} of the backbone's {len(before)} tensors")
    with pytest.raises(DataError, match=rf"{num_random} tensors of the backbone are not in it: backbone\.body\.pooler"):
        initialise(build("vjepa2", published=name), InitSection(weights="published", freeze="backbone"))


def test_a_published_network_of_another_architecture_is_named(tmp_path: Path) -> None:
    name = saved(tmp_path / "vivit", build("vivit").backbone.body)
    with pytest.raises(DataError) as caught:
        initialise(build("videomae", published=name), InitSection(weights="published"))
    assert str(caught.value) == f"model.published: {name} is a network of type vivit, not videomae"


@pytest.mark.parametrize(
    "content", [None, "{", '{"model_type": "videomae"}', '{"model_type": "videomae", "num_hidden_layers": "x"}']
)
def test_a_folder_of_something_else_is_refused_in_one_line(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(DataError, match=r"^init\.weights: the published weights of .* cannot be fetched \(") as caught:
        initialise(build("videomae", published=str(tmp_path)), InitSection(weights="published"))
    assert "\n" not in str(caught.value)


def test_without_transformers_what_to_install_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r'pip install "kinema\[transformers\]"'):
        build("videomae")


def test_sizes_that_do_not_go_together() -> None:
    with pytest.raises(ConfigError, match=r"^model\.num_heads: 32 features are not shared by 5 heads"):
        build("videomae", num_heads=5)
    with pytest.raises(ConfigError, match=r"^clips\.size_px: has to be a multiple of model\.patch_size, 16"):
        build("videomae", size_px=40)
