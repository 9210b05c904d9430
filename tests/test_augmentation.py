"""`clips.augmentation`: presets, what their names mean beside keys, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.test_config_schema import accepts

from kinema import recipes
from kinema.augmentation import PRESETS
from kinema.config import json_schema, resolve
from kinema.sections import Augmentation
from kinema.types import ConfigError

RECIPE: dict[str, Any] = {"data": {"name": "motion"}, "model": {"name": "cnn_lstm", "backbone": "tiny"}}


def resolved(*overrides: str, **clips: Any) -> Augmentation:
    return resolve({**RECIPE, "clips": clips}, overrides).clips.augmentation


def test_a_preset_is_a_name_for_keys() -> None:
    assert resolved() == resolved(augmentation="light") == Augmentation()
    none = resolved(augmentation="none")
    assert none.num_views == 1
    assert not none.takes_others
    assert not none.changes_more
    aggressive = resolved(augmentation="aggressive")
    stated = {"flip": 0.5, "rotation_deg": 15, "grey": 0.1, "erase": 0.15}
    assert {key: getattr(aggressive, key) for key in stated} == stated
    assert aggressive.hue > 0
    assert min(aggressive.colours) > 0
    assert not aggressive.takes_others


def test_keys_beside_a_preset_replace_its_own() -> None:
    expected = Augmentation.model_validate({**PRESETS["aggressive"], "flip": 0.0, "views": 4})
    assert resolved(augmentation={"preset": "aggressive", "flip": 0, "views": 4}) == expected
    beside_the_name = ("clips.augmentation.flip=0", "clips.augmentation.views=4")
    assert resolved(*beside_the_name, augmentation="aggressive") == expected
    assert resolved("clips.augmentation=aggressive", *beside_the_name, augmentation={"blur": 1}) == expected
    assert resolved("clips.augmentation.preset=aggressive", augmentation={"flip": 0, "views": 4}) == expected


def test_a_variation_may_put_keys_beside_the_name_of_its_base(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("base: motion/cnn_lstm\nclips: {augmentation: aggressive}\n")
    (tmp_path / "mine.yaml").write_text("base: base.yaml\nclips: {augmentation: {flip: 0}}\n")
    found = resolve(recipes.read(str(tmp_path / "mine.yaml"))).clips.augmentation
    assert found == Augmentation.model_validate({"preset": "aggressive", "flip": 0})


@pytest.mark.parametrize(
    "given",
    [
        *PRESETS,
        {"preset": "aggressive", "multi_scale": [1, 0.875, 0.75, 0.66]},
        {"frame_stride": [1, 5], "rand_augment": 2, "rand_magnitude": 7, "contrast": 0.4, "max_aspect": 1.333},
    ],
)
def test_what_a_run_writes_down_is_the_same_again(given: Any) -> None:
    recipe = resolve({**RECIPE, "clips": {"augmentation": given}})
    written = recipe.to_dict()
    assert "preset" not in written["clips"]["augmentation"]
    again = resolve(written)
    assert again.to_dict() == written
    assert again.clips == recipe.clips


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("agressive", "clips.augmentation: there is no preset 'agressive'; did you mean 'aggressive'?"),
        ({"preset": 3}, "clips.augmentation: there is no preset 3"),
        (
            {"multi_scale": [1, 0.8], "min_scale": 0.5},
            "clips.augmentation: multi_scale and min_scale (0.5) are two ways",
        ),
        ({"multi_scale": [1, 0.8], "max_aspect": 2}, "clips.augmentation: multi_scale and max_aspect (2) are two ways"),
        ({"multi_scale": [1, 1.2]}, "clips.augmentation: multi_scale: [1.0, 1.2]: shares of the short side"),
        ({"frame_stride": [5, 1]}, "clips.augmentation: frame_stride: [5, 1]: the smaller number comes first"),
        ({"frame_stride": [0, 5]}, "clips.augmentation.frame_stride: "),
        ({"frame_stride": 5}, "clips.augmentation.frame_stride: expected [a whole number, a whole number] or null"),
        ({"rand_magnitude": 4}, "clips.augmentation: rand_magnitude has a meaning with rand_augment only"),
        ({"hue": 0.6}, "clips.augmentation.hue: input should be less than or equal to 0.5, got 0.6"),
    ],
)
def test_what_cannot_be_is_one_line(given: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolved(augmentation=given)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_multi_scale_crops_take_the_place_of_random_ones() -> None:
    assert resolved(augmentation={"multi_scale": [1, 0.75]}).min_scale == 1


def test_strengths_of_colours() -> None:
    assert resolved(augmentation={"colour": 0.3}).colours == (0.3, 0.3, 0.3)
    assert resolved(augmentation={"colour": 0.3, "contrast": 0}).colours == (0.3, 0, 0.3)


STILL: dict[str, Any] = {"preset": "none", "views": 3}


@pytest.mark.parametrize(
    ("key", "value", "takes_others"),
    [
        ("jitter", True, True),
        ("frame_stride", [1, 5], True),
        ("min_scale", 0.9, True),
        ("max_aspect", 1.2, True),
        ("multi_scale", [1], True),
        ("flip", 0.1, False),
        ("colour", 0.1, False),
        ("contrast", 0.1, False),
        ("hue", 0.1, False),
        ("rotation_deg", 5, False),
        ("grey", 0.1, False),
        ("blur", 0.1, False),
        ("erase", 0.1, False),
        ("rand_augment", 1, False),
    ],
)
def test_a_clip_has_several_versions_as_soon_as_anything_is_random(key: str, value: Any, takes_others: bool) -> None:
    assert Augmentation.model_validate(STILL).num_views == 1
    found = Augmentation.model_validate({**STILL, key: value})
    assert found.num_views == 3
    assert found.takes_others == takes_others


def test_one_stride_from_the_middle_is_not_random() -> None:
    assert Augmentation.model_validate({**STILL, "frame_stride": [2, 2]}).num_views == 1


def test_editors_know_the_names() -> None:
    schema = json_schema()

    def is_accepted(augmentation: Any) -> bool:
        return accepts(schema, {**RECIPE, "clips": {"augmentation": augmentation}}, schema["$defs"])

    assert all(map(is_accepted, (*PRESETS, {"preset": "none", "flip": 1}, {"frame_stride": [1, 5]})))
    assert not any(map(is_accepted, ("agressive", 3, {"preset": "agressive"}, {"flp": 1}, {"flip": 2})))
