"""Registered functions are known from their source exactly as Python knows them."""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import pytest

from kinema import registry
from kinema.config import section_model
from kinema.registry import REQUIRED, Entry, argument_docs, entries, entry, suggest
from kinema.types import ConfigError, UserError

KINDS: tuple[registry.Kind, ...] = get_args(registry.Kind)
REGISTERED = [pytest.param(found, id=found.name) for kind in KINDS for found in entries(kind).values()]
INTERNAL = {"model": {"cnn_conv1d", "cnn_lstm", "frame_average"}, "dataset": {"folder", "motion", "table", "ucf101"}}

AddPlugIn = Callable[..., None]


@pytest.fixture
def add_plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AddPlugIn]:
    """Installs a distribution with one module and its entry points, as pip would."""

    def add(source: str, *, group: str = "kinema.models", points: str = "one = their_models") -> None:
        (tmp_path / "their_models.py").write_text(textwrap.dedent(source))
        info = tmp_path / "their_models-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-models\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n{points}\n")
        entries.cache_clear()

    monkeypatch.syspath_prepend(str(tmp_path))
    yield add
    entries.cache_clear()
    sys.modules.pop("their_models", None)


def test_everything_of_ours_is_found() -> None:
    for kind in KINDS:
        assert INTERNAL[kind] <= set(entries(kind))
        assert list(entries(kind)) == sorted(entries(kind))


@pytest.mark.parametrize("found", REGISTERED)
def test_source_says_what_the_imported_function_says(found: Entry) -> None:
    function = found.load()
    hints = get_type_hints(function)
    parameters = inspect.signature(function).parameters.values()
    keywords = [parameter for parameter in parameters if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
    assert [(p.name, p.annotation, p.default) for p in found.parameters] == [
        (p.name, hints[p.name], p.default) for p in keywords
    ]
    assert function.__name__ == found.name
    assert function.__module__ == found.module
    assert inspect.getdoc(function) == found.doc


@pytest.mark.parametrize("found", REGISTERED)
def test_every_function_and_keyword_is_documented(found: Entry) -> None:
    assert found.summary.endswith(".")
    assert {p.name for p in found.parameters if not p.doc.endswith(".")} == set()


@pytest.mark.parametrize("found", REGISTERED)
def test_no_keyword_hides_a_key_of_every_section(found: Entry) -> None:
    assert {"name", "root", "validation"}.isdisjoint(p.name for p in found.parameters)


def test_argument_docs() -> None:
    doc = inspect.cleandoc(
        """What it does.

        Args:
            first: One line.
            second: Two lines: the second
                is indented.

        Returns:
            third: not an argument.
        """
    )
    assert argument_docs(doc) == {"first": "One line.", "second": "Two lines: the second is indented."}
    assert argument_docs("What it does.") == {}


def test_an_unknown_name_gets_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match=r"^model\.name: there is no model 'cnn_ltsm'; did you mean 'cnn_lstm'\?"):
        entry("model", "cnn_ltsm", key="model.name")


def test_suggest() -> None:
    assert suggest("tset", ["train", "test"]) == "; did you mean 'test'? (known: train, test)"
    assert suggest("xyz", ["train", "test"]) == " (known: train, test)"
    assert suggest("xyz", []) == ""


def test_a_third_partys_model_is_found_without_being_imported(add_plug_in: AddPlugIn) -> None:
    add_plug_in(
        '''
        from typing import Literal
        from kinema import registry

        @registry.register_model
        def theirs(heads, inputs, *, size: int = -2, mode: Literal["a", "b"] = "a", names: list[str] | None = None,
                   needed: float):
            """A model of theirs.

            Args:
                size: How large.
            """
            return (heads, size)

        def helper(*, x):
            pass
        '''
    )
    found = entries("model")["theirs"]
    assert "their_models" not in sys.modules
    assert (found.module, found.summary) == ("their_models", "A model of theirs.")
    expected: list[tuple[str, Any, Any, str]] = [
        ("size", int, -2, "How large."),
        ("mode", Literal["a", "b"], "a", ""),
        ("names", list[str] | None, None, ""),
        ("needed", float, REQUIRED, ""),
    ]
    assert [(p.name, p.annotation, p.default, p.doc) for p in found.parameters] == expected
    assert found.load()("h", None, size=3, needed=1.0) == ("h", 3)
    assert set(entries("model")) >= INTERNAL["model"]
    assert "theirs" not in entries("dataset")


def test_two_entry_points_may_name_one_module(add_plug_in: AddPlugIn) -> None:
    source = """
        from kinema.registry import register_dataset

        @register_dataset
        def first(root): ...

        @register_dataset
        def second(root): ...
        """
    add_plug_in(source, group="kinema.datasets", points="first = their_models:first\nsecond = their_models:second")
    assert {"first", "second"} <= set(entries("dataset"))


def test_a_parameter_may_not_hide_a_key_of_the_section(add_plug_in: AddPlugIn) -> None:
    source = """
        from kinema.registry import register_dataset

        @register_dataset
        def theirs(root, *, validation: int = 3): ...
        """
    add_plug_in(source, group="kinema.datasets", points="theirs = their_models:theirs")
    with pytest.raises(UserError, match=r"^data\.validation: theirs has a parameter of that name; rename it there"):
        section_model(entries("dataset")["theirs"])


def test_two_of_one_name_are_named(add_plug_in: AddPlugIn) -> None:
    add_plug_in("from kinema.registry import register_model\n@register_model\ndef cnn_lstm(heads, inputs): ...\n")
    with pytest.raises(
        UserError, match=r"two models are called 'cnn_lstm': in kinema\.models\.cnn_lstm and in their_models"
    ):
        entries("model")


@pytest.mark.parametrize("module", ["not_there", "not_there.inside", "their_models_but_not"])
def test_an_entry_point_to_nothing_is_named(add_plug_in: AddPlugIn, module: str) -> None:
    add_plug_in("", points=f"some = {module}")
    with pytest.raises(UserError, match=r"the entry point 'some' of kinema\.models names a module that is not there"):
        entries("model")


@pytest.mark.parametrize("keyword", ["x", "x: Size = 1", "x: float = math.pi"])
def test_a_signature_that_cannot_be_read_is_named(add_plug_in: AddPlugIn, keyword: str) -> None:
    add_plug_in(f"from kinema.registry import register_model\n@register_model\ndef m(heads, inputs, *, {keyword}): ...")
    with pytest.raises(UserError, match=r"their_models\.py: m\(x\)"):
        entries("model")
