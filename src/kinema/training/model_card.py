"""The README.md of a weights folder: what the weights are, for a person."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kinema.evaluation.asked import clips_words, views_words
from kinema.evaluation.metrics import main_task
from kinema.files import to_yaml, write_atomically
from kinema.models.weights import TrainingFacts, WeightsConfig, read_config, read_training
from kinema.types import JOINT, DataError, Preprocessing
from kinema.wording import percent, percent_range

MARK = "<!-- Written by kinema after every evaluation. Remove this line to keep what you change here. -->"

_LICENCE = """No licence is set. What these weights may be used for follows from the data that they were trained on
and the weights that they began with; say it under `license:` on top of this file before you share them."""


def model_card(
    config: WeightsConfig,
    training: TrainingFacts,
    evaluations: Sequence[Mapping[str, Any]] = (),
    others: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Markdown with Hugging Face's front matter.

    Args:
        config: The model.
        training: What it was trained on.
        evaluations: Records of evaluations of the splits of what it was trained on, at most one for each split.
        others: Records of evaluations of other clips, or with several views of each.
    """
    name = f"{config.model} on {training.data['name']}"
    inputs = "\n".join(_input(each) for each in config.preprocessing.values())
    classes = "\n".join(
        f"- **{task}** ({len(names)}): {', '.join(names[:20])}{', ...' if len(names) > 20 else ''}"
        for task, names in config.heads.items()
    )
    return f"""---
{to_yaml(_front_matter(name, training, evaluations)).rstrip()}
---

{MARK}

# {name}

Use it:

```python
import kinema

print(kinema.load("this/folder").predict("clip.avi"))
```

## Classes

{classes}

## Input

{inputs}

## Accuracy

{_numbers(config, training, evaluations)}
{_others(others)}
{_made(training)}; trained on {training.num_clips} clips.

## Licence

{_LICENCE}
"""


def update_model_card(
    weights: Path, evaluations: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]] = ()
) -> bool:
    """Put the numbers of evaluations into the card of a weights folder.

    Args:
        weights: The folder.
        evaluations: Records of the splits of what it was trained on, at most one for each split.
        others: Records of evaluations of other clips, or with several views of each.

    Returns:
        Whether it was done: not where the card was taken over by hand, or there is none.

    Raises:
        DataError: The folder is broken, or the card cannot be written.
    """
    path = weights / "README.md"
    try:
        if not path.is_file() or MARK not in path.read_text(encoding="utf-8"):
            return False
        card = model_card(read_config(weights), read_training(weights), evaluations, others)
        write_atomically(path, card.encode())
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error
    return True


def _front_matter(name: str, training: TrainingFacts, evaluations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "license": "unknown",
        "library_name": "kinema",
        "pipeline_tag": "video-classification",
        "tags": ["action-recognition", "video"],
        "metrics": ["accuracy"],
    }
    data = str(training.data["name"])
    results = [
        {
            "task": {"type": "video-classification", "name": f"action recognition, {task}"},
            "dataset": {"type": data, "name": data, "split": record["split"]},
            "metrics": [
                {"type": "accuracy", "name": title, "value": round(float(values[key]), 6)}
                for key, title in (("top1", "top-1"), ("top5", "top-5"), ("mean_class", "mean class accuracy"))
                if _is_number(values.get(key))
            ],
        }
        for record in evaluations
        for task, values in _tasks(record).items()
        if _is_number(values.get("top1"))
    ]
    if results:
        found["model-index"] = [{"name": name, "results": results}]
    return found


def _numbers(config: WeightsConfig, training: TrainingFacts, evaluations: Sequence[Mapping[str, Any]]) -> str:
    main = main_task(config.heads)
    if main in training.accuracy:
        lines = [
            f"- training clips: top-1 {percent(training.accuracy[main])} ({training.num_accuracy_clips} clips measured)"
        ]
    else:
        why = f" ({training.unmeasured})" if training.unmeasured else ""
        lines = [f"- training clips: not measured{why}; `kinema evaluate --split train` does it"]
    if not any(record["split"] == "test" for record in evaluations):
        lines.append("- not evaluated on test clips; where there are some, `kinema evaluate` does it")
    if not evaluations:
        return "\n".join(lines)
    head = (
        "split",
        "task",
        "clips",
        "top-1",
        "95 % interval",
        "chance",
        "always the commonest class",
        "gap to training",
    )
    rows = [
        (
            record["split"],
            task,
            f"{record['num_clips']}",
            percent(values.get("top1")),
            percent_range(values.get("interval")),
            *(percent(values.get(key)) for key in ("chance", "majority")),
            percent(values.get("gap")),
        )
        for record in evaluations
        for task, values in _tasks(record).items()
    ]
    note = (
        "The interval is where the accuracy could lie had other groups of clips been filmed; the commonest class is "
        "that of the training clips."
    )
    return "\n".join([*lines, "", *_table(head, rows), "", note])


def _others(records: Sequence[Mapping[str, Any]]) -> str:
    """What is no accuracy of a split of its own, with one look at each clip; sources without the folders above them,
    which say nothing elsewhere."""
    if not records:
        return ""
    rows = [
        (
            clips_words(record, short=True),
            views_words(record),
            task,
            f"{record['num_clips']}",
            percent(values.get("top1")),
            percent_range(values.get("interval")),
        )
        for record in records
        for task, values in _tasks(record).items()
    ]
    head = ("clips", "each looked at", "task", "number", "top-1", "95 % interval")
    return "\n".join(["", "Other evaluations:", "", *_table(head, rows), ""])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (head, ("---",) * len(head), *rows)]


def _tasks(record: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    return {**record["tasks"], **({JOINT: record[JOINT]} if JOINT in record else {})}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _input(preprocessing: Preprocessing) -> str:
    window_s = preprocessing.window_s
    over = "the clip" if window_s is None else f"{window_s:g} s in the middle of the clip"
    size_px = preprocessing.size_px
    return (
        f"{preprocessing.num_frames} frames, uniform over {over}, {size_px} x {size_px} px\n"
        f"({preprocessing.fit}), RGB, mean {_list(preprocessing.mean)}, standard deviation {_list(preprocessing.std)}."
    )


def _made(training: TrainingFacts) -> str:
    if training.epoch == 0:
        return f"Made of models that were trained alone, by {training.selected_by}"
    return f"Epoch {training.epoch}, kept for {training.selected_by}"


def _list(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)
