"""What is computed faster stays the same."""

from __future__ import annotations

import copy
import logging
import platform
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.video import r2plus1d_18

from kinema.models import runtime as runtime_module
from kinema.models.cnn_lstm import cnn_lstm
from kinema.models.frame_model import FrameModel
from kinema.models.layers.fold import count_batch_norms, fold, same
from kinema.models.runtime import arithmetic, describe, faster, keep_memory, micro_batch, predictions_agree, set_up
from kinema.sections import RuntimeSection
from kinema.types import InputShape

CPU = torch.device("cpu")


def with_statistics(model: nn.Module) -> nn.Module:
    """As if it had been trained."""
    for part in model.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            assert part.running_mean is not None
            assert part.running_var is not None
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 2)
    return model


def small_model() -> FrameModel:
    torch.manual_seed(0)
    shape = InputShape(num_frames=3, channels=3, height_px=32, width_px=32)
    model = cnn_lstm({"action": ("a", "b", "c")}, {"rgb": shape}, backbone="tiny", hidden_size=8)
    assert isinstance(model, FrameModel)
    with_statistics(model)
    return model


class Branches(nn.Module):
    """A convolution whose answer is also used without its batch norm, one whose order of listing misleads, one that is
    called twice, and one that is followed by nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.used_twice = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.other_norm = nn.BatchNorm2d(4)
        self.misleading = nn.Conv2d(4, 4, 3, padding=1)
        self.shared = nn.Conv2d(4, 4, 1)
        self.shared_norm = nn.BatchNorm2d(4)
        self.plain = nn.Conv2d(4, 4, 1, bias=False)
        self.plain_norm = nn.BatchNorm2d(4)

    def forward(self, frames: Tensor) -> Tensor:
        values = self.used_twice(frames)
        values = values + self.norm(values)
        values = self.misleading(self.other_norm(values).relu())
        values = self.shared_norm(self.shared(values))
        values = self.shared_norm(self.shared(values))
        folded: Tensor = self.plain_norm(self.plain(values))
        return folded


def test_only_what_is_certain_is_folded() -> None:
    torch.manual_seed(0)
    model = with_statistics(Branches()).eval()
    folded = fold(model)
    frames = torch.randn(2, 3, 8, 8)
    assert count_batch_norms(model) == 4
    assert count_batch_norms(folded) == 3
    torch.testing.assert_close(folded(frames), model(frames), rtol=1e-4, atol=1e-5)


class Decides(nn.Module):
    """What way is taken depends on numbers: it cannot be traced, its parts can."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())

    def forward(self, frames: Tensor) -> Tensor:
        values: Tensor = self.part(frames)
        return values * 2 if values.sum() > 0 else values


def test_parts_are_folded_where_the_whole_cannot_be_traced() -> None:
    model = with_statistics(Decides()).eval()
    folded = fold(model)
    frames = torch.randn(2, 3, 8, 8)
    assert count_batch_norms(folded) == 0
    torch.testing.assert_close(folded(frames), model(frames), rtol=1e-4, atol=1e-5)


class Peeks(nn.Module):
    """Uses its parts in a way that folding them would change."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))

    def forward(self, frames: Tensor) -> Tensor:
        mean = self.part[1].get_buffer("running_mean")
        return self.part(frames) * 2 if bool(frames.sum() == 12345) else self.part(frames) + mean.sum()


def test_a_model_that_would_not_answer_the_same_is_left_alone() -> None:
    model = with_statistics(Peeks()).eval()
    frames = torch.randn(2, 3, 8, 8)
    quick = faster(model, inputs=frames)
    assert count_batch_norms(quick) == 1
    torch.testing.assert_close(quick(frames), model(frames), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "settings", [{}, {"fold": False}, {"channels_last": "off"}, {"micro_batch": 2}, {"compile": "auto"}]
)
def test_a_faster_copy_answers_the_same(settings: dict[str, Any]) -> None:
    model = small_model().train()
    before = copy.deepcopy(model.state_dict())
    inputs = {"rgb": torch.randn(2, 3, 3, 32, 32)}
    quick = faster(model, RuntimeSection(**settings), inputs)
    assert not quick.training
    assert isinstance(quick, FrameModel)
    assert model.training
    assert not model.backbone.frozen
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with torch.inference_mode():
        expected = model.eval()(inputs)["action"]
        torch.testing.assert_close(quick(inputs)["action"], expected, rtol=1e-4, atol=1e-5)
    # A batch norm behind a linear layer stays.
    assert count_batch_norms(quick) == (5 if settings.get("fold") is False else 1)


def test_a_network_of_three_dimensions() -> None:
    torch.manual_seed(0)
    model = with_statistics(r2plus1d_18(weights=None)).eval()
    frames = torch.randn(1, 3, 4, 32, 32)
    quick = faster(model, inputs=frames)
    assert count_batch_norms(quick) == 0
    weights = [part.weight for part in quick.modules() if isinstance(part, nn.Conv3d)]
    assert all(weight.is_contiguous(memory_format=torch.channels_last_3d) for weight in weights)
    with torch.inference_mode():
        assert same(model(frames), quick(frames))


def test_setting_up_keeps_values_names_and_gradients() -> None:
    model = r2plus1d_18(weights=None)
    before = copy.deepcopy(model.state_dict())
    set_up(model, RuntimeSection(), CPU)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model(torch.randn(2, 3, 4, 32, 32)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this C library is not glibc")
def test_memory_is_kept() -> None:
    assert keep_memory()
    # A block of 64 MB comes from the heap, which stays as it is when the block is freed.
    script = (
        "import resource, sys, torch; from kinema.models.runtime import keep_memory\n"
        "keeps = sys.argv[1] == 'keep'\n"
        "if keeps: assert keep_memory()\n"
        "torch.set_num_threads(1)\n"
        # The heap may have to grow some more times before the same place is used again.
        "for _ in range(24 * keeps): torch.ones(2**24)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(4): torch.ones(2**24)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)"
    )
    numbers = {}
    for name in ("keep", "give"):
        done = subprocess.run([sys.executable, "-c", script, name], capture_output=True, text=True, check=True)
        numbers[name] = int(done.stdout)
    assert numbers["keep"] < numbers["give"] / 64


def test_memory_is_not_touched_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.libc_ver", lambda: ("musl", "1"))
    assert not keep_memory.__wrapped__()
    monkeypatch.setattr("sys.platform", "darwin")
    assert not keep_memory.__wrapped__()


def test_bf16_only_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def capabilities(**features: Any) -> None:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"cpu_name": "A processor", **features})

    capabilities(avx512_f=True, avx512_bf16=False)
    assert arithmetic(RuntimeSection(), CPU) == ("fp32", "")
    assert arithmetic(RuntimeSection(features="auto"), CPU) == (
        "fp32",
        "A processor has no instructions for bf16",
    )
    assert arithmetic(RuntimeSection(features="bf16"), CPU)[0] == "bf16"
    capabilities(avx512_f=True, avx512_bf16=True)
    assert arithmetic(RuntimeSection(features="auto"), CPU) == ("bf16", "")
    assert arithmetic(RuntimeSection(), CPU) == ("fp32", "")


def test_agreement_of_predictions() -> None:
    torch.manual_seed(0)
    labels = torch.arange(200) % 4
    exact = torch.randn(4, 64)[labels] + 0.5 * torch.randn(200, 64)
    assert predictions_agree(exact, exact, labels) == 1
    assert predictions_agree(exact, exact + 1e-3 * torch.randn_like(exact), labels) >= 0.995
    assert predictions_agree(exact, exact + 10 * torch.randn_like(exact), labels) < 0.9
    assert predictions_agree(exact, exact.roll(1, dims=0), labels) < 0.1


def test_what_is_done_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    model = small_model()
    assert "batch norm folded in evaluation; channels last" in describe(model, RuntimeSection(), CPU)
    model.backbone.freeze()
    said = describe(model, RuntimeSection(fold=False, channels_last="off", keep_memory=False), CPU)
    assert said == "freed memory given back; features in fp32; not compiled (trainer.runtime.compile: off)"
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    assert "; threads that wait sleep; not compiled" in describe(small_model(), RuntimeSection(), CPU)
    assert micro_batch(RuntimeSection(), CPU, num_clips=16) == 1
    assert micro_batch(RuntimeSection(micro_batch=4), CPU, num_clips=16) == 4
    assert micro_batch(RuntimeSection(), torch.device("cuda"), num_clips=16) == 16


def test_a_compiler_that_fails_is_done_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_arguments: Any, **_named: Any) -> None:
        raise RuntimeError("no C++ compiler\nat all")

    monkeypatch.setattr(logging.getLogger("kinema"), "propagate", True)
    monkeypatch.setattr(nn.Module, "compile", broken)
    inputs = {"rgb": torch.randn(1, 3, 3, 32, 32)}
    quick = faster(small_model(), RuntimeSection(compile="on"), inputs)
    assert "torch.compile is not used, it failed: no C++ compiler" in caplog.text
    assert quick(inputs)["action"].shape == (1, 3)


@pytest.mark.parametrize(("seconds", "wins"), [((1.0, 0.95), False), ((1.0, 0.5), True)])
def test_compiling_has_to_win(monkeypatch: pytest.MonkeyPatch, seconds: tuple[float, float], wins: bool) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled.append(self))
    answers = iter(seconds)
    monkeypatch.setattr(runtime_module, "_seconds", lambda _function: next(answers))
    inputs = {"rgb": torch.randn(1, 3, 3, 32, 32)}
    model = small_model()
    assert faster(model, RuntimeSection(compile="auto"), inputs) is not None
    assert not compiled  # for work that is short, it is not even tried
    quick = faster(model, RuntimeSection(compile="auto"), inputs, expected_s=1e4)
    assert (quick is compiled[0]) == wins
