"""Arguments of models that cannot be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kinema.types import ConfigError


def at_least(minimum: int, **values: int | Sequence[int] | None) -> None:
    """See to it that numbers, lists of numbers, or None, are not too small.

    Raises:
        ConfigError: One is.
    """
    for name, value in values.items():
        numbers = [] if value is None else [value] if isinstance(value, int) else value
        if any(number < minimum for number in numbers):
            raise ConfigError(f"model.{name}: has to be at least {minimum}, got {value}")


def share(**values: float | None) -> None:
    """See to it that probabilities, or None, are at least 0 and less than 1.

    Raises:
        ConfigError: One is not.
    """
    for name, value in values.items():
        if value is not None and not 0 <= value < 1:
            raise ConfigError(f"model.{name}: has to be at least 0 and less than 1, got {value}")


def unused(why: str, **values: tuple[Any, Any]) -> None:
    """See to it that what has no effect is left at its default.

    Args:
        why: There is no effect.
        values: Name of an argument -> its value, and its default.

    Raises:
        ConfigError: Somebody chose a value.
    """
    for name, (value, default) in values.items():
        if value != default:
            raise ConfigError(f"model.{name}: has no effect {why}; leave it out, got {value}")
