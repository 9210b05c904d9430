"""The part of the benchmarks that needs a GPU: clips/s, and the share of what its matrix multiplication reaches."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import computing
import pipeline
from kinema.data.device import to_model_input
from kinema.models.build import build_model
from kinema.types import Preprocessing


def rows(*, quick: bool, rounds: int) -> list[dict[str, Any]]:
    """R(2+1)D-18 step, ResNet-50 + LSTM step, MobileNetV2 features; frames as uint8 on the device at the start."""
    peak = matmul_peak(2048 if quick else 8192)
    small = pipeline.preprocessing(num_frames=16, size_px=112)
    large = pipeline.preprocessing(num_frames=16 if quick else 20, size_px=224)
    lstm = build_model("cnn_lstm", {"backbone": "resnet50"}, heads={"action": _names(101)}, inputs={"rgb": large.shape})
    frozen = computing.frozen_model(None, large.shape, heads={"action": _names(101)})
    computing.set_precision(frozen, "bf16")  # autocast is not for frozen backbones
    jobs: list[tuple[str, nn.Module, Callable[[Tensor], Tensor], Preprocessing, int, bool]] = []
    for name, network, call, wanted, batch, trains in (
        ("R(2+1)D-18 training step", computing.r2plus1d(), _three_dimensional, small, 32, True),
        ("ResNet-50 + LSTM training step", lstm.train(), _action, large, 16, True),
        ("MobileNetV2 features", frozen.eval(), _features, large, 32, False),
    ):
        module = network.cuda()
        format_ = torch.channels_last_3d if call is _three_dimensional else None
        if format_ is not None:
            module = module.to(memory_format=format_)
        jobs.append((name, module, _bound(call, module), wanted, 2 if quick else batch, trains))
    found = []
    for name, module, call_, wanted, batch, trains in jobs:
        seconds, flops = _measure(module, call_, wanted, batch, trains=trains, rounds=rounds)
        found.append(
            {
                "job": f"{name}, GPU, bf16, {batch} clips",
                "kinema": batch / seconds,
                "peer": batch * peak / flops,
                "peer_name": f"limit: its arithmetic at {peak / 1e12:.0f} TFLOP/s, a large matrix product in bf16",
                "ratio": flops / seconds / peak,
                "unit": "clips/s",
                "target": None,
                "limit": True,
            }
        )
    return found


def matmul_peak(size: int) -> float:
    """FLOP/s of a square matrix product in bf16."""
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * size**3 / statistics.median(_clock(lambda: a @ b) for _ in range(20))


def _measure(
    module: nn.Module,
    call: Callable[[Tensor], Tensor],
    wanted: Preprocessing,
    batch: int,
    *,
    trains: bool,
    rounds: int,
) -> tuple[float, float]:
    """Median seconds of a step, and its FLOPs."""
    shape = (batch, wanted.num_frames, *wanted.frame_shape)
    frames = torch.randint(0, 256, shape, dtype=torch.uint8, device="cuda")
    labels = torch.arange(batch, device="cuda") % 101
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=1e-4, fused=True) if trains else None

    def once() -> None:
        with torch.set_grad_enabled(trains), torch.autocast("cuda", dtype=torch.bfloat16):
            answer = call(to_model_input({"rgb": frames}, {"rgb": wanted})["rgb"])
            loss = nn.functional.cross_entropy(answer.float(), labels) if trains else None
        if loss is not None and optimiser is not None:
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimiser.step()

    with FlopCounterMode(display=False) as counter:
        once()
    for _ in range(5):
        once()
    seconds = [_clock(once) for _ in range(max(10, rounds))]
    return statistics.median(seconds), float(counter.get_total_flops())


def _clock(work: Callable[[], object]) -> float:
    event: Any = torch.cuda.Event
    begin, end = event(enable_timing=True), event(enable_timing=True)
    begin.record()
    work()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end)) / 1000


def _bound(call: Callable[[nn.Module, Tensor], Tensor], module: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda clips: call(module, clips)


def _three_dimensional(module: nn.Module, clips: Tensor) -> Tensor:
    return module(clips.transpose(1, 2).contiguous(memory_format=torch.channels_last_3d))


def _action(module: nn.Module, clips: Tensor) -> Tensor:
    return module({"rgb": clips})["action"]


def _features(module: nn.Module, clips: Tensor) -> Tensor:
    features: Any = module.features
    return features(clips)


def _names(num: int) -> tuple[str, ...]:
    return tuple(map(str, range(num)))
