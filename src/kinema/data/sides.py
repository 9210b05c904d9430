"""Classes that tell left from right, which a mirrored clip is no longer one of."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

from kinema.augmentation import Augmentation
from kinema.types import Heads
from kinema.wording import percent

log = logging.getLogger(__name__)

_SIDES = frozenset(
    f"{side}{ending}" for side in ("left", "right") for ending in ("", "s", "ward", "wards", "hand", "handed", "most")
) | {"clockwise", "counterclockwise", "anticlockwise", "leftside", "rightside"}
"""Words; `upright` and `leftovers` are none of them."""

_NUM_NAMED = 6

# CamelCase, digits and signs separate words.
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


def sided(names: Sequence[str]) -> list[str]:
    """Those class names that say left or right, or which way something turns."""
    return [name for name in names if not _SIDES.isdisjoint(word.lower() for word in _WORD.findall(name))]


def warn_of_sides(augmentation: Augmentation, classes: Heads) -> None:
    """One line where clips are mirrored in training and a task's classes tell left from right."""
    for task, names in classes.items() if augmentation.flip else ():
        if found := sided(names):
            log.warning(
                "clips.augmentation.flip mirrors %s of the training clips, and %s tell left from right: %s; "
                "clips.augmentation.flip=0 leaves them as they are",
                percent(augmentation.flip),
                _classes_of(task, classes),
                _named(found),
            )


def warn_of_mirrored_views(classes: Heads) -> None:
    """The same where clips are also looked at mirrored in an evaluation."""
    for task, names in classes.items():
        if found := sided(names):
            log.warning(
                "--flip also looks at each clip mirrored, and %s tell left from right: %s; leave --flip out",
                _classes_of(task, classes),
                _named(found),
            )


def _classes_of(task: str, classes: Heads) -> str:
    return "these classes" if len(classes) == 1 else f"these {task} classes"


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NUM_NAMED} more" if len(names) > _NUM_NAMED else ""
    return ", ".join(names[:_NUM_NAMED]) + more
