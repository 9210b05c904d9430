"""In 16 bits, what would suffer from it stays in fp32."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch import nn

from kinema.data.loading import ClipReader
from kinema.models import runtime
from kinema.models.runtime import precision
from kinema.sections import Recipe
from kinema.training import fitting, losses
from kinema.training import train as train_module
from kinema.training.prepare import prepare
from kinema.training.run_folder import create_run
from kinema.training.train import train
from kinema.types import DataError

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_batch_norm_computes_in_fp32(device: str, dtype: torch.dtype) -> None:
    """Its statistics are those of fp32: a mean over 40,000 values of about 300 would overflow or stall in 16 bits."""
    values = (300 + torch.randn(40, 4, 32, 32, generator=torch.Generator().manual_seed(0))).to(device, dtype)
    norm, exact = nn.BatchNorm2d(4).to(device), nn.BatchNorm2d(4).to(device)
    with torch.autocast(device, dtype=dtype):
        answer = norm(values)
    expected = exact(values.float())
    assert norm.running_mean is not None
    assert norm.running_mean.dtype == norm.weight.dtype == torch.float32
    torch.testing.assert_close(norm.running_mean, exact.running_mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(norm.running_var, exact.running_var, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(answer.float(), expected, rtol=1e-2, atol=1e-2)  # rounded once, at the end


def test_weights_and_the_loss_stay_in_fp32(recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[torch.dtype, bool]] = []
    computed = F.cross_entropy

    def watched(values: torch.Tensor, *arguments: Any, **named: Any) -> torch.Tensor:
        loss = computed(values, *arguments, **named)
        seen.append((values.dtype, loss.dtype == torch.float32))
        return loss

    monkeypatch.setattr(losses.F, "cross_entropy", watched)
    inside: set[torch.dtype] = set()
    made = recipe("trainer={epochs: 1, select: last, accelerator: cpu, precision: bf16}")
    prepared = prepare(made)
    for part in prepared.model.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            part.register_forward_hook(lambda _part, _inputs, output: inside.add(output.dtype))
    train(prepared, create_run(made))
    assert torch.bfloat16 in inside
    assert set(seen) == {(torch.float32, True)}
    assert {value.dtype for value in prepared.model.state_dict().values()} <= {torch.float32, torch.int64}


@pytest.mark.parametrize(
    ("name", "has", "device", "expected", "reason"),
    [
        ("auto", True, "cuda", "bf16", "A has instructions for it"),
        ("auto", False, "cuda", "fp16", "A has no instructions for bf16"),
        ("auto", True, "cpu", "bf16", "A has instructions for it"),
        ("auto", False, "cpu", "fp32", "A has no instructions for bf16"),
        ("fp32", True, "cuda", "fp32", "bf16 would be faster here"),
        ("fp32", False, "cpu", "fp32", "as set"),
        ("bf16", False, "cpu", "bf16", "makes it slow"),
        ("fp16", False, "cuda", "fp16", "gradients are scaled"),
    ],
)
def test_precision_is_chosen_with_a_reason(
    monkeypatch: pytest.MonkeyPatch, name: str, has: bool, device: str, expected: str, reason: str
) -> None:
    monkeypatch.setattr(runtime, "has_bf16", lambda _device: (has, "A"))
    found, why = precision(name, torch.device(device))
    assert found == expected
    assert reason in why


def _train_in_fp16(made: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """With scaled gradients on a CPU, which recipes are refused and Lightning would do in bf16."""

    def trainer(**settings: Any) -> Trainer:
        plugins = [*settings.pop("plugins"), MixedPrecision("16-mixed", "cpu")]
        return Trainer(**{**settings, "precision": None}, plugins=plugins)

    monkeypatch.setattr(fitting, "Trainer", trainer)
    monkeypatch.setattr(train_module, "precision", lambda _name, _device: ("fp16", "to be tested"))
    train(prepare(made), create_run(made))


def _steps(monkeypatch: pytest.MonkeyPatch) -> list[list[torch.Tensor]]:
    """Gets the gradients of each step that the optimiser does."""
    found: list[list[torch.Tensor]] = []
    step = torch.optim.AdamW.step

    def watched(self: Any, closure: Any = None) -> Any:
        answer = None if closure is None else closure()
        held = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        found.append([grad.flatten().clone() for grad in held])
        step(self)
        return answer

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    return found


@pytest.mark.parametrize(("broken", "num_steps"), [((), 2), ((3,), 2), ((2,), 2), ((2, 3), 1)])
def test_a_batch_that_cannot_be_read_takes_no_others_with_it_in_fp16(
    recipe: Callable[..., Recipe],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    broken: tuple[int, ...],
    num_steps: int,
) -> None:
    """Two steps of two batches of four clips: what could be read is learned from, as in fp32. Of a step without a clip
    nothing is."""
    order = np.arange(16)
    np.random.default_rng([0, 0]).shuffle(order)
    lost = {int(index) for batch in broken for index in order[4 * batch : 4 * batch + 4]}
    read = ClipReader.read

    def reads(self: ClipReader, index: int, epoch: int, out: Any) -> Any:
        if self.augmentation is not None and index in lost:
            raise DataError("it broke")
        return read(self, index, epoch, out)

    monkeypatch.setattr(ClipReader, "read", reads)
    settings = ("trainer.epochs=1", "clips.batch_size=4", "optim.accumulate=2", "optim.clip_norm=null")
    made = recipe(*settings, "model.dropout=0")
    steps = _steps(monkeypatch)
    train(prepare(made), create_run(made))
    of_fp32 = [torch.cat(gradients) for gradients in steps if gradients]
    steps.clear()
    _train_in_fp16(made.model_copy(update={"output": tmp_path / "fp16"}), monkeypatch)
    of_fp16 = [torch.cat(gradients) for gradients in steps if gradients]
    assert len(of_fp32) == len(of_fp16) == num_steps
    for ours, theirs in zip(of_fp16, of_fp32, strict=True):
        assert torch.cosine_similarity(ours, theirs, dim=0) > 0.95
        assert float(ours.norm() / theirs.norm()) == pytest.approx(1, rel=0.1)


def test_the_choice_is_said(recipe: Callable[..., Recipe], caplog: pytest.LogCaptureFixture, monkeypatch: Any) -> None:
    monkeypatch.setattr(logging.getLogger("kinema"), "propagate", True)
    caplog.set_level(logging.INFO, logger="kinema")
    monkeypatch.setattr(runtime, "has_bf16", lambda _device: (False, "A"))
    made = recipe("trainer={epochs: 1, select: last, accelerator: cpu, precision: auto}")
    train(prepare(made), create_run(made))
    assert "precision: fp32 on cpu (A has no instructions for bf16)" in caplog.text
    assert "channels last (its convolutions gain on a CPU); " in caplog.text
    assert "not compiled (trainer.runtime.compile: off)" in caplog.text
