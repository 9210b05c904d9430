"""The benchmark that trains every model: each has settings that can be used, and what it complains of."""

from __future__ import annotations

import importlib
import json
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from tests.conftest import REPOSITORY
from tests.videos import write_video

from kinema import recipes, registry
from kinema.config import resolve

NAMES = [name for name in registry.entries("model") if name != "ensemble"]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    return importlib.import_module("train_every_model")


@pytest.mark.parametrize("name", NAMES)
def test_each_model_has_settings_that_go_together(name: str, module: ModuleType) -> None:
    chosen = module.plan(name)
    command = chosen.command(Path("clips"), Path("weights.pt"), Path("run"))
    assert command[:2] == ["train", chosen.recipe]
    recipe = resolve(recipes.read(chosen.recipe), command[2:])
    assert recipe.model.name == name
    assert recipe.data.arguments()["holdout"] == {"set": [2]}
    assert (recipe.init.freeze == "backbone") == (chosen.start == module.FROZEN)


def test_settings_are_of_models_that_there_are(module: ModuleType) -> None:
    assert {*module.FRAMES, *module.CLIPS, *module.TRANSFORMERS} <= {*NAMES}
    assert {name for name, _ in module.VARIANTS.values()} <= {*NAMES}


def test_variants_are_networks_of_their_own(module: ModuleType) -> None:
    models = []
    for row, (name, arguments) in module.VARIANTS.items():
        chosen = module.plan(row)
        recipe = resolve(recipes.read(chosen.recipe), chosen.command(Path("c"), Path("w.pt"), Path("r"))[2:])
        assert recipe.model.name == name
        given = recipe.model.arguments()
        assert all(given[key] == value for key, value in arguments.items())
        models.append(given)

    assert len(models) == len(module.VARIANTS)


@pytest.mark.parametrize(
    ("losses", "problem"),
    [
        ([2.0, 2.5, 1.5], None),
        ([2.0, 1.5, 2.0], "the loss did not fall: 2.000 in the first epoch, 2.000 in the last"),
        ([2.0, math.nan, 1.5], "the loss of epoch 2 is not finite"),
        ([2.0, 1.5, math.inf], "the loss of epoch 3 is not finite"),
    ],
)
def test_what_is_a_problem(losses: list[float], problem: str | None, module: ModuleType) -> None:
    assert module.problem(losses) == problem


@pytest.mark.slow
def test_it_goes_on_where_it_was(tmp_path: Path) -> None:
    import torchvision

    rng = np.random.default_rng(0)
    rows = ["path,label,set,sequence"]
    for number in range(12):
        write_video(tmp_path / f"{number}.mp4", list(rng.integers(0, 255, (24, 64, 64, 3), dtype=np.uint8)), fps=25)
        rows.append(f"{number}.mp4,{'ab'[number % 2]},{1 + number // 8},{number // 2}")
    (tmp_path / "clips.csv").write_text("\n".join(rows) + "\n")
    weights = tmp_path / "weights.pt"
    torch.save(torchvision.models.mobilenet_v2().state_dict(), weights)
    result = tmp_path / "result.json"

    def run(*models: str) -> subprocess.CompletedProcess[str]:
        command = ["benchmarks/train_every_model.py", tmp_path, weights, "--json", result, "--models", *models]
        return subprocess.run([sys.executable, *map(str, command)], cwd=REPOSITORY, capture_output=True, text=True)

    first = run("conv3d")
    (row,) = json.loads(result.read_text())["rows"]
    assert (first.returncode == 0) == (row["problem"] is None), first.stderr
    row = {**row, "problem": None, "train_top1": 0.5, "top1": 0.5, "chance": 0.5, "majority": 0.5, "epochs": 3}
    row |= {"first_loss": 2.0, "last_loss": 1.0}
    result.write_text(json.dumps({"rows": [row]}))
    second = run("conv3d", "cnn_gru")
    assert "conv3d: has a result" in second.stderr
    kept, added = sorted(json.loads(result.read_text())["rows"], key=lambda found: -len(found["settings"]))
    assert kept == row
    assert added["model"] == "cnn_gru"
    assert (second.returncode == 0) == (added["problem"] is None), second.stderr
    assert f"| `conv3d` | {row['start']} | 3 | 2.00 1.00 | 50.0 % | 50.0 % |" in second.stdout
    assert not (tmp_path / "result" / "run").exists()
