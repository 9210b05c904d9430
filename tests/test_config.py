"""Recipes: what is wrong is named by its key in one line, and what is right survives being written and read."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kinema import files, recipes
from kinema.config import apply_overrides, resolve, resolve_evaluation
from kinema.files import parse_yaml, to_yaml
from kinema.registry import REQUIRED, entries
from kinema.sections import Augmentation, ClipsSection, Recipe, Section
from kinema.types import ConfigError

MOTION: dict[str, Any] = {"data": {"name": "motion"}, "model": {"name": "cnn_conv1d", "backbone": "tiny"}}
TABLE: dict[str, Any] = {"data": {"name": "table", "root": "clips"}, "model": {"name": "frame_average"}}


def problem(values: Mapping[str, Any], *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        resolve(values, overrides)
    return str(caught.value)


# What is wrong

UNKNOWN = {
    "modle.name=x": "modle: unknown section; did you mean 'model'?",
    "optim.learning_rate=1": "optim.learning_rate: unknown key",
    "optim.shedule=cosine": "optim.shedule: unknown key; did you mean 'schedule'?",
    "clips.augmentation.flp=0": "clips.augmentation.flp: unknown key; did you mean 'flip'?",
    "model.kernel_sise=3": "model.kernel_sise: unknown key; did you mean 'kernel_size'?",
    "model.hidden_size=3": "model.hidden_size: unknown key",  # cnn_lstm has it, this model has not
    "data.task=[verb]": "data.task: unknown key; did you mean 'tasks'?",
    "data.name=moton": "data.name: there is no dataset 'moton'; did you mean 'motion'?",
    "model.name=null": "model.name: missing",
    "data=null": "data.name: missing",
    "1=2": "1: unknown section",
    "optim.1=2": "optim.1: unknown key",
}
IMPOSSIBLE = {
    "clips.batch_size=0": "clips.batch_size: input should be greater than or equal to 1, got 0",
    "clips.workers=-1": "clips.workers: input should be greater than or equal to 0, got -1",
    "trainer.patience=0": "trainer.patience: input should be greater than or equal to 1, got 0",
    "task.weights.verb=-1": "task.weights.verb: input should be greater than or equal to 0, got -1",
    "optim.lr=.inf": "optim.lr: input should be a finite number, got inf",
    "data.size_px=2.5": "data.size_px: input should be a valid integer, got a number with a fractional part, got 2.5",
    "clips.fit=stretch": "clips.fit: input should be 'crop' or 'squash', got 'stretch'",
    "data.root=~nobody-here/clips": "data.root: could not determine home directory., got '~nobody-here/clips'",
    "init.freeze=backbone": "init: freeze: backbone needs init.weights; random weights would stay random",
    "init.mean=[0.5, 0.5, 0.5]": "init: mean and std belong together; give both or neither",
    "init={mean: [0, 0, 0], std: [1, 1, 0]}": "init: std has to be above 0",
    "clips={size_px: 64, resize_px: 32}": "clips: resize_px (32) is smaller than size_px (64)",
    "clips={fit: squash, resize_px: 256}": "clips: resize_px has no meaning with fit: squash; leave it out",
    "clips.window_s=0": "clips.window_s: input should be greater than 0, got 0",
    "clips.window_s=.inf": "clips.window_s: input should be a finite number, got inf",
    "clips={window_s: 2, augmentation: {frame_stride: [1, 5]}}": (
        "clips: window_s (2) and augmentation.frame_stride are two ways to say how much of a clip is seen; give one of "
        "them"
    ),
    "trainer={patience: 3, select: last}": (
        "trainer: patience needs a validation result; it cannot be used with select: last"
    ),
}
WRONG_TYPE = {
    "optim=[1]": "optim: expected keys and values, got [1]",
    "clips.augmentation=3": "clips.augmentation: expected keys and values, got 3",
    "optim.lr=fast": "optim.lr: expected a number, got 'fast'",
    "optim.lr=true": "optim.lr: expected a number, got True",
    "optim.lr=null": "optim.lr: expected a number, got None",
    "trainer.epochs=true": "trainer.epochs: expected a whole number, got True",
    "clips.augmentation.jitter=3": "clips.augmentation.jitter: expected true or false, got 3",
    "init.weights=3": "init.weights: expected text or keys and values or null, got 3",
    "init.mean=[0.5]": "init.mean: expected [a number, a number, a number] or null, got [0.5]",
    "init.mean=[a, b, c]": "init.mean: expected [a number, a number, a number] or null, got ['a', 'b', 'c']",
    "output=[run]": "output: expected a path or null, got ['run']",
    "data.tasks=noun": "data.tasks: expected [verb or noun, ...], got 'noun'",
    "data.tasks=[verb, nuon]": "data.tasks: expected [verb or noun, ...], got ['verb', 'nuon']",
    "data.size_px=big": "data.size_px: expected a whole number, got 'big'",
}


@pytest.mark.parametrize(("override", "start"), UNKNOWN.items())
def test_an_unknown_key_is_named_with_the_nearest_one(override: str, start: str) -> None:
    message = problem(MOTION, override)
    assert message.startswith(start)
    assert "\n" not in message


@pytest.mark.parametrize(("override", "expected"), {**IMPOSSIBLE, **WRONG_TYPE}.items())
def test_a_wrong_value_is_one_line(override: str, expected: str) -> None:
    assert problem(MOTION, override) == expected


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("data.labels=3", "data.labels: expected text or [text, ...] or null, got 3"),
        ("data.group=3", "data.group: expected text or [text, ...] or null, got 3"),
        ("data.labels=[label, 3]", "data.labels: expected text or [text, ...] or null, got ['label', 3]"),
        ("data.where=3", "data.where: expected keys and values or null, got 3"),
        ("data.classes.label=3", "data.classes.label: input should be a valid string, got 3"),
    ],
)
def test_a_value_that_fits_none_of_several_types_is_one_line(override: str, expected: str) -> None:
    assert problem(TABLE, override) == expected


def test_every_problem_of_a_section_has_its_own_line() -> None:
    lines = problem(TABLE, "data.labels=3", "data.lables=4", "data.validation=2").splitlines()
    assert [line.partition(":")[0] for line in lines] == ["data.validation", "data.labels", "data.lables"]


def test_a_required_argument_has_to_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    lstm = entries("model")["cnn_lstm"]
    parameters = [replace(p, default=REQUIRED) if p.name == "pool" else p for p in lstm.parameters]
    known = {"model": {"cnn_lstm": replace(lstm, parameters=tuple(parameters))}, "dataset": entries("dataset")}
    monkeypatch.setattr("kinema.registry.entries", known.__getitem__)
    values = {**MOTION, "model": {"name": "cnn_lstm"}}
    assert problem(values) == "model.pool: missing; it has to be given"
    assert resolve(values, ["model.pool=mean"]).model.arguments()["pool"] == "mean"


# Overrides


def test_overrides_reach_any_depth_and_replace_lists() -> None:
    values = {"a": {"b": {"c": 1, "d": [1, 2]}}}
    before = copy.deepcopy(values)
    assert apply_overrides(values, ["a.b.c=2", "a.b.d=[3]", "a.e={f: 4}", "g.h.i=null", "a.b.j = x=y "]) == {
        "a": {"b": {"c": 2, "d": [3], "j": "x=y"}, "e": {"f": 4}},
        "g": {"h": {"i": None}},
    }
    assert values == before


def test_later_overrides_win() -> None:
    assert resolve(MOTION, ["optim.lr=1", "optim.lr=2"]).optim.lr == 2


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E+3", 1000.0),
        ("-2.5e3", -2500.0),
        (".5", 0.5),
        ("'1e-4'", "1e-4"),
        ('"3"', "3"),
        ("007", "007"),  # a participant, not an octal number
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("2024-01-31", "2024-01-31"),
        ("2024-13-45", "2024-13-45"),
        ("0x1F", 31),
        ("-0", 0),
        ("", None),
        ("~", None),
        ("[a, 1]", ["a", 1]),
        ("{a: 1}", {"a": 1}),
    ],
)
def test_values_are_what_they_look_like(text: str, value: object) -> None:
    found = parse_yaml(text, source="here")
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("override", ["optim", "=1", "optim.=1", ".lr=1", "optim..lr=1", ""])
def test_an_override_of_another_form_is_refused(override: str) -> None:
    assert problem(MOTION, override) == f"{override!r}: expected section.key=value, as in optim.lr=1e-4"


def test_an_override_below_a_value_is_refused() -> None:
    assert problem(MOTION, "optim.lr=1", "optim.lr.x=2") == "optim.lr.x: optim.lr is a value, it has no keys below it"


@pytest.mark.parametrize("text", ["a: [1", "a: b: c", "a: 1\na: 2", "\x00", "!!python/object:os.system {}", "*a"])
def test_what_is_not_yaml_is_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^recipe\.yaml: not valid YAML") as caught:
        parse_yaml(text, source="recipe.yaml")
    assert "\n" not in str(caught.value)


def test_a_key_that_is_given_twice_is_named() -> None:
    with pytest.raises(ConfigError, match="line 3: the key 'lr' is given twice"):
        parse_yaml("optim:\n  lr: 1\n  lr: 2\n", source="recipe.yaml")


def test_a_merge_key_may_be_overridden() -> None:
    assert parse_yaml("a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  x: 3\n", source="")["b"] == {"x": 3, "y": 2}


# Writing and reading again


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """All values, not by way of what writes them."""
    sections = {name: getattr(recipe, name) for name in Recipe.model_fields}
    return {name: value.model_dump() if isinstance(value, Section) else value for name, value in sections.items()}


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\x7f"), max_size=12) | st.from_regex(
    r"[-+]?[0-9][0-9_.:eExX-]{0,6}", fullmatch=True
)
PATHS = TEXTS.filter(lambda text: text and "\0" not in text and not text.startswith("~"))
SCALARS = TEXTS | st.sampled_from(["yes", "no", "null", "~", "1e-4", "<<", "=", ".inf"]) | st.integers() | st.booleans()


@given(
    st.recursive(
        SCALARS | st.none() | st.floats(allow_nan=False),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
        max_leaves=6,
    )
)
def test_what_is_written_as_yaml_is_read_as_the_same(value: Any) -> None:
    text = to_yaml(value)
    found = parse_yaml(text, source="")
    assert found == value
    assert repr(found) == repr(value)  # True is not 1
    assert repr(yaml.load(text, Loader=files._Loader)) == repr(value)  # where there is no libyaml


@given(st.text("ab1:-,[]{}\"'#&*|>?% \n.~", max_size=14))
def test_with_and_without_libyaml_the_same_is_read(text: str) -> None:
    """But for a `!` alone, a tag that says nothing."""
    answers: list[str | None] = []
    for loader in (files._QuickLoader, files._Loader):
        try:
            answers.append(repr(yaml.load(text, Loader=loader)))
        except yaml.YAMLError:
            answers.append(None)
    assert None in answers or answers[0] == answers[1]


@settings(max_examples=40)
@given(
    data=st.fixed_dictionaries(
        {"name": st.just("table"), "root": PATHS},
        optional={
            "labels": TEXTS | st.lists(TEXTS, max_size=3),
            "where": st.dictionaries(TEXTS, SCALARS | st.lists(SCALARS, max_size=2), max_size=2),
            "classes": st.dictionaries(TEXTS, TEXTS, max_size=2),
            "validation": st.floats(0, 1, exclude_max=True),
        },
    ),
    clips=st.fixed_dictionaries(
        {},
        optional={
            "num_frames": st.integers(1, 10_000),
            "size_px": st.integers(8, 1000),
            "augmentation": st.fixed_dictionaries({}, optional={"flip": st.floats(0, 1, exclude_max=True)}),
        },
    ),
    lr=st.floats(0, exclude_min=True, allow_infinity=False, allow_nan=False),
    weights=PATHS | st.none(),
    output=st.none() | PATHS,
)
def test_a_recipe_survives_being_written_and_read(
    data: dict[str, Any], clips: dict[str, Any], lr: float, weights: str | None, output: str | None
) -> None:
    recipe = resolve(
        {
            "data": data,
            "clips": clips,
            "model": {"name": "cnn_lstm"},
            "init": {"weights": weights},
            "optim": {"lr": lr},
            "output": output,
        }
    )
    assert settings_of(resolve(parse_yaml(recipe.to_yaml(), source=""))) == settings_of(recipe)


@pytest.mark.parametrize("name", recipes.names())
def test_every_shipped_recipe_resolves_and_survives(name: str) -> None:
    recipe = resolve(recipes.read(name))
    assert settings_of(resolve(parse_yaml(recipe.to_yaml(), source=""))) == settings_of(recipe)
    assert name.partition("/")[2].startswith(recipe.model.name) or name.startswith("ut_interaction/best")


def test_a_resolved_recipe_has_every_default() -> None:
    recipe = resolve(MOTION)
    assert recipe.model.arguments() == {
        p.name: "tiny" if p.name == "backbone" else p.default for p in entries("model")["cnn_conv1d"].parameters
    }
    assert recipe.data.arguments() == {p.name: p.default for p in entries("dataset")["motion"].parameters}
    assert recipe.data.root is None
    assert json.loads(json.dumps(recipe.to_dict())) == recipe.to_dict()


# Evaluation

TRAINED = {"name": "table", "root": "clips", "labels": "label", "validation": 0.1}


def test_an_evaluation_uses_the_data_of_training() -> None:
    data, clips = resolve_evaluation(TRAINED, [], clips={"batch_size": 3})
    assert (data.name, data.root, data.validation, data.arguments()["labels"]) == (
        "table",
        Path("clips").absolute(),
        0.1,
        "label",
    )
    assert clips.batch_size == 3


def test_an_evaluation_may_use_other_data() -> None:
    data, clips = resolve_evaluation(TRAINED, ["data.root=other", "clips.workers=0"], clips={})
    assert (data.root, data.validation, clips.workers) == (Path("other").absolute(), 0.1, 0)
    _, clips = resolve_evaluation(TRAINED, ["clips.decoder=opencv", "clips.store=none"], clips={})
    assert (clips.decoder, clips.store) == ("opencv", "none")
    data, _ = resolve_evaluation(TRAINED, ["data.name=folder", "data.root=other"], clips={})
    assert (data.name, data.root, data.validation) == ("folder", Path("other").absolute(), 0.0)
    data, _ = resolve_evaluation(TRAINED, ["data.name=table"], clips={})
    assert data.root == Path("clips").absolute()


@pytest.mark.parametrize(
    ("override", "start"),
    [
        ("clips.size_px=64", "clips.size_px: belongs to the weights"),
        ("clips.augmentation.flip=0", "clips.augmentation.flip: belongs to the weights"),
        ("clips=3", "clips: an evaluation takes data.*"),
        ("model.name=cnn_lstm", "model.name: an evaluation takes data.*"),
        ("test", "test: an evaluation takes data.*"),
        ("data.lables=x", "data.lables: unknown key; did you mean 'labels'?"),
        ("data.name=tabel", "data.name: there is no dataset 'tabel'; did you mean 'table'?"),
        ("clips.batch_size=0", "clips.batch_size: input should be greater"),
    ],
)
def test_an_evaluation_takes_no_other_settings(override: str, start: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_evaluation(TRAINED, [override], clips={})
    assert str(caught.value).startswith(start)


# Finding recipes


def test_a_path_wins_over_a_shipped_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "motion").mkdir()
    (tmp_path / "motion" / "cnn_lstm").write_text("data: {name: mine}\n")
    assert recipes.read("motion/cnn_lstm") == {"data": {"name": "mine"}}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("motion/cnn_ltsm", "motion/cnn_ltsm: no such recipe; did you mean 'motion/cnn_lstm'?"),
        ("mine.yaml", "mine.yaml: no such file"),
    ],
)
def test_a_recipe_that_is_not_there(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        recipes.read(name)


@pytest.mark.parametrize("content", [b"", b"- a\n", b"text", b"\xff\xfe\x00"])
def test_a_recipe_that_holds_no_sections(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"^{re.escape(str(path))}: ") as caught:
        recipes.read(str(path))
    assert "\n" not in str(caught.value)


def test_a_store_is_found_from_any_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert ClipsSection(store=Path("stores/s")).store == tmp_path / "stores" / "s"
    assert ClipsSection(store=Path("~/s")).store == Path("~/s").expanduser()
    assert ClipsSection(store="auto").store == "auto"


@pytest.mark.parametrize(("colour", "views"), [(0.0, 1), (0.1, None)])
def test_without_anything_random_there_is_one_version(colour: float, views: int | None) -> None:
    assert Augmentation(jitter=False, flip=0, min_scale=1, colour=colour).num_views == views
    assert Augmentation(colour=colour, views=3).num_views == 3
