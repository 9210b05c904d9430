"""A recipe: the typed sections of a training run, checked before anything heavy is imported.

`resolve` turns the mapping of a YAML file, and `section.key=value` overrides, into a `Recipe` whose every value is
known. `data:` and `model:` take the keyword arguments of the function that they name (see `kinema.registry`), so the
pydantic model of those two sections is made from the function's signature.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    create_model,
    field_validator,
    model_validator,
)

from kinema import registry
from kinema.files import parse_yaml, to_yaml
from kinema.registry import REQUIRED, Entry, suggest
from kinema.types import ConfigError, Fit

PositiveInt = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, lt=1.0)]
S = TypeVar("S", bound="Section")


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
            raise ValueError(f"expected {_words(annotation)}")
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
    store: Literal["auto", "none"] = "auto"
    """`auto`: where the backbone is frozen and `augmentation.views` is a number, frames go through the backbone once
    and training reads its features, stored in fp16. `none`: they go through it in every epoch."""
    batch_size: PositiveInt = 16
    """Clips per training step."""
    workers: Annotated[int, Field(ge=0)] = 2
    """Processes that read clips."""

    @model_validator(mode="after")
    def _resize_covers_crop(self) -> ClipsSection:
        if self.resize_px is not None and self.resize_px < self.size_px:
            raise ValueError(f"resize_px ({self.resize_px}) is smaller than size_px ({self.size_px})")
        if self.resize_px is not None and self.fit == "squash":
            raise ValueError("resize_px has no meaning with fit: squash; leave it out")
        return self


class ModelSection(Section):
    """The name of a model and the arguments of its function."""

    name: str
    """A model: see `kinema models`."""


class InitSection(Section):
    """Where weights come from, and which of them stay as they are. The same for every model."""

    weights: str | None = None
    """`published` (the weights that the backbone's library publishes), a file of weights, a weights folder of kinema,
    or null: from scratch."""
    mean: tuple[float, float, float] | None = None
    """Mean of the pixels (0..1) that a *file* of weights expects, per channel: files do not say. Published weights and
    weights folders bring their own. null: that of the published weights."""
    std: tuple[float, float, float] | None = None
    """Like `mean`: the standard deviation."""
    freeze: Literal["none", "backbone"] = "none"
    """`backbone`: the frame backbone keeps its weights, and its batch norm its statistics."""

    @field_validator("weights")
    @classmethod
    def _absolute(cls, weights: str | None) -> str | None:
        """A run can be continued from any folder."""
        return weights if weights in (None, "published") else str(_absolute(Path(weights)))

    @model_validator(mode="after")
    def _possible(self) -> InitSection:
        if self.freeze == "backbone" and self.weights is None:
            raise ValueError("freeze: backbone needs init.weights; random weights would stay random")
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
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    """Decoupled weight decay; norms and biases have none."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """`cosine` falls to zero, which it would reach one step after the last."""
    warmup_epochs: Annotated[float, Field(ge=0.0)] = 0.0
    """Epochs in which the learning rate rises from zero."""
    clip_norm: Annotated[float, Field(gt=0.0)] | None = 1.0
    """Largest norm of the gradient; null: no clipping."""


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


def resolve(values: Mapping[str, Any], overrides: Iterable[str] = ()) -> Recipe:
    """Check a recipe and fill in every default.

    Args:
        values: Content of a recipe file.
        overrides: `section.key=value`, each value in YAML.

    Raises:
        ConfigError: A key is unknown, of the wrong type, or impossible beside another.
    """
    merged = apply_overrides(values, overrides)
    unknown = [key for key in merged if key not in Recipe.model_fields]
    if unknown:
        raise ConfigError(f"{unknown[0]}: unknown section{suggest(unknown[0], Recipe.model_fields)}")
    sections: dict[str, Any] = {}
    for name, model in _section_models(merged).items():
        content = merged.get(name)
        if content is not None and not isinstance(content, Mapping):
            raise ConfigError(f"{name}: expected keys and values, got {content!r}")
        sections[name] = _validated(model, content or {}, prefix=name)
    return _validated(Recipe, {**sections, "output": merged.get("output")}, prefix="")


def resolve_evaluation(
    data: Mapping[str, Any], overrides: Iterable[str], *, clips: Mapping[str, Any]
) -> tuple[DataSection, ClipsSection]:
    """The `data:` section of an evaluation, and how its clips are read.

    Args:
        data: The section that a model was trained with.
        overrides: `data.key=value`, `clips.batch_size=...` and `clips.workers=...`. Another data set's name drops the
            other keys of the one before.
        clips: Settings of reading that hold where no override says otherwise.

    Raises:
        ConfigError: A key is unknown, or belongs to the weights and cannot be changed.
    """
    overrides = list(overrides)
    for override in overrides:
        key = override.partition("=")[0].strip()
        if key.startswith("clips.") and key not in ("clips.batch_size", "clips.workers"):
            raise ConfigError(f"{key}: belongs to the weights; a model is only ever run as it was trained")
        if not key.startswith(("data.", "clips.")):
            raise ConfigError(f"{key}: an evaluation takes data.*, clips.batch_size and clips.workers")
    name = apply_overrides({}, [o for o in overrides if o.partition("=")[0].strip() == "data.name"])
    if name and name["data"]["name"] != data["name"]:
        data = {}
    merged = apply_overrides({"data": data, "clips": clips}, overrides)
    entry = registry.entry("dataset", str(merged["data"].get("name")), key="data.name")
    section = _validated(section_model(entry), merged["data"], prefix="data")
    return cast("DataSection", section), _validated(ClipsSection, merged["clips"], prefix="clips")


def section_model(entry: Entry) -> type[Section]:
    """The pydantic model of a `data:` or `model:` section, from the signature of the function that it names.

    Raises:
        ConfigError: A parameter of the function would hide a key that every such section has.
    """
    base = DataSection if entry.kind == "dataset" else ModelSection
    fields: dict[str, Any] = {"name": (Literal[entry.name], Field(description=entry.summary))}
    for parameter in entry.parameters:
        if parameter.name in base.model_fields:
            section = "data" if base is DataSection else "model"
            raise ConfigError(f"{section}.{parameter.name}: {entry.name} has a parameter of that name; rename it there")
        default = ... if parameter.default is REQUIRED else parameter.default
        fields[parameter.name] = (parameter.annotation, Field(default, description=parameter.doc))
    return cast("type[Section]", create_model(entry.name, __base__=base, **fields))


def json_schema() -> dict[str, Any]:
    """JSON schema of a recipe, for editors: completion and checks of every key, `data:` and `model:` by their name."""
    schema = Recipe.model_json_schema()
    definitions = schema["$defs"]
    for section, kind in (("data", "dataset"), ("model", "model")):
        names = []
        for entry in registry.entries(cast("registry.Kind", kind)).values():
            part = section_model(entry).model_json_schema(ref_template="#/$defs/{model}")
            definitions.update(part.pop("$defs", {}))
            names.append(f"{kind}.{entry.name}")
            definitions[names[-1]] = part
        schema["properties"][section] = {"oneOf": [{"$ref": f"#/$defs/{name}"} for name in names]}
    definitions.pop("DataSection", None)
    definitions.pop("ModelSection", None)
    found: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "kinema recipe",
        **schema,
    }
    return found


def apply_overrides(values: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Values with `section.key=value` applied, each value read as YAML.

    Raises:
        ConfigError: An override is not of that form, or goes below something that has no keys.
    """
    merged = _copy(values)
    for override in overrides:
        path, separator, text = override.partition("=")
        keys = path.strip().split(".")
        if not separator or not all(keys):
            raise ConfigError(f"{override!r}: expected section.key=value, as in optim.lr=1e-4")
        place = merged
        for depth, key in enumerate(keys[:-1]):
            if place.get(key) is None:
                place[key] = {}
            place = place[key]
            if not isinstance(place, dict):
                raise ConfigError(f"{path}: {'.'.join(keys[: depth + 1])} is a value, it has no keys below it")
        place[keys[-1]] = parse_yaml(text, source=override)
    return merged


def _section_models(values: Mapping[str, Any]) -> dict[str, type[Section]]:
    models: dict[str, type[Section]] = {
        "clips": ClipsSection,
        "init": InitSection,
        "task": TaskSection,
        "optim": OptimSection,
        "trainer": TrainerSection,
    }
    for section, kind in (("data", "dataset"), ("model", "model")):
        content = values.get(section)
        if not isinstance(content, Mapping) or content.get("name") is None:
            known = ", ".join(registry.entries(cast("registry.Kind", kind)))
            raise ConfigError(f"{section}.name: missing; give the name of a {kind} (known: {known})")
        entry = registry.entry(cast("registry.Kind", kind), str(content["name"]), key=f"{section}.name")
        models[section] = section_model(entry)
    return models


def _validated(model: type[S], values: Any, *, prefix: str) -> S:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = [line for problem in error.errors() if (line := _line(model, values, problem, prefix)) is not None]
        raise ConfigError("\n".join(dict.fromkeys(lines))) from None


def _line(model: type[Section], values: Any, problem: Any, prefix: str) -> str | None:
    """One problem as one line: the key, what was expected, what was given, the nearest key. None for a problem that
    says no more than another one."""
    annotation: Any = model
    names: list[str] = []
    for part in problem["loc"]:
        if not (isinstance(annotation, type) and issubclass(annotation, Section) and part in annotation.model_fields):
            break
        names.append(part)
        annotation, values = annotation.model_fields[part].annotation, values.get(part)
    inside = [str(part) for part in problem["loc"][len(names) :]]
    several = get_origin(annotation) in (Union, UnionType) and len(set(get_args(annotation)) - {type(None)}) > 1
    if inside and isinstance(values, Mapping) and several:
        # Of several types, pydantic says why the value is none of them; keys and values were meant as such.
        if not inside[0].startswith("dict"):
            return None
        inside = inside[1:]
    key = ".".join([*([prefix] if prefix else []), *names])
    if problem["type"] == "extra_forbidden":
        return f"{key}.{inside[0]}: unknown key{suggest(inside[0], annotation.model_fields)}"
    wrong_type = problem["type"].endswith(("_type", "_parsing")) and not inside
    if wrong_type or (inside and not isinstance(values, Mapping)):
        # Pydantic tells what is wrong with each item, and why it is none of the types of a union: one line is enough.
        return f"{key}: expected {_words(annotation)}, got {values!r}"
    key = ".".join([key, *inside])
    if problem["type"] == "missing":
        return f"{key}: missing; it has to be given"
    message = problem["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    given = "" if isinstance(problem["input"], Mapping | Section) else f", got {problem['input']!r}"
    return f"{key}: {message}{given}"


def _words(annotation: Any) -> str:
    """A type as somebody who writes YAML would say it."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _words(arguments[0])
    if origin is Literal:
        return " or ".join(map(str, arguments))
    if origin in (list, tuple):
        items = (*arguments, ...) if origin is list else arguments
        return "[" + ", ".join("..." if item is ... else _words(item) for item in items) + "]"
    if origin is not None and origin is not dict:
        return " or ".join(_words(argument) for argument in arguments)
    words = {
        str: "text",
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        Path: "a path",
        type(None): "null",
    }
    return words.get(annotation, "keys and values")


def _absolute(path: Path) -> Path:
    try:
        return path.expanduser().absolute()
    except RuntimeError as error:  # ~ of somebody who has no home here
        raise ValueError(str(error)) from None


def _copy(value: Any) -> Any:
    return {key: _copy(item) for key, item in value.items()} if isinstance(value, Mapping) else value
