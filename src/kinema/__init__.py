"""kinema: from a folder of videos to a trained, honestly evaluated action recogniser."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kinema.version import __version__ as __version__

if TYPE_CHECKING:
    from kinema.inference.recogniser import load as load

__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    """Import what needs torch only when it is asked for."""
    if name == "load":
        from kinema.inference.recogniser import load

        return load
    raise AttributeError(f"module 'kinema' has no attribute {name!r}")
