"""What weights folders in tests say about training."""

from __future__ import annotations

from kinema.models.weights import TrainingFacts

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)

TRAINING = TrainingFacts(
    data={"name": "folder", "root": "clips"},
    seed=0,
    num_clips=6,
    class_counts={"action": [3, 2, 1]},
    commonest={"action": 0},
    accuracy={"action": 1.0},
    num_accuracy_clips=6,
    epoch=2,
    selected_by="being the last epoch",
    groups=["g1"],
    contents=["0123456789abcdef01234567"],
)
