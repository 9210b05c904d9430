"""Shipped recipes, and recipes that are variations of others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kinema import recipes
from kinema.config import resolve
from kinema.models.freezing import freeze
from kinema.preprocessing import shapes, streams_of
from kinema.registry import entry
from kinema.training.optimisers import parameter_groups
from kinema.types import ConfigError

CLASSES = {"verb": ("push", "pull"), "noun": ("box", "jar", "lid")}


NAMES = [
    # Large networks take a while even so.
    pytest.param(name, marks=pytest.mark.slow) if name.startswith("ut_interaction/") else name
    for name in recipes.names()
    if name.startswith(("motion/", "ut_interaction/"))
]


@pytest.mark.parametrize("name", NAMES)
def test_the_model_of_a_shipped_recipe_takes_its_clips(name: str) -> None:
    """Without memory or arithmetic."""
    recipe = resolve(recipes.read(name))
    tasks = recipe.data.arguments().get("tasks", ())
    heads = CLASSES if len(tasks) > 1 else {"action": CLASSES["verb"]}
    inputs = shapes(streams_of(recipe, mean=(0.5,) * 3, std=(0.5,) * 3))
    with torch.device("meta"):
        model = entry("model", recipe.model.name, key="model.name").load()(heads, inputs, **recipe.model.arguments())
        freeze(model, recipe.init.freeze, train_last=recipe.init.train_last)
        logits = model(
            {
                stream: torch.empty(2, shape.num_frames, shape.channels, shape.height_px, shape.width_px)
                for stream, shape in inputs.items()
            }
        )
    assert {task: tuple(values.shape) for task, values in logits.items()} == {t: (2, len(heads[t])) for t in heads}
    assert parameter_groups(model, recipe.optim)


def write(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_what_a_base_says_holds_where_the_recipe_says_nothing(tmp_path: Path) -> None:
    base = recipes.read("motion/cnn_lstm")
    own = "model: {hidden_size: 7}\nclips: {augmentation: {colour: 0}}\ntrainer: {epochs: 2}\n"
    varied = recipes.read(write(tmp_path, "mine.yaml", f"base: motion/cnn_lstm\n{own}"))
    assert varied["model"] == {**base["model"], "hidden_size": 7}
    assert varied["clips"] == {**base["clips"], "augmentation": {**base["clips"]["augmentation"], "colour": 0}}
    assert varied["trainer"] == {"epochs": 2}
    assert varied["data"] == base["data"]
    resolve(varied)


def test_another_model_takes_none_of_the_keys_of_the_one_before(tmp_path: Path) -> None:
    path = write(tmp_path, "mine.yaml", "base: motion/cnn_lstm\nmodel: {name: conv3d}\ndata: {name: motion, seed: 3}\n")
    assert recipes.read(path)["model"] == {"name": "conv3d"}
    assert recipes.read(path)["data"] == {"name": "motion", "seed": 3}


def test_a_base_may_lie_beside_and_have_a_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    write(tmp_path / "here", "first.yaml", "base: motion/cnn_lstm\noptim: {lr: 3e-4}\n")
    path = write(tmp_path / "here", "second.yaml", "base: first.yaml\ntrainer: {seed: 5}\n")
    monkeypatch.chdir(tmp_path)
    recipe = resolve(recipes.read(path))
    assert (recipe.optim.lr, recipe.trainer.seed, recipe.model.name) == (3e-4, 5, "cnn_lstm")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: motion/cnn_ltsm\n", r"^motion/cnn_ltsm: no such recipe; did you mean 'motion/cnn_lstm'\?"),
        ("base: absent.yaml\n", r"^absent\.yaml: no such file"),
        ("base: [a, b]\n", r"mine\.yaml: base: expected the name or the path of a recipe, got \['a', 'b'\]"),
        ("base: mine.yaml\n", r"mine\.yaml: base: mine\.yaml is a variation of this recipe itself"),
        ("base: other.yaml\n", r"other\.yaml: base: mine\.yaml is a variation of this recipe itself"),
    ],
)
def test_a_base_that_cannot_be(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, "other.yaml", "base: mine.yaml\n")
    with pytest.raises(ConfigError, match=message):
        recipes.read(write(tmp_path, "mine.yaml", text))
