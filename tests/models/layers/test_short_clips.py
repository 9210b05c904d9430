"""Convolutions over clips that are short beside the kernel: right gradients, and no memory of others written to."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kinema.models.layers.video import ClipBackbone


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("size_px", [1, 8])
def test_gradients_are_those_of_another_implementation(kernel: int, stride: int, size_px: int, precision: str) -> None:
    """In double precision, which oneDNN does not compute."""
    torch.manual_seed(0)
    padding = (kernel // 2, 1, 1)
    convolution = nn.Conv3d(32, 32, (kernel, 3, 3), stride=(stride, 1, 1), padding=padding, bias=True)
    body = nn.Sequential(convolution)
    backbone = ClipBackbone(
        body, 32, name="one", fetch=None, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), classifier=None
    )
    plain = nn.Conv3d(32, 32, (kernel, 3, 3), stride=(stride, 1, 1), padding=padding, bias=True)
    plain.load_state_dict(convolution.state_dict())
    plain.double()
    for num_frames in range(1, 10):
        clips = torch.randn(2, 32, num_frames, size_px, size_px)
        expected_clips, given = clips.double().requires_grad_(), clips.clone().requires_grad_()
        expected = plain(expected_clips)
        expected.square().mean().backward()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            found = backbone(given)
        found.float().square().mean().backward()
        share = 0.03 if precision == "bf16" else 1e-4
        for ours, theirs in (
            (found.float(), expected),
            (convolution.weight.grad, plain.weight.grad),
            (convolution.bias.grad, plain.bias.grad),  # type: ignore[union-attr]
            (given.grad, expected_clips.grad),
        ):
            assert ours is not None
            assert theirs is not None
            difference = (ours - theirs).abs().max().item()
            assert difference <= share * theirs.abs().max().item(), (num_frames, difference)
        convolution.zero_grad()
        plain.zero_grad()
