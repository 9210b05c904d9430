"""A recipe: the typed sections of a training run, checked before anything heavy is imported.

`resolve` turns the mapping of a YAML file, and `section.key=value` overrides, into a `Recipe` whose every value is
known. `data:` and `model:` take the keyword arguments of the function that they name (see `kinema.registry`), so the
pydantic model of those two sections is made from the function's signature.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator

from kinema import registry
from kinema.registry import REQUIRED, Entry, suggest
from kinema.types import ConfigError, Fit

PositiveInt = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, lt=1.0)]
S = TypeVar("S", bound="Section")


class Section(BaseModel):
    """Base of all sections: no unknown keys, no change after it was checked."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    def arguments(self) -> dict[str, Any]:
        """The keys that a `data:` or `model:` section adds to those that every such section has."""
        common = set(DataSection.model_fields) | set(ModelSection.model_fields)
        return {name: getattr(self, name) for name in type(self).model_fields if name not in common}


class DataSection(Section):
    """Which clips: the name of a data set, where it lies, and the arguments of its function."""

    name: str
    """A data set: see `kinema datasets`."""
    root: Path | None = None
    """Folder (or annotation file) of the data set."""
    validation: Share = 0.0
    """Share of the training clips, whole groups at a time, that becomes the validation split where there is none."""


class Augmentation(Section):
    """Random changes of a training clip, the same for all of its frames."""

    jitter: bool = True
    """Draw each frame's time at random inside its own share of the clip, instead of its middle."""
    flip: Share = 0.5
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
    """Mean of the pixels (0..1) that the weights expect, per channel. By default what the backbone publishes."""
    std: tuple[float, float, float] | None = None
    """Like `mean`: the standard deviation."""
    freeze: Literal["none", "backbone"] = "none"
    """`backbone`: the frame backbone keeps its weights, and its batch norm its statistics."""

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
    """`cosine` falls to zero at the last step."""
    warmup_epochs: Annotated[float, Field(ge=0.0)] = 0.0
    """Epochs in which the learning rate rises from zero."""
    clip_norm: Annotated[float, Field(gt=0.0)] | None = 1.0
    """Largest norm of the gradient; null: no clipping."""


class TrainerSection(Section):
    """How long, on what, and which epoch is kept."""

    epochs: PositiveInt = 30
    """Passes over the training clips."""
    seed: Annotated[int, Field(ge=0)] = 0
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
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)


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
    """The pydantic model of a `data:` or `model:` section, from the signature of the function that it names."""
    base = DataSection if entry.kind == "dataset" else ModelSection
    fields: dict[str, Any] = {"name": (Literal[entry.name], Field(description=entry.summary))}
    for parameter in entry.parameters:
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
            part.setdefault("required", []).append("name")
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


def parse_yaml(text: str, *, source: str) -> Any:
    """Read YAML in which `1e-4` is a number.

    Args:
        text: The YAML.
        source: Where it comes from, for the error message.

    Raises:
        ConfigError: It is not YAML.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a safe loader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark is not None else ""
        raise ConfigError(f"{source}: not valid YAML{place}: {getattr(error, 'problem', error)}") from None


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads `1e-4` as text; people write learning rates like that."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


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
        raise ConfigError("\n".join(_line(model, problem, prefix) for problem in error.errors())) from None


def _line(model: type[Section], problem: Any, prefix: str) -> str:
    """One problem as one line: the key, what was expected, what was given, the nearest key."""
    location = [str(part) for part in problem["loc"]]
    key = ".".join([prefix, *location] if prefix else location)
    if problem["type"] == "extra_forbidden":
        return f"{key}: unknown key{suggest(location[-1], _keys(model, location[:-1]))}"
    if problem["type"] == "missing":
        return f"{key}: missing; it has to be given"
    message = problem["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    given = "" if isinstance(problem["input"], Mapping | Section) else f", got {problem['input']!r}"
    return f"{key}: {message}{given}"


def _keys(model: Any, path: list[str]) -> list[str]:
    for part in path:
        model = model.model_fields[part].annotation
    return list(model.model_fields)


def _copy(value: Any) -> Any:
    return {key: _copy(item) for key, item in value.items()} if isinstance(value, Mapping) else value
