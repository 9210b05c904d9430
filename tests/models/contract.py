"""What every model keeps to, whichever its name and its parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tests.models.facts import MEAN, STD, TRAINING
from torch import Tensor, nn

from kinema.models.build import build_model
from kinema.models.load import load_model
from kinema.models.weights import WeightsConfig, save
from kinema.types import Heads, Inputs, InputShape, Motion, Preprocessing

ONE: Heads = {"action": ("open", "close", "push")}
THREE: Heads = {"verb": ("open", "close"), "noun": ("door", "box", "jar", "lid"), "hand": ("left", "right", "both")}

SEVERAL = {"two_stream", "two_stream_conv_lstm", "two_stream_cross_task"}
"""Models that see several streams: `test_two_stream.py` and `test_several_streams.py`."""


def shape(num_frames: int, size_px: int) -> Inputs:
    return {"rgb": InputShape(num_frames=num_frames, channels=3, height_px=size_px, width_px=size_px)}


def build(name: str, arguments: Mapping[str, Any], *, heads: Heads, num_frames: int, size_px: int = 32) -> nn.Module:
    torch.manual_seed(0)
    return build_model(name, arguments, heads=heads, inputs=shape(num_frames, size_px))


def clips(num: int, num_frames: int = 4, size_px: int = 32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(num_frames)
    return {"rgb": torch.randn(num, num_frames, 3, size_px, size_px, generator=generator)}


def backward(logits: dict[str, Tensor]) -> None:
    """One backward pass, of targets that go through the classes."""
    losses = [
        nn.functional.cross_entropy(values, torch.arange(len(values)) % values.shape[1]) for values in logits.values()
    ]
    torch.autograd.backward(torch.stack(losses).sum())


def check_answers(model: nn.Module, batch: dict[str, Tensor], heads: Heads) -> None:
    """A number for every class of every task."""
    logits = model.eval()(batch)
    assert list(logits) == list(heads)
    for task, names in heads.items():
        assert tuple(logits[task].shape) == (len(next(iter(batch.values()))), len(names)), task
        assert torch.isfinite(logits[task]).all(), task


def check_gradient(model: nn.Module, batch: dict[str, Tensor], *, but: tuple[str, ...] = ()) -> None:
    """It reaches every parameter that is trained, which in a new model are all, but exactly those whose names begin so.
    Not in the first step where a scale begins at 0, as in the residual blocks of timm: these begin elsewhere here."""
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.fill_(0.1)
    backward(model.train()(batch))
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad, name
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert bool(parameter.grad.abs().sum() > 0) != name.startswith(but), name


def check_half_precision(model: nn.Module, batch: dict[str, Tensor]) -> None:
    """As `trainer.precision: bf16` computes. A number of bf16 is off by 2^-9 of itself at most; after the hundred
    layers of the deepest network here, errors that fall to either side come to ten times as much, and what a
    classifier adds up may be some times larger than the sum. How large that is the largest logit of all tasks tells,
    whose classifiers see the same: in a task of two classes all may happen to be small. Gradients are of single
    precision, and finite."""
    model.eval()
    with torch.no_grad():
        exact = model(batch)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = model(batch)
    assert list(rounded) == list(exact)
    largest = max(logits.abs().max() for logits in exact.values())
    for task, logits in exact.items():
        assert torch.isfinite(rounded[task]).all()
        assert (rounded[task].float() - logits).abs().max() <= 0.05 * largest, task
    model.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(batch)
    backward({task: values.float() for task, values in logits.items()})
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.dtype == torch.float32, name
        assert torch.isfinite(parameter.grad).all(), name
    model.zero_grad()


def check_forward_makes_no_parameter_and_changes_none(model: nn.Module, batch: dict[str, Tensor]) -> None:
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    keys = list(model.state_dict())
    model.train()(batch)
    after = dict(model.named_parameters())
    assert before.keys() == after.keys()
    assert list(model.state_dict()) == keys
    assert all(torch.equal(before[name], after[name]) for name in before)


def check_evaluation(model: nn.Module, batch: dict[str, Tensor]) -> None:
    """Asked again it answers the same, and about each clip alone; and nothing of it changes."""
    model.eval()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.inference_mode():
        together, again = model(batch), model(batch)
        assert all(torch.equal(again[task], logits) for task, logits in together.items())
        for row in range(len(next(iter(batch.values())))):
            alone = model({stream: frames[row : row + 1] for stream, frames in batch.items()})
            for task, logits in together.items():
                torch.testing.assert_close(alone[task][0], logits[row], rtol=0, atol=1e-5)
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())


def check_round_trip(
    model: nn.Module, batch: dict[str, Tensor], folder: Path, *, name: str, arguments: Mapping[str, Any], heads: Heads
) -> None:
    """Saved and loaded it says the same, to the bit."""
    model.train()(batch)  # so that batch norm's statistics are not those of a new model
    config = WeightsConfig(
        model=name,
        arguments=arguments,
        heads=heads,
        preprocessing={stream: preprocessing(stream, frames) for stream, frames in batch.items()},
    )
    save(folder, model.state_dict(), config, TRAINING, card="# A model\n")
    loaded, loaded_config = load_model(folder)
    assert loaded_config == config
    assert not loaded.training
    with torch.inference_mode():
        expected, found = model.eval()(batch), loaded(batch)
    assert list(found) == list(expected) == list(heads)
    assert all(torch.equal(found[task], expected[task]) for task in heads)


def preprocessing(stream: str, frames: Tensor) -> Preprocessing:
    """That gives such frames."""
    size_px = frames.shape[-1]
    rgb = Preprocessing(num_frames=frames.shape[1], size_px=size_px, resize_px=size_px, fit="crop", mean=MEAN, std=STD)
    if stream == "rgb":
        return rgb
    motion = Motion(stack=frames.shape[2] // 2, interval_s=1 / 30, method="dis", bound_px=20.0)
    channels = frames.shape[2]
    return replace(rgb, modality="flow", motion=motion, mean=(0.5,) * channels, std=(0.25,) * channels)
