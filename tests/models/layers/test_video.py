"""Clip backbones."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from kinema.models.layers.video import ClipBackbone


def gradients(backbone: ClipBackbone, clips: Tensor, *, half: bool) -> list[Tensor]:
    backbone.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        maps = backbone(clips)
    garbage = [torch.full((num,), float("nan")) for num in (10_000, 100_000, 1_000_000)]
    del garbage  # what is not written to from now on is not a number
    torch.manual_seed(1)
    maps.float().backward(torch.randn(maps.shape))
    return [parameter.grad.clone() for parameter in backbone.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("num_frames", [1, 2, 3, 4])
@pytest.mark.parametrize("kernel", [(3, 3, 3), (3, 1, 1), (1, 3, 3)])
def test_gradients_in_half_precision_are_those_in_single(num_frames: int, kernel: tuple[int, int, int]) -> None:
    """On a CPU, torch's own are not, for two frames."""
    torch.manual_seed(0)
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    convolution = nn.Conv3d(16, 32, kernel, padding=padding)
    backbone = ClipBackbone(nn.Sequential(convolution), 32, name="made up")
    clips = torch.randn(3, 16, num_frames, 8, 8)
    exact, found = gradients(backbone, clips, half=False), gradients(backbone, clips, half=True)
    assert len(exact) == len(found) == 2
    for one, other in zip(found, exact, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0.02 * float(other.abs().max()))


def test_a_copy_convolves_with_its_own_weights() -> None:
    backbone = ClipBackbone(nn.Sequential(nn.Conv3d(3, 4, 3)), 4, name="made up")
    clips = torch.randn(1, 3, 4, 5, 5)
    for other in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):
        with torch.no_grad():
            torch.testing.assert_close(other(clips), backbone(clips))
            for parameter in other.parameters():
                parameter.zero_()
            assert not other(clips).any()
            assert backbone(clips).any()
