"""Frames to a model's input, against plain arithmetic and torchvision's own colour functions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as nn_functional
from av.video.frame import VideoFrame
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from kinema.data import device
from kinema.data.device import change_colour, to_model_input, to_rgb
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


I420 = {"rgb": replace(RGB["rgb"], pixels="i420")}


@pytest.fixture
def rows() -> Tensor:
    """Three clips of two frames as I420, with values of all kinds, also such as no RGB has."""
    return torch.randint(0, 256, (3, 2, 8 * 12), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def plain_rgb(rows: Tensor) -> Tensor:
    """RGB in 0..1 (B, T, 3, 8, 8) by the equations of BT.601, step by step."""
    values = rows.double()
    y, u, v = values[..., :64], values[..., 64:80], values[..., 80:]
    y = (y.reshape(-1, 8, 8) - 16) / 219
    blue, red = ((nn_functional.interpolate(p.reshape(-1, 1, 4, 4), scale_factor=2)[:, 0] - 128) / 224 for p in (u, v))
    r, b = y + 1.402 * red, y + 1.772 * blue
    g = (y - 0.299 * r - 0.114 * b) / 0.587
    return torch.stack([r, g, b], dim=1).reshape(*rows.shape[:2], 3, 8, 8).clamp(0, 1)


def normalised(values: Tensor) -> Tensor:
    return (values - torch.tensor(MEAN).view(-1, 1, 1)) / torch.tensor(STD).view(-1, 1, 1)


def test_i420_is_converted_by_the_equations_of_bt601(rows: Tensor) -> None:
    found = to_model_input({"rgb": rows}, I420)["rgb"]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), normalised(plain_rgb(rows)), rtol=0, atol=1e-5)


def test_i420_agrees_with_swscale() -> None:
    smooth = torch.rand(1, 96, 6, 6, generator=torch.Generator().manual_seed(2))
    row = (nn_functional.interpolate(smooth, size=(32, 32), mode="bicubic")[0, :48].reshape(-1) * 256).clamp(0, 255)
    for numbers in (row[: 32 * 48].to(torch.uint8), torch.arange(32 * 48).remainder(256).to(torch.uint8)):
        frame = VideoFrame.from_ndarray(numbers.numpy().reshape(48, 32), format="yuv420p")
        expected = frame.to_ndarray(format="rgb24", threads=1).astype(float)
        found = to_rgb(numbers[None], replace(I420["rgb"], size_px=32))[0].permute(1, 2, 0).numpy()
        assert np.abs(found - expected).max() <= 3


def test_clips_are_mirrored_one_by_one(rows: Tensor, frames: Tensor) -> None:
    flip = torch.tensor([True, False, True])
    for streams, preprocessing in (({"rgb": rows}, I420), ({"rgb": frames}, RGB)):
        plain = to_model_input(streams, preprocessing)["rgb"]
        found = to_model_input(streams, preprocessing, flip=flip)["rgb"]
        for clip, mirrored in enumerate(flip.tolist()):
            assert torch.equal(found[clip], plain[clip].flip(-1) if mirrored else plain[clip])


def test_colours_of_i420_change_as_those_of_its_rgb(rows: Tensor) -> None:
    found = to_model_input({"rgb": rows}, I420, colour=FACTORS)["rgb"]
    expected = normalised(change_colour(plain_rgb(rows).float(), FACTORS))
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


def test_it_does_not_matter_how_many_clips_are_converted_at_once(
    rows: Tensor, frames: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    for streams, preprocessing in (({"rgb": rows}, I420), ({"rgb": frames}, RGB)):
        found = []
        for numbers in (1, 2 * 2 * 3 * 8 * 8, 2**20):  # one clip, two, all
            monkeypatch.setattr(device, "_CACHE_NUMBERS", numbers)
            found.append(to_model_input(streams, preprocessing, colour=FACTORS)["rgb"])
        torch.testing.assert_close(found[0], found[1], rtol=0, atol=2e-6)
        torch.testing.assert_close(found[0], found[2], rtol=0, atol=2e-6)


def test_pictures_of_model_input(rows: Tensor, frames: Tensor) -> None:
    assert torch.equal(to_rgb(frames, RGB["rgb"]), frames)
    found = to_rgb(rows, I420["rgb"])
    assert found.dtype == torch.uint8
    assert (found - plain_rgb(rows) * 255).abs().max() <= 0.51


def test_no_clips_are_no_input(rows: Tensor, frames: Tensor) -> None:
    for some, preprocessing in ((rows, I420), (frames, RGB)):
        assert to_model_input({"rgb": some[:0]}, preprocessing)["rgb"].shape == (0, 2, 3, 8, 8)
