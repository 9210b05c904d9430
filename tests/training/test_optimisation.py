"""What a step does: losses, optimiser, schedule, clipping, freezing, and the loop as a whole against a plain one."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.training.runs import rows, training_json
from torch import nn

from kinema.data.device import to_model_input
from kinema.data.loading import ClipReader, EpochOrder, clip_loader
from kinema.models.build import build_model
from kinema.models.frame_model import FrameModel
from kinema.models.freezing import freeze
from kinema.sections import OptimSection, Recipe, TaskSection
from kinema.training import module as module_file
from kinema.training.losses import multi_task_loss
from kinema.training.module import RecogniserTraining
from kinema.training.optimisers import build_optimiser
from kinema.training.prepare import prepare
from kinema.training.run_folder import create_run
from kinema.training.train import train
from kinema.types import ConfigError, InputShape, UserError


def test_the_loop_does_what_a_plain_loop_does(recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch) -> None:
    """Three epochs with dropout, augmentation, warm-up, clipping and a last batch of one clip."""
    made = recipe("trainer.select=last", "trainer.patience=null", "optim.clip_norm=0.5")
    plain = prepare(made)
    model, clips = plain.model, plain.clips["train"]
    reader = ClipReader(clips, plain.videos, plain.preprocessing, augmentation=made.clips.augmentation, seed=0)
    order = EpochOrder(len(clips), batch_size=3, seed=0)
    optimiser = torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.01},
            {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
        ],
        lr=3e-3,
        fused=True,
    )
    losses = []
    for epoch in range(3):
        order.set_position(epoch=epoch, first_batch=0)
        for number, batch in enumerate(clip_loader(reader, order, workers=0)):
            step = 6 * epoch + number
            share = (step + 1) / 4 if step < 3 else 0.5 * (1 + math.cos(math.pi * (step - 3) / 15))
            for group in optimiser.param_groups:
                group["lr"] = 3e-3 * share
            torch.manual_seed(int(np.random.SeedSequence([0, epoch, number]).generate_state(1)[0]))
            inputs = to_model_input(batch.streams, plain.preprocessing, colour=batch.colour, flip=batch.flip)
            loss = F.cross_entropy(model(inputs)["action"], batch.labels["action"])
            losses.append(loss.item())
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            # In the optimiser's order: Adam makes much of how the norm is rounded where a gradient is small.
            nn.utils.clip_grad_norm_([p for group in optimiser.param_groups for p in group["params"]], 0.5)
            optimiser.step()

    seen = []
    computed = module_file.multi_task_loss

    def watched(*arguments: Any, **named: Any) -> torch.Tensor:
        loss = computed(*arguments, **named)
        seen.append(loss.item())
        return loss

    monkeypatch.setattr(module_file, "multi_task_loss", watched)
    prepared = prepare(made)
    train(prepared, create_run(made))
    assert seen == pytest.approx(losses, abs=1e-6)
    assert len(seen) == 18
    for name, value in prepared.model.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=0, atol=1e-6, msg=name)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Filled with what each step of a training did: learning rate, norm of the clipped gradient, the module."""
    seen: list[dict[str, Any]] = []

    def on_before_zero_grad(self: RecogniserTraining, optimizer: torch.optim.Optimizer) -> None:
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        if gradients:  # of the step before
            seen.append({"norm": float(nn.utils.get_total_norm(gradients)), "module": self})

    monkeypatch.setattr(RecogniserTraining, "on_before_zero_grad", on_before_zero_grad)
    return seen


def test_gradients_are_clipped(recipe: Callable[..., Recipe], steps: list[dict[str, Any]]) -> None:
    made = recipe("optim.clip_norm=0.05", "trainer.epochs=1")
    train(prepare(made), create_run(made))
    assert len(steps) == 5
    for step in steps:
        assert step["norm"] == pytest.approx(0.05, rel=1e-4)


def test_gradients_are_left_alone_without_a_limit(recipe: Callable[..., Recipe], steps: list[dict[str, Any]]) -> None:
    made = recipe("optim.clip_norm=null", "trainer.epochs=1")
    train(prepare(made), create_run(made))
    assert max(step["norm"] for step in steps) > 0.5


def test_everything_that_can_be_trained_is(recipe: Callable[..., Recipe]) -> None:
    made = recipe("trainer.epochs=1")
    prepared = prepare(made)
    before = {name: value.clone() for name, value in prepared.model.named_parameters()}
    train(prepared, create_run(made))
    after = dict(prepared.model.named_parameters())
    assert [name for name in before if torch.equal(before[name], after[name])] == []


def test_a_frozen_backbone_stays_as_it_is(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    """Weights and running statistics, bit for bit, while everything else is trained."""
    model = prepare(recipe()).model
    assert isinstance(model, FrameModel)
    torch.save(model.backbone.body.state_dict(), tmp_path / "weights.pt")
    made = recipe(
        f"init.weights={tmp_path / 'weights.pt'}",
        "init.freeze=backbone",
        "init.mean=[0.5,0.5,0.5]",
        "init.std=[0.5,0.5,0.5]",
        "trainer.epochs=2",
    )
    prepared = prepare(made)
    before = {name: value.clone() for name, value in prepared.model.state_dict().items()}
    train(prepared, create_run(made))
    after = prepared.model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if not name.startswith("backbone.")}


def test_features_that_were_kept_train_like_features_that_are_computed(
    recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    """The first run computes the features of the frozen backbone, the second one finds them."""
    model = prepare(recipe()).model
    assert isinstance(model, FrameModel)
    torch.save(model.backbone.body.state_dict(), tmp_path / "weights.pt")
    results = []
    for name in ("first", "second"):
        made = recipe(
            f"init.weights={tmp_path / 'weights.pt'}",
            "init.freeze=backbone",
            "init.mean=[0.5,0.5,0.5]",
            "init.std=[0.5,0.5,0.5]",
            "clips.augmentation.views=2",
            "trainer={epochs: 3, select: last, accelerator: cpu}",
            "model={name: cnn_conv1d, backbone: tiny, channels: 8, num_blocks: 1}",
            f"output={tmp_path / name}",
        )
        prepared = prepare(made)
        assert prepared.model.training
        train(prepared, create_run(made))
        results.append(prepared.model.state_dict())
    for name, value in results[0].items():
        assert torch.equal(value, results[1][name]), name
    assert results[0]["temporal.project.1.num_batches_tracked"] == 18  # batch norm was in training mode


def test_what_frames_look_like_is_kept_of_a_run_on_features(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    """So that a later evaluation, of frames, can see whether they are prepared as these were."""
    model = prepare(recipe()).model
    assert isinstance(model, FrameModel)
    torch.save(model.backbone.body.state_dict(), tmp_path / "weights.pt")
    found = {}
    for name, seen in (("features", "{preset: none, views: 1}"), ("frames", "{preset: none}")):
        made = recipe(
            f"init.weights={tmp_path / 'weights.pt'}",
            f"init.freeze={'backbone' if name == 'features' else 'none'}",
            "init.mean=[0.5,0.5,0.5]",
            "init.std=[0.5,0.5,0.5]",
            f"clips.augmentation={seen}",
            "trainer.epochs=1",
            f"output={tmp_path / name}",
        )
        train(prepare(made), create_run(made))
        found[name] = training_json(tmp_path / name)["inputs"]
    assert found["features"].keys() == {"features", "rgb"}
    assert found["frames"].keys() == {"rgb"}
    assert found["features"]["rgb"] == pytest.approx(found["frames"]["rgb"], abs=1e-3)


def test_norms_and_biases_do_not_decay() -> None:
    model = nn.Sequential(nn.Conv1d(2, 3, 1), nn.BatchNorm1d(3), nn.Flatten(), nn.Linear(3, 2))
    model[0].bias.requires_grad_(False)
    optimiser = build_optimiser(model, OptimSection(weight_decay=0.3), fused=True)
    decay = {id(p): group["weight_decay"] for group in optimiser.param_groups for p in group["params"]}
    found = {name: decay.get(id(p)) for name, p in model.named_parameters()}
    assert found == {
        "0.weight": 0.3,
        "0.bias": None,
        "1.weight": 0.0,
        "1.bias": 0.0,
        "3.weight": 0.3,
        "3.bias": 0.0,
    }


def rates(model: nn.Module, optim: OptimSection) -> dict[str, tuple[float, float]]:
    """Parameter -> its learning rate and weight decay; each is in one group."""
    optimiser = build_optimiser(model, optim, fused=True)
    held = [(p, group) for group in optimiser.param_groups for p in group["params"]]
    names = {id(p): name for name, p in model.named_parameters()}
    assert sorted(names[id(p)] for p, _ in held) == sorted(n for n, p in model.named_parameters() if p.requires_grad)
    return {names[id(p)]: (group["lr"], group["weight_decay"]) for p, group in held}


def built(name: str, *, size_px: int = 32, **arguments: Any) -> nn.Module:
    inputs = {"rgb": InputShape(num_frames=2, channels=3, height_px=size_px, width_px=size_px)}
    return build_model(name, arguments, heads={"action": ("open", "close")}, inputs=inputs)


@pytest.mark.parametrize("name", ["cnn_lstm", "joint_ensemble", "r3d_18"])
def test_the_backbone_learns_at_a_rate_of_its_own(name: str) -> None:
    arguments: dict[str, Any] = {"cnn_lstm": {"backbone": "tiny"}, "joint_ensemble": {"backbones": ("tiny", "tiny")}}
    model = built(name, **arguments.get(name, {"num_blocks": 1}))
    freeze(model, ("backbones.1",) if name == "joint_ensemble" else "none")
    found = rates(model, OptimSection(lr=0.1, backbone_lr_factor=0.01, weight_decay=0.3))
    for parameter, (lr, decay) in found.items():
        assert lr == pytest.approx(0.001 if parameter.startswith("backbone") else 0.1), parameter
        assert decay == (0.3 if model.get_parameter(parameter).ndim >= 2 else 0.0), parameter
    assert sorted({lr for lr, _ in found.values()}) == pytest.approx([0.001, 0.1])
    assert not any(parameter.startswith("backbones.1") for parameter in found)


def test_each_stage_learns_slower_than_the_one_behind_it() -> None:
    with torch.device("meta"):
        model = built("frame_average", backbone="resnet18")
    found = rates(model, OptimSection(lr=0.1, backbone_lr_factor=0.5, stage_lr_factor=0.2))
    expected = {"heads": 0.1, "layer4": 0.05, "layer3": 0.01, "layer2": 0.002, "layer1": 4e-4, "conv1": 4e-4}
    for parameter, (lr, _) in found.items():
        part = parameter.removeprefix("backbone.body.").partition(".")[0].replace("bn1", "conv1")
        assert lr == pytest.approx(expected[part]), parameter


def test_class_tokens_and_positions_learn_as_the_first_stage() -> None:
    with torch.device("meta"):
        model = built("frame_average", size_px=224, backbone="timm/vit_tiny_patch16_224")
    found = rates(model, OptimSection(lr=1.0, stage_lr_factor=0.5))
    assert found["backbone.body.cls_token"][0] == found["backbone.body.blocks.0.norm1.weight"][0] == 0.5**11
    assert found["backbone.body.blocks.11.norm1.weight"][0] == found["heads.linear.task_action.weight"][0] == 1.0


def test_one_stage_has_none_behind_it() -> None:
    model = built("r3d_18", num_blocks=1)
    with pytest.raises(ConfigError, match=r"^optim\.stage_lr_factor: r3d_18.* has one stage alone"):
        build_optimiser(model, OptimSection(stage_lr_factor=0.5), fused=True)


def test_without_factors_there_are_the_groups_that_there_were() -> None:
    optimiser = build_optimiser(built("cnn_lstm", backbone="tiny"), OptimSection(), fused=True)
    assert [(group["lr"], group["weight_decay"]) for group in optimiser.param_groups] == [(1e-3, 0.01), (1e-3, 0.0)]


@pytest.mark.parametrize(
    ("key", "frozen", "message"),
    [
        ("backbone_lr_factor", True, "optim.backbone_lr_factor: the backbone is frozen, it does not learn; leave it"),
        ("stage_lr_factor", True, "optim.stage_lr_factor: the backbone is frozen"),
        ("stage_lr_factor", False, "optim.stage_lr_factor: this model has no backbone; leave it out"),
    ],
)
def test_a_rate_of_what_does_not_learn_is_refused(key: str, frozen: bool, message: str) -> None:
    model = built("cnn_lstm", backbone="tiny") if frozen else nn.Linear(2, 2)
    if frozen:
        freeze(model, "backbone")
    with pytest.raises(ConfigError) as caught:
        build_optimiser(model, OptimSection(**{key: 0.5}), fused=True)
    assert str(caught.value).startswith(message)


def test_rates_of_both_parts_are_logged_and_follow_the_schedule(recipe: Callable[..., Recipe]) -> None:
    made = recipe("optim.backbone_lr_factor=0.1", "optim.lr=0.01", "optim.warmup_epochs=0", "trainer.epochs=2")
    run = create_run(made)
    train(prepare(made), run)
    found = [(row["lr"], row["lr_backbone"]) for row in rows(run.folder)]
    assert found[0] == pytest.approx((0.005, 0.0005))
    assert found[1] == pytest.approx((0.0, 0.0), abs=1e-9)


def test_a_parameter_that_no_optimiser_has_ends_the_run(
    recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where attention is made after the optimiser, and stays as random as it was."""

    def of_heads(model: nn.Module, *arguments: Any, **named: Any) -> torch.optim.Optimizer:
        return build_optimiser(model.get_submodule("heads"), *arguments, **named)

    monkeypatch.setattr(module_file, "build_optimiser", of_heads)
    made = recipe()
    with pytest.raises(UserError, match=r"^model\.name: model\.backbone\.\S+, .* would never be trained: they require"):
        train(prepare(made), create_run(made))


def test_tasks_are_weighted_and_labels_smoothed() -> None:
    logits = {"verb": torch.tensor([[2.0, 0.0, -1.0]]), "noun": torch.tensor([[0.5, 1.5]])}
    labels = {"verb": torch.tensor([1]), "noun": torch.tensor([1])}
    verb = torch.log_softmax(logits["verb"][0], 0)
    noun = torch.log_softmax(logits["noun"][0], 0)
    smoothed_verb = -(0.8 * verb[1] + 0.2 * verb.mean())
    smoothed_noun = -(0.8 * noun[1] + 0.2 * noun.mean())
    found = multi_task_loss(logits, labels, TaskSection(label_smoothing=0.2, weights={"noun": 0.25}))
    assert found.item() == pytest.approx(float(smoothed_verb + 0.25 * smoothed_noun))
    assert multi_task_loss(logits, labels, TaskSection()).item() == pytest.approx(float(-verb[1] - noun[1]))


def test_a_loss_that_is_no_number_stops_with_epoch_and_batch(
    recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = recipe()
    calls = []

    def loss(*_: Any, **__: Any) -> torch.Tensor:
        calls.append(1)
        return torch.tensor(math.nan if len(calls) == 8 else 1.0, requires_grad=True)

    monkeypatch.setattr(module_file, "multi_task_loss", loss)
    with pytest.raises(
        UserError, match=r"^the loss is nan in epoch 2, batch 2 \(clips .*\); lower optim\.lr"
    ) as raised:
        train(prepare(made), create_run(made))
    assert "\n" not in str(raised.value)


def test_it_learns_what_can_be_learnt(recipe: Callable[..., Recipe]) -> None:
    made = recipe(
        "clips.augmentation={jitter: false, flip: 0, min_scale: 1, colour: 0}",
        "model.dropout=0",
        "trainer={epochs: 20, select: last, accelerator: cpu}",
    )
    run = create_run(made)
    trained = train(prepare(made), run)
    losses = [row["train/loss"] for row in rows(run.folder)]
    assert losses[-1] < 0.2 * losses[0]
    assert trained.best["train_top1"] == 1.0
