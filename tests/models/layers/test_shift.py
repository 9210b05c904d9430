"""Temporal shift."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import get_model

from kinema.models.layers.backbone import FrameBackbone
from kinema.models.layers.fold import fold
from kinema.models.layers.shift import insert_shifts, shift
from kinema.models.tsm import ShiftModel, tsm
from kinema.types import ConfigError, InputShape

HEADS = {"action": ("a", "b", "c")}


def _slow(maps: Tensor, num_frames: int, share: int) -> Tensor:
    answer, num = maps.clone(), maps.shape[1] // share
    for index in range(len(maps)):
        frame = index % num_frames
        answer[index, :num] = maps[index + 1, :num] if frame + 1 < num_frames else 0
        answer[index, num : 2 * num] = maps[index - 1, num : 2 * num] if frame else 0
    return answer


@pytest.mark.parametrize(("num_frames", "share"), [(4, 8), (3, 2), (1, 8), (6, 5)])
def test_channels_come_from_neighbours_of_the_same_clip(num_frames: int, share: int) -> None:
    maps = torch.randn(2 * num_frames, 16, 3, 2)
    assert torch.equal(shift(maps, num_frames, share), _slow(maps, num_frames, share))


@pytest.mark.parametrize(
    ("name", "num_shifts"),
    [
        ("resnet18", 8),
        ("mobilenet_v2", 10),
        ("timm/resnet18", 8),
        ("timm/mobilenetv2_100", 10),
        ("efficientnet_b0", 9),
        ("efficientnet_v2_s", 35),
    ],
)
def test_where_shifts_are(name: str, num_shifts: int) -> None:
    """In front of every block of a ResNet, and of those with a way around of the others."""
    body = FrameBackbone(name).body
    keys = list(body.state_dict())
    assert insert_shifts(body, num_frames=4, share=8, name=name) == num_shifts
    assert list(body.state_dict()) == keys


def _resnet18_with_shifts(body: nn.Module, frames: Tensor) -> Tensor:
    """What the network does, written out, with the slow shift."""
    part = body.get_submodule
    hidden = part("maxpool")(torch.relu(part("bn1")(part("conv1")(frames))))
    for stage in range(1, 5):
        for number in range(2):
            block = f"layer{stage}.{number}"
            shortcut = part(f"{block}.downsample")(hidden) if stage > 1 and number == 0 else hidden
            inner = torch.relu(part(f"{block}.bn1")(part(f"{block}.conv1")(_slow(hidden, 4, 8))))
            hidden = torch.relu(part(f"{block}.bn2")(part(f"{block}.conv2")(inner)) + shortcut)
    return hidden.mean(dim=(2, 3))


def model() -> ShiftModel:
    torch.manual_seed(0)
    found = tsm(
        HEADS, {"rgb": InputShape(num_frames=4, channels=3, height_px=64, width_px=64)}, backbone="resnet18", dropout=0
    )
    assert isinstance(found, ShiftModel)
    return found.eval()


def test_a_shifted_network_written_out() -> None:
    shifted = model()
    plain = get_model("resnet18", weights=None).eval()
    plain.load_state_dict(shifted.backbone.body.state_dict(), strict=False)
    clips = torch.randn(2, 4, 3, 64, 64)
    with torch.no_grad():
        features = _resnet18_with_shifts(plain, clips.flatten(0, 1)).reshape(2, 4, -1)
        expected = shifted.heads(features.mean(dim=1))["action"]
        torch.testing.assert_close(shifted({"rgb": clips})["action"], expected, rtol=0, atol=1e-5)


def test_frozen_folded_and_copied_it_answers_the_same() -> None:
    shifted = model()
    clips = {"rgb": torch.randn(3, 4, 3, 64, 64)}
    with torch.no_grad():
        expected = shifted(clips)["action"]
        torch.testing.assert_close(copy.deepcopy(shifted)(clips)["action"], expected)
        folded = fold(shifted, keep=(FrameBackbone,))
        assert not any(isinstance(part, nn.BatchNorm2d) for part in folded.modules())
        torch.testing.assert_close(folded(clips)["action"], expected, rtol=0, atol=1e-4)
        shifted.backbone.freeze()
        torch.testing.assert_close(shifted(clips)["action"], expected, rtol=0, atol=1e-5)


def test_clips_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="made for clips of 4 frames, got 8"):
        model()({"rgb": torch.randn(1, 8, 3, 64, 64)})


def test_what_cannot_be_shifted_is_refused() -> None:
    inputs = {"rgb": InputShape(num_frames=4, channels=3, height_px=64, width_px=64)}
    with pytest.raises(ConfigError, match=r"^model\.backbone: 'tiny' has no residual blocks"):
        tsm(HEADS, inputs, backbone="tiny")
    with pytest.raises(ConfigError, match=r"^model\.shift_share: has to be at least 2, got 1"):
        tsm(HEADS, inputs, backbone="resnet18", shift_share=1)
    with pytest.raises(ConfigError, match=r"^model\.shift_share: has to be at most 64 with 'resnet18', got 65"):
        tsm(HEADS, inputs, backbone="resnet18", shift_share=65)


def test_the_same_blocks_are_shifted_in_timm_s_networks() -> None:
    """timm's name of a fused block is another."""
    body = FrameBackbone("timm/efficientnetv2_rw_t").body
    kinds = ("EdgeResidual", "InvertedResidual")
    blocks: list[Any] = [block for block in body.modules() if type(block).__name__ in kinds]
    assert len({type(block) for block in blocks}) == len(kinds)
    num_skips = sum(block.has_skip for block in blocks)
    assert insert_shifts(body, num_frames=4, share=8, name="timm/efficientnetv2_rw_t") == num_skips
