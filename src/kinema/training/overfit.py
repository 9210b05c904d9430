"""Whether a model can learn a handful of clips by heart. One that cannot is broken, or its data are."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from kinema.data.device import to_model_input
from kinema.data.loading import ClipReader, EpochOrder, clip_loader
from kinema.models.frame_model import FrameModel
from kinema.models.runtime import set_up
from kinema.models.streams_model import StreamsModel, frame_models
from kinema.progress import SILENT, Reporter
from kinema.sections import TaskSection
from kinema.training.losses import auxiliary_loss, multi_task_loss
from kinema.training.optimisers import build_optimiser
from kinema.training.prepare import Prepared, compute_device
from kinema.types import Clip, DataError, UserError
from kinema.wording import percent

MOST_STEPS = 500
_LOOK_EVERY = 5
_TIMES = 2
"""It has to be right so many times on end: a few clips may be right by luck."""
_FALLS = 0.9
"""Of the loss half-way: below, it was still falling."""


@dataclass(kw_only=True)
class _Attempt:
    """How far it came."""

    losses: list[float]
    right_in_training: float = 0.0
    right: float = 0.0
    num_right: int = 0


def overfit(
    prepared: Prepared, num_clips: int, *, most_steps: int = MOST_STEPS, reporter: Reporter = SILENT
) -> dict[str, Any]:
    """Train on a few clips, of as many classes as they are or there are, until all are recognised.

    Without augmentation, dropout, label smoothing, weight decay, schedule, and whatever a recipe does about skew;
    optimiser and learning rate are those of the recipe. In fp32.

    Args:
        prepared: From `kinema.training.prepare`. Its model is not of use afterwards.
        num_clips: How many.
        most_steps: Of the optimiser.
        reporter: Where to show progress.

    Returns:
        Numbers of clips, classes and steps, and the last loss.

    Raises:
        UserError: They cannot be learned by heart; the message says what to look at.
        DataError: They cannot be read.
    """
    recipe, model = prepared.recipe, prepared.model
    device = compute_device(recipe.trainer)
    clips = some_clips(prepared.clips["train"], num_clips, task=next(iter(prepared.dataset.classes)))
    frames, labels = _read(prepared, clips, reporter)
    _check_distinct(frames, labels, clips)
    model.to(device).train()
    set_up(model, recipe.trainer.runtime, device)
    for part in model.modules():
        if isinstance(part, nn.Dropout | nn.Dropout1d | nn.Dropout2d | nn.Dropout3d | StochasticDepth):
            part.p = 0.0
        elif type(part).__name__ == "DropPath":  # timm and transformers have one each
            vars(part)["drop_prob"] = 0.0
    inputs = to_model_input({s: f.to(device) for s, f in frames.items()}, prepared.preprocessing)
    networks = frame_models(model, list(inputs)) or {}
    with_maps = len(networks) > 1 and any(network.takes_maps for network in networks.values())
    if networks and not with_maps and all(network.backbone.frozen for network in networks.values()):
        with torch.no_grad():
            inputs = {"features": torch.cat([networks[s].features(x) for s, x in inputs.items()], dim=2)}
    on_device = {task: values.to(device) for task, values in labels.items()}
    torch.manual_seed(recipe.trainer.seed)
    optim = recipe.optim.model_copy(update={"weight_decay": 0.0})
    later = [] if prepared.thaw is None else prepared.thaw.parameters
    optimiser = build_optimiser(model, optim, fused=False, later=later)
    attempt = _Attempt(losses=[])
    with reporter.track("learning by heart", total=most_steps, unit="steps") as task:
        for step in range(1, most_steps + 1):
            _step(model, optimiser, inputs, on_device, clip_norm=optim.clip_norm, attempt=attempt)
            facts = {"loss": f"{attempt.losses[-1]:.3f}", "top-1": percent(attempt.right_in_training)}
            task.advance(1, **facts)
            if not np.isfinite(attempt.losses[-1]):
                raise UserError(f"--overfit: the loss is {attempt.losses[-1]} in step {step}; lower optim.lr")
            if step % _LOOK_EVERY == 0 or attempt.right_in_training == 1:
                attempt.right = _accuracy(_evaluated(model, inputs), on_device)
                attempt.num_right = attempt.num_right + 1 if attempt.right == 1 else 0
                if attempt.num_right == _TIMES:
                    classes = {task: len(set(values.tolist())) for task, values in labels.items()}
                    return {"clips": len(clips), "classes": classes, "steps": step, "loss": attempt.losses[-1]}
    raise UserError(
        f"--overfit: top-1 {percent(attempt.right)} on {len(clips)} clips after {most_steps} steps, not 100 %: "
        f"{_reason(model, inputs, attempt, optim.lr)}"
    )


def some_clips(clips: list[Clip], number: int, *, task: str) -> list[Clip]:
    """The first clips of each class in turn, until there are enough."""
    of_class: dict[int, list[Clip]] = {}
    for clip in clips:
        of_class.setdefault(clip.labels[task], []).append(clip)
    places = ((position, label) for label, members in of_class.items() for position in range(len(members)))
    return [of_class[label][position] for position, label in sorted(places)][:number]


def _read(prepared: Prepared, clips: list[Clip], reporter: Reporter) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Frames and labels of the clips, as they are without augmentation."""
    section = prepared.recipe.clips
    reader = ClipReader(
        clips,
        prepared.videos,
        prepared.preprocessing,
        augmentation=None,
        seed=prepared.recipe.trainer.seed,
        decoder=section.decoder,
    )
    order = EpochOrder(len(clips), batch_size=len(clips), seed=None)
    with clip_loader(reader, order, workers=min(section.workers, len(clips))) as loader:
        (batch,) = loader
        if batch.failures:
            index, why = next(iter(batch.failures.items()))
            raise DataError(f"--overfit: {clips[index].clip_id} cannot be read: {why}")
        return (
            {stream: frames.clone() for stream, frames in batch.streams.items()},
            {task: values.clone() for task, values in batch.labels.items()},
        )


def _check_distinct(frames: Mapping[str, Tensor], labels: Mapping[str, Tensor], clips: list[Clip]) -> None:
    """Raises a UserError where two clips show the same and are called differently: nobody could learn that."""
    for first in range(len(clips)):
        for second in range(first):
            same = all(torch.equal(of_stream[first], of_stream[second]) for of_stream in frames.values())
            differ = [task for task, values in labels.items() if values[first] != values[second]]
            if same and differ:
                raise UserError(
                    f"--overfit: {clips[second].clip_id} and {clips[first].clip_id} show the same frames and have "
                    f"different labels ({', '.join(differ)}): the data are broken; look at their files and times"
                )


def _answer(model: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if "features" in inputs:
        assert isinstance(model, FrameModel | StreamsModel)
        return model.classify(inputs["features"])
    found: dict[str, Tensor] = model(inputs)
    return found


def _evaluated(model: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    model.eval()
    with torch.no_grad():
        found = _answer(model, inputs)
    model.train()
    return found


def _step(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    inputs: Mapping[str, Tensor],
    labels: Mapping[str, Tensor],
    *,
    clip_norm: float | None,
    attempt: _Attempt,
) -> None:
    optimiser.zero_grad()
    logits = _answer(model, inputs)
    loss = multi_task_loss(logits, labels, TaskSection())
    own = auxiliary_loss(model, inputs)
    loss = loss if own is None else loss + own
    torch.autograd.backward(loss)
    if clip_norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    optimiser.step()
    attempt.losses.append(loss.item())
    attempt.right_in_training = _accuracy(logits, labels)


def _accuracy(logits: Mapping[str, Tensor], labels: Mapping[str, Tensor]) -> float:
    """Right in all tasks at once."""
    right = torch.stack([values.argmax(dim=1) == labels[task] for task, values in logits.items()]).all(dim=0)
    return float(right.float().mean())


def _reason(model: nn.Module, inputs: Mapping[str, Tensor], attempt: _Attempt, lr: float) -> str:
    """What to look at."""
    without = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    if without:
        return f"the model is broken: no gradient reaches {', '.join(without[:3])}"
    if attempt.right_in_training == 1:
        return (
            "all are right in training and not in evaluation: batch norm or something else does otherwise there; take "
            "more clips, or freeze what has batch norm"
        )
    with torch.no_grad():
        answers = torch.cat([*_answer(copy.deepcopy(model).eval(), inputs).values()], dim=1)
    if float((answers - answers.mean(dim=0)).abs().max()) <= 1e-4 * float(answers.abs().max()):
        return (
            "the model gives all clips the same answer: what they are does not reach it. Look at init.weights, "
            "init.mean and init.std, and at the frames (kinema data stats NAME ROOT)"
        )
    first, half, last = attempt.losses[0], attempt.losses[len(attempt.losses) // 2], attempt.losses[-1]
    if last < _FALLS * half:
        return f"the loss still falls (from {first:.3f} to {last:.3f}); raise optim.lr ({lr:g})"
    return (
        f"the loss went from {first:.3f} to {last:.3f} and no further; try another optim.lr ({lr:g}), and freeze less: "
        "if that does not help, model or data are broken"
    )
