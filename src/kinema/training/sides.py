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
    """One line where clips are mirrored and a task's classes tell left from right."""
    for task, names in classes.items():
        found = sided(names)
        if not found or augmentation.flip == 0:
            continue
        more = f" and {len(found) - _NUM_NAMED} more" if len(found) > _NUM_NAMED else ""
        log.warning(
            "clips.augmentation.flip mirrors %s of the training clips, and %s classes tell left from right: %s%s; "
            "clips.augmentation.flip=0 leaves them as they are",
            percent(augmentation.flip),
            "these" if len(classes) == 1 else f"these {task}",
            ", ".join(found[:_NUM_NAMED]),
            more,
        )
