"""What `trainer.strategy`, `.devices` and `.nodes` come to, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from kinema.data.loading import Batch
from kinema.evaluation.collector import Collector
from kinema.models.layers.backbone import FrameBackbone
from kinema.sections import Recipe
from kinema.training.outside import outside
from kinema.training.stand_in import still_batch_norm
from kinema.training.strategy import spread_of, trains_batch_norm, units
from kinema.types import Clip, ConfigError

TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4"}
SRUN = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1"}


def test_one_process_is_what_a_recipe_is_trained_by(recipe: Callable[..., Recipe]) -> None:
    assert spread_of(recipe()).num_processes == 1
    assert spread_of(recipe("trainer.devices=auto")).num_processes == 1  # of processes on CPUs as well


def test_the_global_batch_is_that_of_the_recipe(recipe: Callable[..., Recipe]) -> None:
    spread = spread_of(recipe("trainer.devices=2", "trainer.strategy=fsdp_stage3"))
    assert str(spread) == "2 processes (fsdp_stage3, CPU), global batch 3 clips, 1 or 2 in each"
    assert str(spread_of(recipe("trainer.devices=3"))) == "3 processes (ddp, CPU), global batch 3 clips, 1 in each"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.strategy=ddp"], "trainer: strategy: ddp is for several processes; set devices, 2 for example, or"),
        (["trainer.devices=4"], "clips.batch_size: 3 clips are of all 4 processes together"),
        (["trainer.nodes=2"], "trainer.nodes: 2 nodes need torchrun --nnodes=2 or srun"),
        (["trainer.devices=2", "trainer.strategy=deepspeed_stage_2"], "deepspeed_stage_2 needs GPUs; on CPUs take ddp"),
        (
            ["trainer.devices=2", "trainer.strategy=fsdp_stage2", "trainer.runtime.compile=on"],
            "trainer.runtime.compile: on cannot be used with fsdp_stage2",
        ),
        (
            ["trainer.devices=2", "trainer.strategy=fsdp_stage2", "trainer.runtime.channels_last=on"],
            "trainer.runtime.channels_last: on cannot be used with fsdp_stage2",
        ),
        (
            ["trainer.devices=2", "trainer.strategy=fsdp_stage3", "optim.ema_decay=0.9"],
            "optim.ema_decay: cannot be used with fsdp_stage3",
        ),
        (
            ["trainer.devices=2", "trainer.strategy=fsdp_stage3", "task.combine=uncertainty"],
            "task.combine: uncertainty cannot be used with fsdp_stage3",
        ),
        (["trainer.devices=2", "optim.unfreeze={}"], "optim.unfreeze: cannot be used with 2 processes; use 1"),
        (
            ["trainer.devices=2", "clips.decoder=torchcodec_cuda", "clips.workers=0"],
            "clips.decoder: torchcodec_cuda decodes on one GPU",
        ),
    ],
)
def test_what_is_impossible_is_refused_with_its_key(
    recipe: Callable[..., Recipe], overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError) as error:
        spread_of(recipe(*overrides))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("environment", "starter"), [(TORCHRUN, "torchrun"), (SRUN, "srun")])
def test_processes_that_others_start_are_recognised(
    recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], starter: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    who = outside()
    assert who is not None
    assert (who.starter, who.rank, who.local_rank, who.size) == (starter, 3, 1, 4)
    assert spread_of(recipe("trainer.devices=2", "trainer.nodes=2", "clips.batch_size=8")).num_processes == 4
    with pytest.raises(ConfigError, match=f"trainer.devices: {starter} has started 4 processes, and .* is 2"):
        spread_of(recipe("trainer.devices=2"))


def test_tasks_of_srun_may_train_each_by_itself(recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SRUN.items():
        monkeypatch.setenv(name, value)
    assert spread_of(recipe()).num_processes == 1
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert outside() is None


def test_batch_norm_of_a_frozen_part_is_not_trained() -> None:
    backbone = FrameBackbone("tiny")
    assert trains_batch_norm(backbone)
    backbone.freeze()
    assert not trains_batch_norm(backbone)


def test_a_stand_in_leaves_no_trace_in_batch_norm() -> None:
    norm = nn.BatchNorm1d(3)
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    with still_batch_norm(norm):
        norm(torch.randn(2, 3)).sum().backward()
    assert norm.training
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())


def test_units_are_parts_that_are_called_once_and_hold_part_of_the_weights() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)) for _ in range(5)))
            self.twice = nn.Linear(8, 8)
            self.borrowed = nn.Linear(8, 8)  # another uses its weights: they are never gathered for it

        def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
            found = self.twice(self.twice(self.blocks(inputs["rgb"])))
            return nn.functional.linear(found, self.borrowed.weight)

    model = Model()
    assert units(model, {"rgb": torch.zeros(1, 8)}) == list(model.blocks)
    assert model.training


def test_what_several_have_gathered_is_what_one_would_have() -> None:
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(size=(7, 2)).astype(np.float32))
    clips = [Clip(clip_id=str(index), video=__file__, labels={"action": index % 2}) for index in range(8)]  # type: ignore[arg-type]

    def collected(parts: list[list[int]], failures: dict[int, str]) -> Collector:
        found = Collector()
        for part in parts:
            batch = Batch(streams={}, labels={}, indices=torch.tensor(part, dtype=torch.int64), failures=failures)
            found.add(batch, {"action": logits[part]} if part else {})
        return found

    one = collected([[0, 1, 2], [3, 4, 5], [6]], {7: "gone"})
    merged = Collector.merged([collected([[0, 2], [3, 5], [6]], {}), collected([[1], [4], []], {7: "gone"})])
    expected, found = (part.predictions(clips, {"action": ("a", "b")}, {}) for part in (one, merged))
    assert found.clips == expected.clips
    assert np.array_equal(found.logits["action"], expected.logits["action"])
    assert found.skipped == expected.skipped == {"7": "gone"}
