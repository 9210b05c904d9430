"""What checks, while tests run, that tensors have the shapes and types that their annotations say."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from beartype import beartype

_SHAPED = re.compile(r"\b(Float|Int|UInt|Bool|Shaped|Num)\d*\[")


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """For `jaxtyping.install_import_hook`: beartype, for the annotations with a shape in them alone.

    The others are mypy's business, and tests hand wrong types over on purpose to see what a user would see.
    """
    hints = getattr(function, "__annotations__", {})
    shaped = {name: hint for name, hint in hints.items() if _SHAPED.search(str(hint))}
    if not shaped:
        return function  # with its annotations, which a web framework reads
    function.__annotations__ = shaped
    return beartype(function)
