"""Frames to a model's input, against plain arithmetic and torchvision's own colour functions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from kinema.data.device import change_colour, to_model_input
from kinema.types import Preprocessing

MEAN, STD = (0.1, 0.4, 0.7), (0.2, 0.3, 0.5)
RGB = {"rgb": Preprocessing(num_frames=2, size_px=8, resize_px=8, fit="crop", mean=MEAN, std=STD)}


@pytest.fixture
def frames() -> Tensor:
    """Three clips of two frames, one dark and one bright."""
    values = torch.randint(0, 256, (3, 2, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    values[:, 0] //= 3
    return values


def test_normalisation_is_plain_arithmetic(frames: Tensor) -> None:
    found = to_model_input({"rgb": frames}, RGB)["rgb"]
    assert found.dtype == torch.float32
    for channel in range(3):
        expected = (frames[:, :, channel].double() / 255 - MEAN[channel]) / STD[channel]
        torch.testing.assert_close(found[:, :, channel].double(), expected, rtol=0, atol=2e-6)


def test_every_stream_has_its_own_normalisation(frames: Tensor) -> None:
    other = Preprocessing(num_frames=2, size_px=8, resize_px=8, fit="crop", mean=(0.0,) * 3, std=(1.0,) * 3)
    found = to_model_input({"rgb": frames, "other": frames}, {**RGB, "other": other})
    torch.testing.assert_close(found["other"], frames / 255)
    assert not torch.equal(found["rgb"], found["other"])


def test_factors_of_one_change_no_colour(frames: Tensor) -> None:
    plain = to_model_input({"rgb": frames}, RGB)["rgb"]
    same = to_model_input({"rgb": frames}, RGB, colour=torch.ones(3, 3))["rgb"]
    torch.testing.assert_close(same, plain, rtol=0, atol=2e-6)


FACTORS = torch.tensor([[0.8, 1.2, 1.0], [1.3, 0.6, 1.4], [1.0, 1.0, 0.5]])


def test_colours_change_as_in_torchvision(frames: Tensor) -> None:
    values = frames / 255
    found = change_colour(values, FACTORS)
    for clip, (brightness, contrast, saturation) in enumerate(FACTORS.tolist()):
        # Frames below one another in one picture: torchvision then takes the level of contrast from all of them.
        picture = torch.cat(list(values[clip]), dim=1)
        picture = F.adjust_brightness(picture, brightness)
        picture = F.adjust_contrast(picture, contrast)
        picture = F.adjust_saturation(picture, saturation)
        # torchvision's weights of grey end in 0.2989, where BT.601 has 0.299: 1e-4 of the largest value.
        torch.testing.assert_close(torch.cat(list(found[clip]), dim=1), picture, rtol=0, atol=2e-4)


def test_every_clip_has_its_own_factors_and_all_its_frames_the_same(frames: Tensor) -> None:
    frames = frames[:1, :1].expand(3, 2, 3, 8, 8).contiguous()
    found = to_model_input({"rgb": frames}, RGB, colour=FACTORS)["rgb"]
    assert torch.equal(found[:, 0], found[:, 1])
    assert not torch.equal(found[0], found[1])
    for clip in range(3):
        alone = to_model_input({"rgb": frames[clip : clip + 1]}, RGB, colour=FACTORS[clip : clip + 1])["rgb"]
        torch.testing.assert_close(alone[0], found[clip], rtol=0, atol=1e-6)


def test_colours_stay_colours(frames: Tensor) -> None:
    strong = torch.tensor([[2.0, 2.0, 2.0], [0.0, 2.0, 2.0], [2.0, 0.0, 0.0]])
    found = change_colour(frames / 255, strong)
    assert found.min() >= 0
    assert found.max() <= 1
