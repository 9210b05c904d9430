"""Classes that tell left from right, and the line that says so."""

from __future__ import annotations

import logging

import pytest

from kinema.data.sides import sided, warn_of_mirrored_views, warn_of_sides
from kinema.sections import Augmentation


@pytest.mark.parametrize(
    "name",
    [
        "turn left",
        "swipe_right",
        "left hand wave",
        "LeftHandWave",
        "swipeRight",
        "TURN LEFT",
        "pushing something from left to right",
        "moving leftwards",
        "right-handed throw",
        "rotate clockwise",
        "Turn-Anticlockwise",
    ],
)
def test_names_that_say_a_side(name: str) -> None:
    assert sided(["walk", name, "run"]) == [name]


@pytest.mark.parametrize("name", ["upright", "leftovers", "brighten", "copyright", "push", "fright", "clock", ""])
def test_names_that_say_none(name: str) -> None:
    assert sided([name]) == []


def test_one_line_names_the_classes_and_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    classes = {"action": ("turn left", "turn right", "walk")}
    with caplog.at_level(logging.WARNING, logger="kinema"):
        logging.getLogger("kinema").propagate = True
        warn_of_sides(Augmentation(flip=0.5), classes)
    assert caplog.messages == [
        "clips.augmentation.flip mirrors 50.0 % of the training clips, and these classes tell left from right: "
        "turn left, turn right; clips.augmentation.flip=0 leaves them as they are"
    ]


def test_many_classes_are_counted_and_tasks_are_named(caplog: pytest.LogCaptureFixture) -> None:
    verbs = tuple(f"swipe left {number}" for number in range(10))
    with caplog.at_level(logging.WARNING, logger="kinema"):
        logging.getLogger("kinema").propagate = True
        warn_of_sides(Augmentation(flip=1), {"verb": verbs, "noun": ("cup", "upright piano")})
    (line,) = caplog.messages
    assert "these verb classes" in line
    assert "swipe left 5 and 4 more" in line


def test_nothing_is_said_where_nothing_is_mirrored(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="kinema"):
        logging.getLogger("kinema").propagate = True
        warn_of_sides(Augmentation(flip=0), {"action": ("left", "right")})
        warn_of_sides(Augmentation(), {"action": ("walk", "run")})
    assert caplog.messages == []


def test_mirrored_views_are_looked_at_in_the_same_way(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="kinema"):
        logging.getLogger("kinema").propagate = True
        warn_of_mirrored_views({"action": ("walk", "run")})
        assert caplog.messages == []
        warn_of_mirrored_views({"verb": ("swipe left", "walk"), "noun": ("cup",)})
    assert caplog.messages == [
        "--flip also looks at each clip mirrored, and these verb classes tell left from right: swipe left; leave "
        "--flip out"
    ]
