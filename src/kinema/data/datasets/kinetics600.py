"""Kinetics-600.

Carreira, Noland, Banki-Horvath, Hillier and Zisserman, "A Short Note about Kinetics-600", 2018,
https://arxiv.org/abs/1808.01340
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from kinema.data.kinetics import kinetics
from kinema.registry import register_dataset
from kinema.types import Dataset


@register_dataset
def kinetics600(
    root: Path | None,
    *,
    annotations: str | None = None,
    videos: Literal["trimmed", "full"] = "trimmed",
    classes: str | list[str] | None = None,
) -> Dataset:
    """Kinetics-600 with its official lists, in the layouts that downloads of it come in.

    Videos are looked for by their names, `<YouTube id>_<start>_<end>` or `<YouTube id>`, in all folders below
    `root`. The lists (`train.csv`, `kinetics-600_val.csv`, ...) are looked for in `root`, in `annotations` and
    `kinetics600` in it, and in `kinetics600/annotations`. Where a split has no list, folders called like classes in
    a folder called like the split say what the videos are. Clips of one YouTube video are a group. Videos that are
    listed but not there are counted and left out. The class list is always the whole one, if there is a list.

    Args:
        root: The folder.
        annotations: Folder with the lists, if it is another; a relative path starts at `root`.
        videos: `trimmed`: a file is a clip. `full`: a file is a whole YouTube video, and the lists say when the
            clip is.
        classes: Only these classes: a list of names, or a text file with a name a line.
            By default all.

    Raises:
        ConfigError: `root` is missing, `annotations` is not there, or `classes` names what is no class.
        DataError: Neither lists nor folders say what the clips are, a list is not as published, or no clip is there.
    """
    return kinetics(root, 600, annotations=annotations, videos=videos, classes=classes)
