"""What shipped configurations come to."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import get_model, get_model_weights

from kinema.models.configurations import Configuration, configurations, measure
from kinema.registry import entries


def configuration(backbone: str, freeze: str = "none") -> Configuration:
    return Configuration(
        name="default",
        arguments={"backbone": backbone, "dropout": 0.0},
        classes={"action": 1000},
        num_frames=3,
        size_px=224,
        freeze=freeze,
        summary="An image network on three frames.",
    )


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v2"])
def test_what_is_measured_is_what_the_library_says(backbone: str) -> None:
    said = get_model_weights(backbone).DEFAULT.meta
    classifier_gflops = 1000 * {"resnet18": 512, "mobilenet_v2": 1280}[backbone] / 1e9
    found = measure("frame_average", configuration(backbone))
    assert found.total == found.trainable == said["num_params"]
    assert found.gflops == pytest.approx(3 * (said["_ops"] - classifier_gflops) + classifier_gflops, abs=3e-3)


def test_only_what_is_trained_counts_as_trainable() -> None:
    found = measure("frame_average", configuration("resnet18", freeze="backbone"))
    assert found.trainable == 512 * 1000 + 1000
    assert found.total == 11_689_512


def test_attention_is_counted() -> None:
    """Its fused kernels would hide it."""
    found = measure("frame_average", configuration("vit_b_16"))
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        get_model("vit_b_16", weights=None).train()(torch.empty(3, 3, 224, 224))
    assert found.gflops == pytest.approx(counter.get_total_flops() / 2e9 - 2 * 768 * 1000 / 1e9, rel=1e-6)


@pytest.mark.parametrize("name", entries("model"))
def test_every_model_has_a_default_and_no_name_twice(name: str) -> None:
    names = [one.name for one in configurations()[name]]
    assert "default" in names
    assert len(set(names)) == len(names)
