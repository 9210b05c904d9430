"""The sections of a recipe: every key with its type, its default and what it means."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from kinema.files import to_yaml
from kinema.types import Fit, Pixels

PositiveInt = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, lt=1.0)]


class Section(BaseModel):
    """Base of all sections: no unknown keys, no change after it was checked."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Python takes true for 1."""
        assert info.field_name is not None
        annotation = cls.model_fields[info.field_name].annotation
        if isinstance(value, bool) and {bool, Any}.isdisjoint((annotation, *get_args(annotation))):
            raise ValueError(f"expected {words(annotation)}")
        return value

    def arguments(self) -> dict[str, Any]:
        """The keys that a `data:` or `model:` section adds to those that every such section has."""
        common = (DataSection if isinstance(self, DataSection) else ModelSection).model_fields
        return {name: getattr(self, name) for name in type(self).model_fields if name not in common}


class DataSection(Section):
    """Which clips: the name of a data set, where it lies, and the arguments of its function."""

    name: str
    """A data set: see `kinema datasets`."""
    root: Path | None = None
    """Folder (or annotation file) of the data set."""
    validation: Share = 0.0
    """Share of the training clips, whole groups at a time, that becomes the validation split where there is none."""
    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the training clips to use, whole groups at a time, of every class as nearly as they allow. The other
    splits stay whole."""
    class_map: str | dict[str, str] | None = None
    """New names of classes: {old: new}, a YAML file that holds that, or the name of a shipped one. Classes that get
    the same name become one."""
    quarantine: Path | None = None
    """File of videos that are not to be used, as `kinema data check` writes it; by default kinema-quarantine.csv in
    the root, if it is there."""
    download: bool = False
    """Fetch what the root lacks before the first use, as `kinema data download` does. Its licence has to be accepted
    before, there or by KINEMA_ACCEPT_LICENCE=1; KINEMA_MIRROR names another place to fetch from."""

    @field_validator("root", "quarantine")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        """A run can be continued and evaluated from any folder."""
        return None if path is None else _absolute(path)


class Augmentation(Section):
    """Random changes of a training clip, the same for all of its frames."""

    views: PositiveInt | None = None
    """How many random versions of a clip there are; epochs take turns. null: a new one in every epoch. With a frozen
    backbone, a number lets the features of all versions be computed once."""
    jitter: bool = True
    """Draw each frame's time at random inside its own share of the clip, instead of its middle."""
    flip: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    """Probability of a horizontal flip. 0 where classes tell left from right."""
    min_scale: Annotated[float, Field(gt=0.0, le=1.0)] = 0.7
    """Smallest area of a random crop, as a share of the whole crop. 1 is no random crop."""
    colour: Annotated[float, Field(ge=0.0, le=1.0)] = 0.2
    """Strength of random brightness, contrast and saturation."""

    @property
    def num_views(self) -> int | None:
        """Versions of a clip that differ: 1 where nothing is random, None where every epoch has its own."""
        still = not self.jitter and self.flip == 0 and self.min_scale == 1 and self.colour == 0
        return 1 if still else self.views


class ClipsSection(Section):
    """How frames are taken from a clip, and how clips are read."""

    num_frames: PositiveInt = 20
    """Frames per clip, uniform in time."""
    size_px: Annotated[int, Field(ge=8)] = 224
    """Height and width of the frames that the model receives."""
    resize_px: Annotated[int, Field(ge=8)] | None = None
    """`fit: crop`: the short side is scaled to this before `size_px` is cut out. By default `size_px`."""
    fit: Fit = "crop"
    """`crop` keeps the aspect ratio and cuts the centre; `squash` scales the whole frame to a square."""
    augmentation: Augmentation = Augmentation()
    """Random changes of training clips."""
    pixels: Pixels | None = None
    """What frames are kept as until they are on the device: `i420` (one plane of brightness and two of colour at half
    the size, as videos hold them) or `rgb`. By default `i420` where `size_px` is even."""
    decoder: Literal["pyav", "torchcodec", "torchcodec_cuda", "opencv"] = "pyav"
    """What decodes videos. A decoder that is not exact to the frame on a container is refused for it.
    `torchcodec_cuda` decodes on the GPU, with `workers: 0`."""
    store: Literal["auto", "none"] | Path = "auto"
    """`auto`: take what `kinema data prepare` has stored where it gives the same numbers; and where the backbone is
    frozen and `augmentation.views` is a number, let frames go through the backbone once and read its features, stored
    in fp16. `none`: neither. A path: the store to read from."""
    batch_size: PositiveInt = 16
    """Clips per training step."""
    workers: Annotated[int, Field(ge=0)] = 2
    """Processes that read clips."""

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
    or null: from scratch. Of a model with several backbones also {backbone: `published` or a file}; those that are not
    named start from scratch."""
    mean: tuple[float, float, float] | None = None
    """Mean of the pixels (0..1) that a *file* of weights expects, per channel: files do not say. Published weights and
    weights folders bring their own. null: that of the published weights."""
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


class TaskSection(Section):
    """What the loss is."""

    label_smoothing: Share = 0.0
    """Share of the target that is spread over all classes."""
    weights: dict[str, Annotated[float, Field(ge=0.0)]] = {}
    """Task -> weight of its loss. 1 where not given."""


class OptimSection(Section):
    """The optimiser and its schedule."""

    name: Literal["adamw"] = "adamw"
    """The optimiser."""
    lr: Annotated[float, Field(gt=0.0)] = 1e-3
    """Learning rate at its highest."""
    backbone_lr_factor: Annotated[float, Field(gt=0.0)] = 1.0
    """The backbone, which is what `init.freeze: backbone` would freeze, learns at `lr` times this: below 1 where it has
    weights that it should not lose, and what is behind it has none yet."""
    stage_lr_factor: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Each stage of the backbone, of those that `init.freeze` counts, learns at this times the rate of the stage behind
    it; the last one at that of the backbone."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    """Decoupled weight decay; norms and biases have none."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """`cosine` falls to zero, which it would reach one step after the last."""
    warmup_epochs: Annotated[float, Field(ge=0.0)] = 0.0
    """Epochs in which the learning rate rises from zero."""
    clip_norm: Annotated[float, Field(gt=0.0)] | None = 1.0
    """Largest norm of the gradient; null: no clipping."""


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
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of forward and backward pass; weights are fp32. `fp16` needs a GPU."""
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """Where to compute."""
    select: Literal["auto", "best", "last"] = "auto"
    """Which epoch's weights are kept: `best` on the validation split, `last`, or `auto`: best where there is a
    validation split, else last. The test split never selects anything."""
    patience: PositiveInt | None = None
    """Stop after this many epochs without a better validation result."""
    runtime: RuntimeSection = RuntimeSection()
    """How the same is computed faster."""
    checkpoint_minutes: Annotated[float, Field(gt=0.0)] = 10.0
    """A checkpoint is also written inside an epoch, this often."""

    @model_validator(mode="after")
    def _possible(self) -> TrainerSection:
        if self.patience is not None and self.select == "last":
            raise ValueError("patience needs a validation result; it cannot be used with select: last")
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


def words(annotation: Any) -> str:
    """A type as somebody who writes YAML would say it."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return words(arguments[0])
    if origin is Literal:
        return " or ".join(map(str, arguments))
    if origin in (list, tuple):
        items = (*arguments, ...) if origin is list else arguments
        return "[" + ", ".join("..." if item is ... else words(item) for item in items) + "]"
    if origin is not None and origin is not dict:
        return " or ".join(words(argument) for argument in arguments)
    named = {
        str: "text",
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        Path: "a path",
        type(None): "null",
    }
    return named.get(annotation, "keys and values")


def _source(weights: str) -> str:
    return weights if weights == "published" else str(_absolute(Path(weights)))


def _absolute(path: Path) -> Path:
    try:
        return path.expanduser().absolute()
    except RuntimeError as error:  # ~ of somebody who has no home here
        raise ValueError(str(error)) from None
