"""What an evaluation was of, in words: which clips, and how each was looked at."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def clips_words(record: Mapping[str, Any], *, short: bool = False) -> str:
    """`test split`, or of other clips than the model's own `test split of clips.csv`.

    Args:
        record: The numbers of an evaluation.
        short: Without the folders above a source, which say nothing elsewhere.
    """
    split, listed = f"{record['split']} split", record["list"]
    if listed["own"]:
        return split
    return f"{split} of {Path(listed['source']).name if short else listed['source']}"


def views_words(record: Mapping[str, Any]) -> str:
    """`10 clips x 3 crops, each mirrored too; mean of probabilities`, or `once`."""
    views = record.get("views")
    if views is None:
        return "once"
    clips, crops = (f"{views[key]} {key if views[key] != 1 else key[:-1]}" for key in ("clips", "crops"))
    mirrored = ", each mirrored too" if views["flip"] else ""
    how = "majority vote" if views["average"] == "vote" else f"mean of {views['average']}"
    return f"{clips} x {crops}{mirrored}; {how}"
