"""The two registries, models and data sets, filled by discovery.

A model is a function decorated with `register_model`, a data set a function decorated with `register_dataset`.
What stands before the `*` of its signature is given by kinema; what stands behind it is the recipe's section, and
its annotations and defaults are the section's schema:

    @register_model
    def cnn_lstm(heads: Heads, inputs: Inputs, *, hidden_size: int = 128) -> nn.Module: ...

    @register_dataset
    def ucf101(root: Path, *, fold: Literal[1, 2, 3] = 1) -> Dataset: ...

Signatures are read from the source without importing it, so that a recipe can be checked, and a wrong key answered,
without loading torch. Therefore keyword arguments are annotated with builtin types, `Literal` and `Path`, and their
defaults are literals.

Other packages add theirs by entry points in the groups `kinema.models` and `kinema.datasets`, each naming a module.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal, TypeVar

from kinema.types import ConfigError, UserError

Kind = Literal["model", "dataset"]
Function = TypeVar("Function", bound=Callable[..., Any])

_PACKAGES: dict[Kind, str] = {"model": "kinema.models", "dataset": "kinema.data.datasets"}
_GROUPS: dict[Kind, str] = {"model": "kinema.models", "dataset": "kinema.datasets"}
_ANNOTATIONS: dict[str, Any] = {"Literal": Literal, "Path": Path, "Any": Any}
REQUIRED: Any = inspect.Parameter.empty


def register_model(function: Function) -> Function:
    """Mark a function `(heads, inputs, *, ...) -> nn.Module` as a model. Its name is the recipe's `model.name`."""
    return function


def register_dataset(function: Function) -> Function:
    """Mark a function `(root, *, ...) -> Dataset` as a data set. Its name is the recipe's `data.name`."""
    return function


@dataclass(frozen=True)
class Parameter:
    """A keyword of a registered function: a key of the recipe."""

    name: str
    annotation: Any
    default: Any  # REQUIRED where there is none
    doc: str


@dataclass(frozen=True)
class Entry:
    """A registered function, known from its source without having been imported."""

    kind: Kind
    name: str
    module: str
    summary: str
    doc: str
    parameters: tuple[Parameter, ...]

    def load(self) -> Callable[..., Any]:
        """Import the module and return the function itself."""
        function: Callable[..., Any] = getattr(importlib.import_module(self.module), self.name)
        return function


@cache
def entries(kind: Kind) -> dict[str, Entry]:
    """All registered functions of a kind, by name, in alphabetical order."""
    found: dict[str, Entry] = {}
    for module, path in dict.fromkeys(_sources(kind)):  # several entry points may name one module
        for entry in _read(kind, module, path):
            if entry.name in found:
                raise UserError(f"two {kind}s are called {entry.name!r}: in {found[entry.name].module} and in {module}")
            found[entry.name] = entry
    return dict(sorted(found.items()))


def entry(kind: Kind, name: str, *, key: str) -> Entry:
    """The registered function `name`.

    Args:
        kind: Which registry.
        name: The function's name.
        key: The recipe's key that holds the name, for the error message.

    Raises:
        ConfigError: There is none of that name.
    """
    known = entries(kind)
    if name not in known:
        raise ConfigError(f"{key}: there is no {kind} {name!r}{suggest(name, known)}")
    return known[name]


def suggest(word: str, known: Iterator[str] | Any) -> str:
    """`; did you mean X? (known: ...)`, to be put behind a message about an unknown word."""
    from difflib import get_close_matches

    names = [str(name) for name in known]
    close = get_close_matches(str(word), names, n=1, cutoff=0.5)
    nearest = f"; did you mean {close[0]!r}?" if close else ""
    return f"{nearest} (known: {', '.join(names)})" if names else nearest


def _sources(kind: Kind) -> Iterator[tuple[str, Path]]:
    package = _PACKAGES[kind]
    folder = Path(__file__).parent.joinpath(*package.split(".")[1:])
    for path in sorted(folder.glob("*.py")):
        if path.stem != "__init__":
            yield f"{package}.{path.stem}", path
    for point in entry_points(group=_GROUPS[kind]):
        try:
            spec = importlib.util.find_spec(point.module)
        except ModuleNotFoundError:  # the package that it would be in
            spec = None
        if spec is None or spec.origin is None:
            raise UserError(f"the entry point {point.name!r} of {_GROUPS[kind]} names a module that is not there")
        yield point.module, Path(spec.origin)


def _read(kind: Kind, module: str, path: Path) -> Iterator[Entry]:
    source = path.read_text(encoding="utf-8")
    marker = f"register_{kind}"
    if marker not in source:
        return
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and any(_name(d) == marker for d in node.decorator_list):
            doc = inspect.cleandoc(ast.get_docstring(node) or "")
            yield Entry(
                kind=kind,
                name=node.name,
                module=module,
                summary=doc.split("\n\n")[0].replace("\n", " "),
                doc=doc,
                parameters=tuple(_parameters(node, doc, path)),
            )


def _parameters(node: ast.FunctionDef, doc: str, path: Path) -> Iterator[Parameter]:
    docs = argument_docs(doc)
    for argument, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
        place = f"{path}: {node.name}({argument.arg})"
        if argument.annotation is None:
            raise UserError(f"{place} has no annotation")
        try:
            annotation = eval(  # noqa: S307 - the source is this package's or an installed plug-in's, as on import
                compile(ast.Expression(argument.annotation), str(path), "eval"), dict(_ANNOTATIONS)
            )
            value = REQUIRED if default is None else ast.literal_eval(default)
        except (NameError, ValueError) as error:
            raise UserError(
                f"{place}: annotations are made of builtin types, Literal, Path and Any, and defaults are literals "
                f"({error})"
            ) from None
        yield Parameter(name=argument.arg, annotation=annotation, default=value, doc=docs.get(argument.arg, ""))


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def argument_docs(doc: str) -> dict[str, str]:
    """Argument -> description, from the `Args:` section of a Google docstring."""
    section = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", doc, flags=re.MULTILINE | re.DOTALL)
    if section is None:
        return {}
    found = re.findall(r"^    (\w+): (.*?)(?=^    \w+: |\Z)", section.group(1), flags=re.MULTILINE | re.DOTALL)
    return {name: " ".join(text.split()) for name, text in found}
