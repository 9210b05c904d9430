"""The sections of a recipe: every key with its type, its default and what it means."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from kinema.augmentation import Augmentation
from kinema.files import to_yaml
from kinema.section import PositiveInt, Section, Share
from kinema.training_sections import OptimSection, SanitySection, TaskSection
from kinema.types import Fit, Modality, Pixels


class FoldSection(Section):
    """One fold of a cross-validation. All clips but those of a test split are shared out by whole groups; one part of
    them is held out and becomes the test split."""

    by: str | Annotated[tuple[str, ...], Field(min_length=1)] = "group"
    """What says which clips belong together: `group`, which is the data set's own, or a column of its annotations, or
    several."""
    k: Annotated[int, Field(ge=2)] | None = None
    """So many parts, alike in size and classes as nearly as whole groups allow. null: each group is a part."""
    fold: Annotated[int, Field(ge=0)] = 0
    """The part that is held out, from 0."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the parts, where `k` is given."""


class DataSection(Section):
    """Which clips: the name of a data set, where it lies, and the arguments of its function."""

    name: str
    """A data set: see `kinema datasets`."""
    root: Path | None = None
    """Folder (or annotation file) of the data set."""
    modality: Modality | Annotated[tuple[Modality, ...], Field(min_length=1)] = "rgb"
    """What of a video the model sees: frames; optical `flow`, or its magnitude alone; or differences of frames. Several
    at once for `two_stream`. How motion is taken says `clips.motion`."""
    validation: Share = 0.0
    """Share of the training clips, whole groups at a time, that becomes the validation split where there is none."""
    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the training clips to use, whole groups at a time, of every class as nearly as they allow. The other
    splits stay whole."""
    folds: FoldSection | None = None
    """Hold one part of the clips out, as cross-validation does (`kinema crossval` gives it for every part in turn)."""
    class_map: str | dict[str, str] | None = None
    """New names of classes: {old: new}, a YAML file that holds that, or the name of a shipped one. Classes that get
    the same name become one."""
    background: str | None = None
    """Name of a class that stands for nothing, to be told from all others: its clips are made of training
    clips, of each its first or last frame throughout or its first or last fifth."""
    quarantine: Path | None = None
    """File of videos that are not to be used, as `kinema data check` writes it; by default kinema-quarantine.csv in
    the root, if it is there."""
    download: bool = False
    """Fetch what the root lacks before the first use, as `kinema data download` does. Its licence has to be accepted
    before, there or by KINEMA_ACCEPT_LICENCE=1; KINEMA_MIRROR names another place to fetch from."""

    @property
    def streams(self) -> tuple[Modality, ...]:
        """What of a video the model sees."""
        return (self.modality,) if isinstance(self.modality, str) else self.modality

    @field_validator("modality")
    @classmethod
    def _each_once(cls, modality: Any) -> Any:
        if not isinstance(modality, str) and len(set(modality)) < len(modality):
            raise ValueError(f"a stream comes twice: {', '.join(modality)}")
        return modality

    @field_validator("root", "quarantine")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        """A run can be continued and evaluated from any folder."""
        return None if path is None else _absolute(path)


class MotionSection(Section):
    """How fields of motion are taken, where `data.modality` is not `rgb`. In place of each frame there are `stack` of
    them, as channels, the first of them of that frame and the next."""

    stack: PositiveInt = 1
    """Fields one behind the other."""
    interval_s: Annotated[float, Field(gt=0)] = 1 / 30
    """Seconds from a picture to the next; at least a frame."""
    method: Literal["dis", "farneback", "tvl1", "raft", "stored"] = "dis"
    """Of optical flow. `stored`: it is read from the files that lie beside the frames, as EPIC-KITCHENS has them."""
    bound_px: Annotated[float, Field(gt=0)] = 20.0
    """The longest movement that is told from longer ones, in pixels of the model's input: flow has 8 bits."""
    magnitude: bool = False
    """Of `flow`: give the length of each movement beside u and v, as a third channel."""
    weights: str | None = None
    """Of `raft`: a file, or `published`."""
    stored_bound_px: Annotated[float, Field(gt=0)] | None = None
    """Of `stored`: the movement that 255 stands for, in pixels of these files. By default 20, as EPIC-KITCHENS and
    denseflow have it."""

    @model_validator(mode="after")
    def _bound_of_stored(self) -> MotionSection:
        if self.stored_bound_px is not None and self.method != "stored":
            raise ValueError(f"stored_bound_px is of method stored, and the method is {self.method}")
        return self

    @model_validator(mode="after")
    def _weights_of_raft(self) -> MotionSection:
        if (self.method == "raft") != (self.weights is not None):
            raise ValueError(
                "method raft needs weights: a file, or published"
                if self.weights is None
                else f"weights are of method raft, and the method is {self.method}"
            )
        return self

    @field_validator("weights")
    @classmethod
    def _absolute(cls, weights: str | None) -> str | None:
        """A run can be continued and evaluated from any folder."""
        return None if weights is None else _source(weights)


class ClipsSection(Section):
    """How frames are taken from a clip, and how clips are read."""

    num_frames: PositiveInt = 20
    """Frames per clip, uniform in time."""
    window_s: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] | None = None
    """Take them from so many seconds of each clip: in training from anywhere in it (with `augmentation.jitter`), in
    evaluation from its middle, or from evenly spaced places with `--views`. A clip that is no longer is taken whole.
    null: all clips are."""
    size_px: Annotated[int, Field(ge=8)] = 224
    """Height and width of the frames that the model receives."""
    resize_px: Annotated[int, Field(ge=8)] | None = None
    """`fit: crop`: the short side is scaled to this before `size_px` is cut out. By default `size_px`."""
    fit: Fit = "crop"
    """`crop` keeps the aspect ratio and cuts the centre; `squash` scales the whole frame to a square."""
    augmentation: Augmentation = Augmentation()
    """Random changes of training clips: keys, or the name of a preset."""
    pixels: Pixels | None = None
    """What frames are kept as until they are on the device: `i420` (one plane of brightness and two of colour at half
    the size, as videos hold them) or `rgb`. By default `i420` where `size_px` is even. Fields of motion have a form of
    their own."""
    motion: MotionSection = MotionSection()
    """Of what moves, where that is what the model sees."""
    decoder: Literal["pyav", "torchcodec", "torchcodec_cuda", "opencv"] = "pyav"
    """What decodes videos. A decoder that is not exact to the frame on a container is refused for it.
    `torchcodec_cuda` decodes on the GPU, with `workers: 0`."""
    store: Literal["auto", "none"] | Path = "auto"
    """`auto`: take what `kinema data prepare` has stored where it gives the same numbers; and where the backbone is
    frozen and `augmentation.views` is a number, let frames go through the backbone once and read its features, stored
    in fp16. `none`: neither. A path: the store to read from."""
    batch_size: PositiveInt = 16
    """Clips per training step, of all processes together."""
    workers: Annotated[int, Field(ge=0)] = 2
    """Processes that read clips, for each process that trains."""

    @field_validator("store")
    @classmethod
    def _absolute(cls, store: Path | str) -> Path | str:
        """A run can be continued from any folder."""
        return _absolute(store) if isinstance(store, Path) else store

    @model_validator(mode="after")
    def _resize_covers_crop(self) -> ClipsSection:
        if self.resize_px is not None and self.resize_px < self.size_px:
            raise ValueError(f"resize_px ({self.resize_px}) is smaller than size_px ({self.size_px})")
        if self.resize_px is not None and self.fit == "squash":
            raise ValueError("resize_px has no meaning with fit: squash; leave it out")
        return self

    @model_validator(mode="after")
    def _one_stretch(self) -> ClipsSection:
        if self.window_s is not None and self.augmentation.frame_stride is not None:
            raise ValueError(
                f"window_s ({self.window_s:g}) and augmentation.frame_stride are two ways to say how much of a clip is "
                "seen; give one of them"
            )
        return self

    @model_validator(mode="after")
    def _gpu_is_not_shared(self) -> ClipsSection:
        if self.decoder == "torchcodec_cuda" and self.workers:
            raise ValueError(
                f"decoder torchcodec_cuda works in the process that trains; set workers to 0 ({self.workers})"
            )
        return self


class ModelSection(Section):
    """The name of a model and the arguments of its function."""

    name: str
    """A model: see `kinema models`."""


class InitSection(Section):
    """Where weights come from, and which of them stay as they are. The same for every model."""

    weights: str | dict[str, str] | None = None
    """`published` (the weights that the backbone's library publishes), a file of weights, a weights folder of kinema,
    or null: from scratch. Of a model with several backbones also {backbone: `published`, a file or a weights folder},
    or {networks.flow: a weights folder} for the whole network of a stream; what is not named starts from scratch."""
    mean: tuple[float, float, float] | None = None
    """Mean of the pixels (0..1) that a *file* of weights expects, per channel: files do not say. Published weights and
    weights folders bring their own, and are refused together with it. From scratch it may be any. null: that of the
    published weights."""
    std: tuple[float, float, float] | None = None
    """Like `mean`: the standard deviation."""
    inflate: bool = False
    """Weights of an image network are repeated over time where the model has the same layer for clips."""
    freeze: Literal["none", "backbone", "all"] | PositiveInt | Annotated[tuple[str, ...], Field(min_length=1)] = "none"
    """What keeps its weights, and its batch norm its statistics: the `backbone`, `all` but the heads, the first so many
    stages of the backbone (2: what comes before `layer3` of a ResNet), or a list of backbones by name, of a model that
    has several."""
    train_last: PositiveInt | None = None
    """All but the last so many blocks of the backbone keep their weights."""

    @field_validator("weights")
    @classmethod
    def _absolute(cls, weights: str | dict[str, str] | None) -> str | dict[str, str] | None:
        """A run can be continued from any folder."""
        if isinstance(weights, dict):
            return {name: _source(of_backbone) for name, of_backbone in weights.items()}
        return None if weights is None else _source(weights)

    @model_validator(mode="after")
    def _possible(self) -> InitSection:
        if self.weights == {}:
            raise ValueError("weights: {} names no backbone; use null to train from scratch")
        if self.freeze != "none" and self.weights is None:
            what = ", ".join(self.freeze) if isinstance(self.freeze, tuple) else self.freeze
            raise ValueError(f"freeze: {what} needs init.weights; random weights would stay random")
        if self.train_last is not None and self.weights is None:
            raise ValueError("train_last needs init.weights; random weights would stay random")
        if self.train_last is not None and self.freeze != "none":
            raise ValueError("freeze and train_last exclude each other; give one")
        if self.inflate and self.weights is None:
            raise ValueError("inflate needs init.weights")
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std belong together; give both or neither")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError("std has to be above 0")
        return self


class RuntimeSection(Section):
    """How the same is computed faster. What `auto` comes to is printed when training starts."""

    fold: bool = True
    """Batch norm of frozen parts becomes part of the convolutions before it."""
    channels_last: Literal["auto", "on", "off"] = "auto"
    """Memory format of convolutions."""
    micro_batch: PositiveInt | None = None
    """Frames that a frozen backbone takes at once, and clips that a model takes at once in evaluation. null: on a CPU
    what was measured to be fastest, on a GPU the batch."""
    keep_memory: bool = True
    """Let the C library keep memory that is freed, instead of fetching it from the system at each step (glibc)."""
    features: Literal["fp32", "bf16", "int8", "auto"] = "fp32"
    """Arithmetic of the frozen backbone. `int8` is for CPUs, and rounds in ranges that are seen on training clips; how
    many predictions it changes is said. `auto`: bf16 where the processor has it and predictions on some hundred of the
    training clips agree with those in fp32."""
    compile: Literal["auto", "on", "off"] = "off"
    """`torch.compile` of training steps and the evaluations after them. `auto`: where it wins a short comparison, and
    the work is long enough to make up for compiling. Without a compiler, or where answers would not stay the same, it
    is done without, and a line says so. Features that are stored or computed once are not compiled. Not the default:
    which of two is faster is a matter of milliseconds, and the same seed would not always give the same weights."""


class TrainerSection(Section):
    """How long, on what, and which epoch is kept."""

    epochs: PositiveInt = 30
    """Passes over the training clips."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Of everything random. The same seed on the same machine gives the same weights."""
    precision: Literal["fp32", "bf16", "fp16", "auto"] = "fp32"
    """Arithmetic of forward and backward pass; weights, batch norm and the softmax of the loss are fp32. `fp16` needs a
    GPU. `auto`: bf16 where the device has instructions for it, else fp16 on a GPU and fp32 on a CPU. On a CPU,
    convolutions of three dimensions stay in fp32: of their gradients in bf16 not all are right."""
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """Where to compute."""
    devices: Literal["auto"] | PositiveInt = 1
    """GPUs of each node to train on, with a process each; `auto`: all there are. On CPUs: processes; `auto`: one."""
    nodes: PositiveInt = 1
    """Computers to train on, each with `devices`. More than one needs torchrun or srun to start the command on each."""
    strategy: Literal["auto", "ddp", "fsdp_stage2", "fsdp_stage3", "deepspeed_stage_2", "deepspeed_stage_3"] = "auto"
    """What several processes have of the model. `ddp`: all of it each, which is also `auto`. `fsdp_stage2` shares out
    gradients and the optimiser's state, `fsdp_stage3` the weights between two uses as well, `deepspeed_*` the same
    through DeepSpeed. `clips.batch_size` is of all processes together."""
    select: Literal["auto", "best", "last"] = "auto"
    """Which epoch's weights are kept: `best` on the validation split, `last`, or `auto`: best where there is a
    validation split, else last. The test split never selects anything."""
    patience: PositiveInt | None = None
    """Stop after this many epochs without a better validation result."""
    runtime: RuntimeSection = RuntimeSection()
    """How the same is computed faster."""
    checkpoint_minutes: Annotated[float, Field(gt=0.0)] = 10.0
    """A checkpoint is also written inside an epoch, this often."""
    sanity: SanitySection = SanitySection()
    """When to warn of what goes wrong."""

    @model_validator(mode="after")
    def _possible(self) -> TrainerSection:
        if self.patience is not None and self.select == "last":
            raise ValueError("patience needs a validation result; it cannot be used with select: last")
        if self.strategy != "auto" and self.devices == 1 and self.nodes == 1:
            raise ValueError(f"strategy: {self.strategy} is for several processes; set devices, 2 for example, or auto")
        return self


class Recipe(Section):
    """All that determines a run."""

    data: DataSection
    clips: ClipsSection = ClipsSection()
    model: ModelSection
    init: InitSection = InitSection()
    task: TaskSection = TaskSection()
    optim: OptimSection = OptimSection()
    trainer: TrainerSection = TrainerSection()
    output: Path | None = None
    """Folder of the run. By default a fresh one under `runs/`."""

    @model_validator(mode="after")
    def _motion_of_modality(self) -> Recipe:
        streams, motion = self.data.streams, self.clips.motion
        moving = [stream for stream in streams if stream != "rgb"]
        if not moving and motion != MotionSection():
            raise ValueError("clips.motion is of what moves; set data.modality, flow for example, or leave it out")
        has_flow = "flow" in streams or "flow_magnitude" in streams
        if moving and not has_flow and motion != MotionSection(stack=motion.stack, interval_s=motion.interval_s):
            raise ValueError("clips.motion: differences of frames have stack and interval_s alone; the rest is of flow")
        if motion.magnitude and "flow" not in streams:
            raise ValueError("clips.motion.magnitude: is of data.modality=flow; flow_magnitude has nothing else")
        # What turns or bends pictures would have to turn movements too; and colours are of frames alone.
        of_pictures = ("rotation_deg", "rand_augment", *(() if "rgb" in streams else ("hue", "grey", "blur")))
        given = [key for key in of_pictures if moving and getattr(self.clips.augmentation, key)]
        if given:
            raise ValueError(
                f"clips.augmentation.{given[0]}: changes pictures, and data.modality has {', '.join(moving)}"
            )
        return self

    def to_dict(self) -> dict[str, Any]:
        """Builtin types only, as it is written to YAML and JSON."""
        return {
            "data": self.data.model_dump(mode="json"),
            "clips": self.clips.model_dump(mode="json"),
            "model": self.model.model_dump(mode="json"),
            "init": self.init.model_dump(mode="json"),
            "task": self.task.model_dump(mode="json"),
            "optim": self.optim.model_dump(mode="json"),
            "trainer": self.trainer.model_dump(mode="json"),
            "output": None if self.output is None else str(self.output),
        }

    def to_yaml(self) -> str:
        return to_yaml(self.to_dict())


def _source(weights: str) -> str:
    return weights if weights == "published" else str(_absolute(Path(weights)))


def _absolute(path: Path) -> Path:
    try:
        return path.expanduser().absolute()
    except RuntimeError as error:  # ~ of somebody who has no home here
        raise ValueError(str(error)) from None
