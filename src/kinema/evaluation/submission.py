"""The file that EPIC-KITCHENS-100's action recognition challenge takes.

Format 0.2 of https://github.com/epic-kitchens/C1-Action-Recognition: a zip that holds `test.json`, with the scores of
every verb and every noun for each segment of the official test list, and three levels of supervision.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from kinema.files import write_atomically
from kinema.types import DataError

VERSION, CHALLENGE = "0.2", "action_recognition"
NUM_CLASSES = {"verb": 97, "noun": 300}
LEVELS = ("sls_pt", "sls_tl", "sls_td")
"""Pre-training, training labels, training data; each from 0 to 5."""

_NAME = "test.json"
_HIGHEST_LEVEL = 5
_DIGITS = 6
"""Of a score: a file of 13,092 segments has 5 million of them."""


def write_submission(
    path: Path,
    scores: Mapping[str, Mapping[str, Float[np.ndarray, "K"]]],
    *,
    segments: Collection[str],
    levels: Mapping[str, int],
) -> None:
    """Write a submission, after it was found valid.

    Args:
        path: The zip.
        scores: Segment -> task (`verb`, `noun`) -> logarithms of probabilities, or logits.
        segments: Of the official list.
        levels: Of supervision, by the names of `LEVELS`.

    Raises:
        DataError: The result would not be valid, or the file cannot be written.
    """
    results = {
        segment: {
            task: {str(k): round(float(score), _DIGITS) for k, score in enumerate(values)}
            for task, values in of_tasks.items()
        }
        for segment, of_tasks in scores.items()
    }
    content: dict[str, Any] = {
        "version": VERSION,
        "challenge": CHALLENGE,
        **{name: levels.get(name) for name in LEVELS},
    }
    content["results"] = results
    check_submission(content, segments, source=str(path))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(_NAME, json.dumps(content, separators=(",", ":")))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, packed.getvalue())
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from None


def check_submission(content: Mapping[str, Any], segments: Collection[str], *, source: str) -> None:
    """Make sure that the challenge would take it.

    Args:
        content: Of `test.json`.
        segments: Of the official test list.
        source: Named in messages.

    Raises:
        DataError: Something is missing, too much, or no number.
    """
    if (content.get("version"), content.get("challenge")) != (VERSION, CHALLENGE):
        raise DataError(f"{source}: version and challenge have to be {VERSION} and {CHALLENGE}")
    for name in LEVELS:
        level = content.get(name)
        if type(level) is not int or not 0 <= level <= _HIGHEST_LEVEL:
            raise DataError(f"{source}: {name} has to be a whole number from 0 to {_HIGHEST_LEVEL}, not {level!r}")
    results = content.get("results")
    if not isinstance(results, Mapping):
        raise DataError(f"{source}: holds no results")
    missing, strange = [s for s in segments if s not in results], results.keys() - set(segments)
    if missing:
        raise DataError(f"{source}: {len(missing):,} of {len(segments):,} segments are missing, such as {missing[0]}")
    if strange:
        raise DataError(f"{source}: {min(strange)} is no segment of the list")
    for segment, of_tasks in results.items():
        if not isinstance(of_tasks, Mapping) or of_tasks.keys() != NUM_CLASSES.keys():
            raise DataError(f"{source}: {segment} has to have scores of {' and '.join(NUM_CLASSES)}")
        for task, num in NUM_CLASSES.items():
            values = of_tasks[task]
            if not isinstance(values, Mapping) or len(values) != num or any(str(k) not in values for k in range(num)):
                raise DataError(f"{source}: {segment} has to have a score for each of the {num} {task}s")
            if not all(type(v) in (int, float) and math.isfinite(v) for v in values.values()):
                raise DataError(f"{source}: {segment} has a {task} score that is no number")
