"""The same, computed faster: what does not change what a model answers by more than rounding.

Each measure is a setting of `trainer.runtime`, chosen by itself where the recipe does not say, and named in one line by
`describe`. Nothing here is chosen by how long something takes, except `compile: auto`: a run that is done again, or
resumed, computes in the same way, to the last bit.
"""

from __future__ import annotations

import copy
import ctypes
import functools
import gc
import logging
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kinema.models.frame_model import FrameModel
from kinema.models.layers.backbone import Arithmetic, FrameBackbone
from kinema.models.layers.fold import channels_last, count_batch_norms, fold, same
from kinema.sections import RuntimeSection

log = logging.getLogger(__name__)

Inputs = Tensor | Mapping[str, Tensor]

AGREEMENT = 0.995
"""Share of clips on which faster arithmetic has to predict what fp32 predicts."""

_COMPILE_SECONDS = 60.0
"""What compiling is taken to cost: a computation has to be expected to save more than that."""

_COMPILE_GAIN = 1.1

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_TOP_PAD_BYTES = 64 * 2**20


@functools.cache
def keep_memory() -> bool:
    """Let this process keep the memory that it frees, for the next step.

    By default glibc gives large blocks back to the system at once, and every step fetches its activations again, page
    by page. Nothing happens where the C library is another. The processes forked from here do as this one does.

    Returns:
        Whether it does now.
    """
    libc = _glibc()
    if libc is None:
        return False
    settings = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: _TOP_PAD_BYTES}
    done = [libc.mallopt(name, value) == 1 for name, value in settings.items()]
    return all(done)


def give_back_memory() -> None:
    """Let the system have what this process has freed and kept, be it after `keep_memory` or before. Nothing happens
    where the C library is not glibc."""
    gc.collect()
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def _glibc() -> Any:
    """The C library where it is glibc, None elsewhere."""
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return None
    try:
        libc = ctypes.CDLL(None)
        return libc if libc.mallopt and libc.malloc_trim else None
    except (OSError, AttributeError):
        return None


def set_up(model: nn.Module, runtime: RuntimeSection, device: torch.device) -> None:
    """Make a model, in place, that is trained compute faster: its memory format, and all that its frozen part can do.

    Args:
        model: On `device`. Its parameters, their names and values stay what they are.
        runtime: What may be done.
        device: Where it computes.
    """
    if runtime.keep_memory and device.type == "cpu":
        keep_memory()
    if uses_channels_last(model, runtime, device):
        channels_last(model)
    for part in model.modules():
        if isinstance(part, FrameBackbone):
            part.folds = runtime.fold
            part.micro_batch = runtime.micro_batch


def faster(
    model: nn.Module,
    runtime: RuntimeSection | None = None,
    inputs: Inputs | None = None,
    *,
    expected_s: float = 0.0,
    num_calls: int = 0,
) -> nn.Module:
    """A copy of a model for use: in evaluation mode, with folded batch norm, channels last, compiled where that pays.

    Args:
        model: Not changed.
        runtime: What may be done; by default what a recipe that says nothing asks for.
        inputs: An example of what it will be given, on its device. With one it is seen to that the copy answers as the
            model does, to 1e-4 of the largest number; where it does not, batch norm is not folded.
        expected_s: How long the copy will be used for, for `compile: auto`; or
        num_calls: how often it will be called on as much as `inputs`: how long one call takes is then measured.

    Example:
        >>> network = torchvision.models.resnet18()  # doctest: +SKIP
        >>> features = faster(network, inputs=frames[:1])(frames)  # doctest: +SKIP
    """
    runtime = runtime or RuntimeSection()
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    plain = copy.deepcopy(model).eval()
    for part in plain.modules():
        if isinstance(part, FrameBackbone):
            part.freeze()
            part.arithmetic = "fp32"
    quick = plain
    if runtime.fold and count_batch_norms(plain):
        quick = fold(plain, keep=(FrameModel, FrameBackbone))
        if inputs is not None and not _agree(plain, quick, inputs):
            log.debug("batch norm is not folded: the answers would not stay the same")
            quick = plain
    set_up(quick, runtime.model_copy(update={"fold": False}), device)
    if runtime.compile == "off" or inputs is None:
        return quick
    if runtime.compile == "auto" and num_calls:
        with torch.inference_mode():
            expected_s = num_calls * _seconds(lambda: quick(inputs))
    return _compiled(quick, runtime, inputs, expected_s)


def compile_for_training(
    model: nn.Module, runtime: RuntimeSection, inputs: Inputs, *, num_steps: int, autocast: torch.dtype | None = None
) -> bool:
    """Compile a model, in place, for training, where that was asked for, or pays for so many steps. Parameters, their
    names and values stay what they are. It is tried on copies, and logged.

    Args:
        model: On its device.
        runtime: Its `compile` says what may be done.
        inputs: A batch of the size of training.
        num_steps: Of training.
        autocast: Type of mixed precision, if it is trained so.

    Returns:
        Whether it is compiled now.
    """
    if runtime.compile == "off":
        return False
    device = next(model.parameters()).device
    plain, candidate = copy.deepcopy(model), copy.deepcopy(model)

    def step(part: nn.Module) -> Any:
        with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
            answer = part(inputs)
        values = answer.values() if isinstance(answer, Mapping) else [answer]
        torch.autograd.backward(torch.stack([value.float().square().mean() for value in values]).sum())
        part.zero_grad()
        return answer

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        before_s = _seconds(lambda: step(plain.train()))
        if runtime.compile == "auto" and num_steps * before_s * (1 - 1 / _COMPILE_GAIN) < _COMPILE_SECONDS:
            log.info("torch.compile is not used: %d steps of %.1f ms are too few", num_steps, 1e3 * before_s)
            return False
        plain = copy.deepcopy(model).eval()
        try:
            candidate.compile()
            with torch.no_grad():
                agrees = same(plain(inputs), candidate.eval()(inputs))
            after_s = _seconds(lambda: step(candidate.train()))
        except Exception as error:  # noqa: BLE001 - whatever a compiler raises, the model runs without it
            log.warning("torch.compile is not used, it failed: %s", (str(error).splitlines() or [""])[0][:200])
            return False
    if not _wins(runtime, agrees, before_s, after_s):
        return False
    model.compile()
    return True


def micro_batch(runtime: RuntimeSection, device: torch.device, *, num_clips: int) -> int:
    """Clips that a model takes at once in evaluation. On a CPU one: what fits its caches is faster than what is many,
    and takes a fraction of the memory."""
    return runtime.micro_batch or (1 if device.type == "cpu" else max(1, num_clips))


def describe(model: nn.Module, runtime: RuntimeSection, device: torch.device) -> str:
    """One line that says what is done."""
    frozen = any(isinstance(part, FrameBackbone) and part.frozen for part in model.modules())
    said = []
    if runtime.fold:
        said.append(f"batch norm folded in {'the frozen backbone and in ' if frozen else ''}evaluation")
    if uses_channels_last(model, runtime, device):
        why = "as set" if runtime.channels_last == "on" else f"its convolutions gain on a {_kind(device)}"
        said.append(f"channels last ({why})")
    if device.type == "cpu":
        kept = runtime.keep_memory and keep_memory()
        said.append("freed memory kept" if kept else "freed memory given back")
        if os.environ.get("OMP_WAIT_POLICY", "").lower() == "passive":
            said.append("threads that wait sleep")
    if frozen:
        name, why = arithmetic(runtime, device)
        said.append(f"features in {name}{f' ({why})' if why else ''}")
    said.append(
        {
            "off": "not compiled (trainer.runtime.compile: off)",
            "on": "compiled (as set)",
            "auto": "compiled where it pays",
        }[runtime.compile]
    )
    return "; ".join(said)


def precision(name: str, device: torch.device) -> tuple[Literal["fp32", "bf16", "fp16"], str]:
    """Arithmetic of training: what `trainer.precision` comes to on a device, and why, in words."""
    has, called = has_bf16(device)
    kept = "weights, batch norm and the softmax of the loss stay in fp32"
    if name == "auto" and has:
        return "bf16", f"{called} has instructions for it; {kept}"
    if name == "auto" and device.type == "cuda":
        return "fp16", f"{called} has no instructions for bf16; {kept}, and gradients are scaled"
    if name == "auto":
        return "fp32", f"{called} has no instructions for bf16"
    if name == "bf16":
        slow = "" if has else f"; {called} has no instructions for it, which makes it slow"
        return "bf16", f"as set{slow}; {kept}"
    if name == "fp16":
        return "fp16", f"as set; {kept}, and gradients are scaled"
    faster_one = "; bf16 would be faster here: trainer.precision=auto" if has and device.type == "cuda" else ""
    return "fp32", f"as set{faster_one}"


def _kind(device: torch.device) -> str:
    return "GPU" if device.type == "cuda" else "CPU"


def uses_channels_last(model: nn.Module, runtime: RuntimeSection, device: torch.device) -> bool:
    """`auto`: always on a CPU, where convolutions of two dimensions and of three gain; on a GPU those of two."""
    convolutions = {part.weight.ndim for part in model.modules() if isinstance(part, nn.Conv2d | nn.Conv3d)}
    if not convolutions or runtime.channels_last != "auto":
        return bool(convolutions) and runtime.channels_last == "on"
    return device.type == "cpu" or 5 not in convolutions


def arithmetic(runtime: RuntimeSection, device: torch.device) -> tuple[Arithmetic, str]:
    """What a frozen backbone may compute in, before it was checked, and why, where that needs a word."""
    if runtime.features in ("fp32", "int8"):
        return runtime.features, ""
    has, name = has_bf16(device)
    if has:
        return "bf16", ""
    if runtime.features == "bf16":
        return "bf16", f"{name} has no instructions for it, which makes it slow"
    return "fp32", f"{name} has no instructions for bf16"


def has_bf16(device: torch.device) -> tuple[bool, str]:
    """Whether a device computes in bf16 faster than in fp32, and what it is called."""
    if device.type == "cuda":
        # Turing says that it supports bf16, and emulates it.
        return torch.cuda.get_device_capability(device) >= (8, 0), torch.cuda.get_device_name(device)
    features: Mapping[str, Any] = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    # oneDNN says that it supports bf16 wherever it can emulate it, which is slower than fp32.
    has = any(bool(features.get(name)) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16", "arm_bf16"))
    return has, str(features.get("cpu_name", "this processor"))


def predictions_agree(exact: Float[Tensor, "N D"], rounded: Float[Tensor, "N D"], labels: Tensor) -> float:
    """Share of clips of which a classifier, fitted to the exact features of other clips, predicts the same from both.

    Two ridge regressions, each fitted to one half of the clips and asked about the other: a classifier would hardly be
    moved on clips that it knows by heart.

    Args:
        exact: A feature of each clip, in fp32.
        rounded: The same in other arithmetic.
        labels: (N,) class indices.
    """
    exact, rounded = exact.double(), rounded.double()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    halves = order[0::2], order[1::2]
    agreed = 0
    for known, asked in (halves, halves[::-1]):
        mean, std = exact[known].mean(dim=0), exact[known].std(dim=0, correction=0).clamp_min(1e-6)
        given = (exact[known] - mean) / std
        targets = nn.functional.one_hot(labels[known], int(labels.max()) + 1).double()
        # In its dual form: there are fewer clips than features.
        kernel = given @ given.T + given.shape[1] * torch.eye(len(known), dtype=given.dtype, device=given.device)
        weights = given.T @ torch.linalg.solve(kernel, targets - targets.mean(dim=0))
        offset = targets.mean(dim=0)
        said = [(((values[asked] - mean) / std) @ weights + offset).argmax(dim=1) for values in (exact, rounded)]
        agreed += int((said[0] == said[1]).sum())
    return agreed / len(labels)


def _agree(one: nn.Module, other: nn.Module, inputs: Inputs) -> bool:
    with torch.inference_mode():
        try:
            return same(one(inputs), other(inputs))
        except (RuntimeError, TypeError, ValueError, AttributeError, LookupError, NotImplementedError) as error:
            log.debug("a folded model does not run: %s", (str(error).splitlines() or [""])[0])
            return False


def _compiled(model: nn.Module, runtime: RuntimeSection, inputs: Inputs, expected_s: float) -> nn.Module:
    """The model, compiled where that was asked for, or wins a short comparison on these inputs by more than 10 % and
    more than it costs. What it costs and gains is logged."""
    if runtime.compile == "auto" and expected_s * (1 - 1 / _COMPILE_GAIN) < _COMPILE_SECONDS:
        return model
    candidate = copy.deepcopy(model)
    try:
        candidate.compile()
        with torch.inference_mode():
            agrees = same(model(inputs), candidate(inputs))  # the first call compiles
            before_s, after_s = _seconds(lambda: model(inputs)), _seconds(lambda: candidate(inputs))
    except Exception as error:  # noqa: BLE001 - whatever a compiler raises, the model runs without it
        log.warning("torch.compile is not used, it failed: %s", (str(error).splitlines() or [""])[0][:200])
        return model
    return candidate if _wins(runtime, agrees, before_s, after_s) else model


def _wins(runtime: RuntimeSection, agrees: bool, before_s: float, after_s: float) -> bool:
    if not agrees:
        log.warning("torch.compile is not used: the answers would not stay the same")
        return False
    if runtime.compile == "auto" and before_s < _COMPILE_GAIN * after_s:
        log.info("torch.compile is not used: %.1f ms with it, %.1f ms without", 1e3 * after_s, 1e3 * before_s)
        return False
    log.info("torch.compile: %.1f ms instead of %.1f ms", 1e3 * after_s, 1e3 * before_s)
    return True


def _seconds(function: Callable[[], Any], *, times: int = 3) -> float:
    """The fastest of some calls."""
    found = []
    for _ in range(times):
        begin_s = time.perf_counter()
        answer = function()
        first = next(iter(answer.values())) if isinstance(answer, Mapping) else answer
        if first.device.type == "cuda":
            torch.cuda.synchronize(first.device)
        found.append(time.perf_counter() - begin_s)
    return min(found)
