"""Which clips an evaluation is of: the run's own, or some other list. Two evaluations can be compared where they are of
the same list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kinema.config import resolve_evaluation
from kinema.evaluation.leakage import is_known
from kinema.models.weights import TrainingFacts
from kinema.types import Clip, ConfigError, Dataset, Heads, Split, fingerprint

_OF_NO_MATTER: Mapping[Split, frozenset[str]] = {
    "train": frozenset({"download"}),
    "validation": frozenset({"download"}),
    "test": frozenset({"download", "fraction", "validation"}),
}
"""Keys of a `data:` section that do not change which clips are in a split."""


def clip_list(
    clips: Sequence[Clip],
    classes: Heads,
    contents: Mapping[Path, str | None],
    *,
    is_own: bool,
    source: str,
) -> dict[str, Any]:
    """What an evaluation says about the list of its clips.

    Args:
        clips: All that were asked for, those that cannot be read among them.
        classes: Task -> class names.
        contents: From `video_contents`.
        is_own: Whether these are the clips of a split of what the model was trained on.
        source: Where they come from: a file, a folder, or the name of a data set.

    Returns:
        `own`, `source`, and `fingerprint`: the same wherever the videos lie and in whatever order they are listed.
    """
    rows = [
        [
            clip.clip_id,
            contents.get(clip.video),
            clip.start_s,
            clip.stop_s,
            [names[clip.labels[task]] for task, names in classes.items() if task in clip.labels],
        ]
        for clip in clips
    ]
    return {"own": is_own, "source": source, "fingerprint": fingerprint(sorted(rows, key=lambda row: str(row[0])))}


def is_own_split(data: Mapping[str, Any], dataset: Dataset, split: Split, training: TrainingFacts) -> bool:
    """Whether a split is that of the data set which was trained on, wherever that lies now.

    Args:
        data: The `data:` section that was evaluated.
        dataset: What it lists.
        split: Which split of it.
        training: What was trained on.
    """
    if training.data.get("name") != data.get("name"):
        return False
    try:  # with the defaults of what is left out
        trained = resolve_evaluation(training.data, [], clips={})[0].model_dump(mode="json")
    except ConfigError:  # a key of it was replaced for this evaluation, because it no longer fits
        return False
    keys = (trained.keys() | data.keys()) - _OF_NO_MATTER[split] - {"root"}
    if any(trained.get(key) != data.get(key) for key in keys):
        return False
    is_in_place = str(trained.get("root")) == str(data.get("root"))
    return is_in_place or is_known(dataset.splits.get("train", ()), training)
