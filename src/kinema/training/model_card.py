"""The README.md of a weights folder: what the weights are, for a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kinema.evaluation.metrics import main_task
from kinema.models.weights import TrainingFacts, WeightsConfig
from kinema.types import Preprocessing


def model_card(config: WeightsConfig, training: TrainingFacts, validation: Mapping[str, Any] | None) -> str:
    """Markdown with Hugging Face's front matter.

    Args:
        config: The model.
        training: What it was trained on.
        validation: Its evaluation on the validation split, where there is one.
    """
    name = f"{config.model} on {training.data['name']}"
    inputs = "\n".join(_input(each) for each in config.preprocessing.values())
    classes = "\n".join(
        f"- **{task}** ({len(names)}): {', '.join(names[:20])}{', ...' if len(names) > 20 else ''}"
        for task, names in config.heads.items()
    )
    main = main_task(config.heads)
    if main in training.accuracy:
        numbers = (
            f"- training clips: top-1 {training.accuracy[main]:.1%} ({training.num_accuracy_clips} clips measured)"
        )
    else:
        why = f" ({training.unmeasured})" if training.unmeasured else ""
        numbers = f"- training clips: not measured{why}; `kinema evaluate --split train` does it"
    if validation is not None:
        values = validation["joint"] if main == "joint" else validation["tasks"][main]
        numbers += (
            f"\n- validation clips: top-1 {values['top1']:.1%} ({validation['num_clips']} clips); "
            f"chance {values['chance']:.1%}, always the commonest class {values['majority']:.1%}, "
            f"gap to training {values['gap']:+.1%}"
        )
    else:
        numbers += "\n- there was no validation split; evaluate on a test split with `kinema evaluate`"
    return f"""---
library_name: kinema
pipeline_tag: video-classification
tags: [action-recognition, video]
---

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

{numbers}

{_made(training)}; trained on {training.num_clips} clips.
"""


def _input(preprocessing: Preprocessing) -> str:
    return (
        f"{preprocessing.num_frames} frames, uniform over the clip, {preprocessing.size_px} x "
        f"{preprocessing.size_px} px\n"
        f"({preprocessing.fit}), RGB, mean {_list(preprocessing.mean)}, standard deviation {_list(preprocessing.std)}."
    )


def _made(training: TrainingFacts) -> str:
    if training.epoch == 0:
        return f"Made of models that were trained alone, by {training.selected_by}"
    return f"Epoch {training.epoch}, kept for {training.selected_by}"


def _list(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)
