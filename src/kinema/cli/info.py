"""`kinema info`: versions, hardware and places, for bug reports."""

from __future__ import annotations

from kinema.cli.console import JsonOption, Output


def info(json_file: JsonOption = None) -> None:
    """Show versions, hardware and where things are kept."""
    from importlib.metadata import version

    from kinema.data.cache import cache_folder
    from kinema.training.run_folder import PACKAGES, hardware
    from kinema.version import __version__

    output = Output(json_file)
    import platform

    record = {
        "kinema": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        **hardware(),
        "cache": str(cache_folder()),
    }
    output.table(["what", "value"], [[name, _words(value)] for name, value in record.items()])
    output.finish(record)


def _words(value: object) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
