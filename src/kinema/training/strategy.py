"""How a training is spread over processes: what the recipe says, whether it is possible here, and what Lightning has to
know of it."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.nn.modules.batchnorm import _BatchNorm

from kinema.data.device import to_model_input
from kinema.models.runtime import precision
from kinema.sections import Recipe, RuntimeSection
from kinema.training.module import RecogniserTraining
from kinema.training.outside import outside
from kinema.training.prepare import compute_device
from kinema.training.team import Team
from kinema.types import ConfigError

log = logging.getLogger(__name__)

_UNIT = (0.01, 0.25)
"""Share of all trained parameters, least and most, that is gathered at once under FSDP."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Over what a training is spread.

    Attributes:
        strategy: Never `auto`; of one process it is `ddp`, and means nothing.
        devices: Processes on each node.
        nodes: Computers.
        on_gpu: Where they compute.
        global_batch: Clips in a training step, of all processes together.
    """

    strategy: str
    devices: int
    nodes: int
    on_gpu: bool
    global_batch: int

    @property
    def num_processes(self) -> int:
        return self.devices * self.nodes

    @property
    def is_fsdp(self) -> bool:
        return self.num_processes > 1 and self.strategy.startswith("fsdp")

    @property
    def is_sharded(self) -> bool:
        """No process has the whole model, or it is kept in another form."""
        return self.num_processes > 1 and self.strategy != "ddp"

    @property
    def state(self) -> str:
        """The form in which checkpoints hold the optimiser's state."""
        return self.strategy.partition("_")[0] if self.is_sharded else "whole"

    @property
    def backend(self) -> str:
        return "nccl" if self.on_gpu else "gloo"

    def __str__(self) -> str:
        sizes = [len(range(rank, self.global_batch, self.num_processes)) for rank in range(self.num_processes)]
        each = f"{sizes[0]}" if sizes[0] == sizes[-1] else f"{sizes[-1]} or {sizes[0]}"
        where = f"{'GPU' if self.on_gpu else 'CPU'}{f', {self.nodes} nodes' if self.nodes > 1 else ''}"
        return (
            f"{self.num_processes} processes ({self.strategy}, {where}), "
            f"global batch {self.global_batch} clips, {each} in each"
        )


def spread_of(recipe: Recipe) -> Spread:
    """What `trainer.strategy`, `.devices` and `.nodes` come to here.

    Raises:
        ConfigError: It is not possible here.
    """
    section, device = recipe.trainer, compute_device(recipe.trainer)
    on_gpu = device.type == "cuda"
    num_gpus = torch.cuda.device_count() if on_gpu else 0
    devices = max(1, num_gpus) if section.devices == "auto" else section.devices
    if on_gpu and devices > num_gpus:
        raise ConfigError(f"trainer.devices: {devices}, and there are {num_gpus} GPUs here")
    spread = Spread(
        strategy="ddp" if section.strategy == "auto" else section.strategy,
        devices=devices,
        nodes=section.nodes,
        on_gpu=on_gpu,
        global_batch=recipe.clips.batch_size,
    )
    _check_start(spread)
    if spread.num_processes > 1:
        _check_possible(spread, recipe)
    return spread


def _check_start(spread: Spread) -> None:
    who = outside()
    asked = f"trainer.devices ({spread.devices}) x trainer.nodes ({spread.nodes})"
    if who is not None and who.size != spread.num_processes and (spread.num_processes > 1 or who.starter == "torchrun"):
        raise ConfigError(
            f"trainer.devices: {who.starter} has started {who.size} processes, and {asked} is {spread.num_processes}"
        )
    if who is None and spread.nodes > 1:
        raise ConfigError(
            f"trainer.nodes: {spread.nodes} nodes need torchrun --nnodes={spread.nodes} or srun, which start the "
            "command on each; see docs/distributed.md"
        )


def _check_possible(spread: Spread, recipe: Recipe) -> None:
    if spread.global_batch < spread.num_processes:
        raise ConfigError(
            f"clips.batch_size: {spread.global_batch} clips are of all {spread.num_processes} processes together, and "
            "one at least is for each"
        )
    if recipe.clips.decoder == "torchcodec_cuda":
        raise ConfigError("clips.decoder: torchcodec_cuda decodes on one GPU; with several take torchcodec or pyav")
    augmentation = recipe.clips.augmentation
    if (augmentation.mixup or augmentation.cutmix) and spread.global_batch < 2 * spread.num_processes:
        key = "mixup" if augmentation.mixup else "cutmix"
        raise ConfigError(
            f"clips.augmentation.{key}: each of the {spread.num_processes} processes mixes its part of the batch, of "
            f"two clips at least; raise clips.batch_size (now {spread.global_batch})"
        )
    if recipe.optim.unfreeze is not None:
        # What exchanges gradients is set up once, for the weights that learn in the first step.
        raise ConfigError(f"optim.unfreeze: cannot be used with {spread.num_processes} processes; use 1")
    if spread.is_sharded and recipe.optim.ema_decay is not None:
        raise ConfigError(f"optim.ema_decay: cannot be used with {spread.strategy}; use trainer.strategy=ddp")
    if spread.is_sharded and recipe.task.combine == "uncertainty":
        raise ConfigError(f"task.combine: uncertainty cannot be used with {spread.strategy}; use trainer.strategy=ddp")
    if spread.strategy.startswith("deepspeed"):
        if recipe.optim.accumulate > 1:  # DeepSpeed accumulates itself, and steps at whole multiples only
            raise ConfigError(f"optim.accumulate: cannot be used with {spread.strategy}; use trainer.strategy=ddp")
        if not spread.on_gpu:
            raise ConfigError(f"trainer.strategy: {spread.strategy} needs GPUs; on CPUs take ddp or fsdp_stage2")
        if importlib.util.find_spec("deepspeed") is None:
            raise ConfigError(f'trainer.strategy: {spread.strategy} needs DeepSpeed: pip install "kinema[deepspeed]"')
    arithmetic, _ = precision(recipe.trainer.precision, compute_device(recipe.trainer))
    if spread.is_fsdp and arithmetic == "fp16":
        raise ConfigError(f"trainer.precision: fp16 cannot be used with {spread.strategy}; use bf16")
    if spread.is_sharded and recipe.trainer.runtime.compile == "on":
        raise ConfigError(f"trainer.runtime.compile: on cannot be used with {spread.strategy}; use ddp, or off")
    if spread.is_sharded and recipe.trainer.runtime.channels_last == "on":
        raise ConfigError(f"trainer.runtime.channels_last: on cannot be used with {spread.strategy}; use ddp, or auto")


class Environment(LightningEnvironment):
    """Tells Lightning what the team knows already, however its processes were started."""

    def __init__(self, team: Team, *, devices: int) -> None:
        super().__init__()
        self._team = team
        self._devices = devices

    @property
    def creates_processes_externally(self) -> bool:
        return True

    def world_size(self) -> int:
        return self._team.size

    def set_world_size(self, size: int) -> None:
        assert size == self._team.size

    def global_rank(self) -> int:
        return self._team.rank

    def set_global_rank(self, rank: int) -> None:
        assert rank == self._team.rank

    def local_rank(self) -> int:
        return self._team.local_rank

    def node_rank(self) -> int:
        return self._team.rank // self._devices

    def teardown(self) -> None:
        """Nothing: the team sets no variables."""


def lightning_strategy(spread: Spread) -> Strategy | str:
    """Lightning's part of it."""
    if spread.num_processes == 1:
        return "auto"
    if spread.strategy.startswith("fsdp"):
        return ModelParallelStrategy(
            data_parallel_size=spread.num_processes, tensor_parallel_size=1, save_distributed_checkpoint=False
        )
    if spread.strategy.startswith("deepspeed"):
        from lightning.pytorch.strategies import DeepSpeedStrategy

        clips = -(-spread.global_batch // spread.num_processes)
        return DeepSpeedStrategy(stage=int(spread.strategy[-1]), logging_batch_size_per_gpu=clips)
    return DDPStrategy()


class ShardedTraining(RecogniserTraining):
    """The same, of a model that no process has whole."""

    def configure_model(self) -> None:
        mesh, device = self.device_mesh, next(self.model.parameters()).device
        assert mesh is not None
        assert self.stand_in is not None
        if mesh.device_type == "cuda" and trains_batch_norm(self.model):
            self.model = nn.SyncBatchNorm.convert_sync_batchnorm(self.model)  # type: ignore[no-untyped-call]
        streams = {
            s: torch.zeros(1, p.num_frames, *p.frame_shape, dtype=torch.uint8) for s, p in self.preprocessing.items()
        }
        example = to_model_input({name: frames.to(device) for name, frames in streams.items()}, self.preprocessing)
        reshard = self.recipe.trainer.strategy == "fsdp_stage3"
        shard(self.model, mesh["data_parallel"], example, reshard=reshard)
        if self.reads == "features":  # of which not the model itself is called
            register_fsdp_forward_method(self.model, "classify")
        if hasattr(self.model, "auxiliary_loss"):
            register_fsdp_forward_method(self.model, "auxiliary_loss")


def shard(model: nn.Module, mesh: Any, example: Mapping[str, Tensor], *, reshard: bool) -> None:
    """Share out what of a model is trained. Frozen weights stay whole everywhere: they have neither gradients nor state
    of an optimiser, and what is folded of them is made from all of them.

    Args:
        model: Changed in place.
        mesh: Of the processes.
        example: A batch that it can be given.
        reshard: Share weights out again between forward and backward pass (stage 3), or keep them (stage 2).
    """
    frozen = {parameter for parameter in model.parameters() if not parameter.requires_grad}
    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous()  # convolutions may be kept channels last
    for unit in [*units(model, example), model]:
        unit.register_forward_hook(lambda _part, _inputs, output: _without_views(output))
        fully_shard(unit, mesh=mesh, reshard_after_forward=reshard, ignored_params=frozen)


def _without_views(output: Any) -> Any:
    """A part's output, not as a view: FSDP hangs on to it what gathers the weights again, which a view may lose."""
    if isinstance(output, Tensor):
        return output if output._base is None else output.clone()
    if isinstance(output, dict):
        return {name: _without_views(value) for name, value in output.items()}
    if isinstance(output, tuple | list):
        return type(output)(_without_views(value) for value in output)
    return output


def units(model: nn.Module, example: Mapping[str, Tensor]) -> list[nn.Module]:
    """Parts that are gathered one after the other: the largest with at most a quarter of all that is trained, of those
    that are called, and called once. What else there is is gathered with the model as a whole."""
    calls: Counter[nn.Module] = Counter()
    hooks = [part.register_forward_pre_hook(lambda part, _: calls.update([part])) for part in model.modules()]
    # One by one: batch norm of frozen parts is in evaluation mode, and stays in it.
    were_training = {part: part.training for part in model.modules()}
    try:
        with torch.no_grad():
            model.eval()(example)
    finally:
        for part, was_training in were_training.items():
            part.training = was_training
        for hook in hooks:
            hook.remove()
    least, most = (share * _num_trained(model) for share in _UNIT)
    found: list[nn.Module] = []

    def visit(part: nn.Module) -> None:
        for child in part.children():
            if calls[child] == 1 and least <= _num_trained(child) <= most:
                found.append(child)
            elif _num_trained(child) > most or calls[child] != 1:
                visit(child)

    visit(model)
    return found


def _num_trained(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def trains_batch_norm(model: nn.Module) -> bool:
    """Whether statistics of a batch are taken anywhere in training."""
    was_training = model.training
    try:
        return any(isinstance(part, _BatchNorm) and part.training for part in model.train().modules())
    finally:
        model.train(was_training)


def synchronises_batch_norm(model: nn.Module, spread: Spread) -> bool:
    """Whether batch norm takes its statistics of the clips of all processes. There is no such thing on CPUs."""
    return spread.num_processes > 1 and spread.on_gpu and trains_batch_norm(model)


def check_batch_norm(model: nn.Module, spread: Spread, *, num_clips: int) -> None:
    """See that batch norm, where it is trained, is right with several processes, or say how it is not.

    Raises:
        ConfigError: It cannot be.
    """
    if spread.num_processes == 1 or not trains_batch_norm(model):
        return
    if not spread.on_gpu and spread.is_sharded:
        raise ConfigError(
            f"trainer.strategy: {spread.strategy} on CPUs cannot train batch norm, whose statistics would differ "
            "between processes; freeze it (init.freeze), or use ddp"
        )
    if not spread.on_gpu:
        log.warning(
            "batch norm is not synchronised on CPUs: each of the %d processes normalises by its own clips, and the "
            "first one's statistics are kept",
            spread.num_processes,
        )
    last = num_clips % spread.global_batch or spread.global_batch
    if last < 2 * spread.num_processes:
        raise ConfigError(
            f"clips.batch_size: with {spread.global_batch} and {num_clips} training clips, an epoch has a batch of "
            f"{last}, too few for batch norm in {spread.num_processes} processes; take another size"
        )


def runtime_of(spread: Spread, recipe: Recipe) -> RuntimeSection:
    """How the same is computed faster, as far as it goes with the strategy."""
    runtime = recipe.trainer.runtime
    if not spread.is_sharded:
        return runtime
    return runtime.model_copy(update={"channels_last": "off", "compile": "off"})


@contextlib.contextmanager
def computing_beside_others(spread: Spread, num_threads: int) -> Iterator[None]:
    """Within it, processes on one CPU share its cores."""
    before = torch.get_num_threads()
    if spread.num_processes > 1 and not spread.on_gpu:
        torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
