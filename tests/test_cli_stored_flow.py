"""EPIC-KITCHENS' own flow on the command line: stored, trained on, evaluated and used as it lies on the disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.commands import Kinema
from tests.data.datasets.epic_tree import write_lists
from tests.flow_files import write_flow, write_frames

from kinema.data.shards import Store

RATES = {"P01_01": (60, 150), "P01_11": (60, 90), "P02_02": (60, 90), "P18_09": (60, 90), "P03_101": (50, 113)}
RECIPE: dict[str, Any] = {
    "data": {"name": "epic_kitchens_100", "root": "elsewhere", "modality": "flow", "source": "frames"},
    "clips": {
        "num_frames": 4,
        "size_px": 16,
        "workers": 0,
        "batch_size": 4,
        "motion": {"method": "stored", "stack": 2},
        "augmentation": {"views": 2, "preset": "none", "flip": 0.5},
    },
    "model": {"name": "cnn_conv1d", "backbone": "tiny"},
    "trainer": {"epochs": 1},
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All have flow but P02_02."""
    monkeypatch.setenv("KINEMA_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "epic"
    write_lists(root / "epic-kitchens-100-annotations")
    for video, (fps, num) in RATES.items():
        write_frames(root / video[:3] / "rgb_frames" / video, num)
        if video != "P02_02":
            of_flow = -(-(num - 3) // 2) if fps == 60 else num - 1
            write_flow(root / video[:3] / "flow_frames" / video, of_flow, lambda field: (field % 5, 3.0))
    (tmp_path / "recipe.yaml").write_text(json.dumps(RECIPE))
    return root


def test_flow_of_epic_kitchens_through_all_commands(kinema: Kinema, root: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    prepare = ("data", "prepare", "epic_kitchens_100", root, "data.source=frames", "--workers", 0, "--json", "-")
    command = (*prepare, "--flow", "stored", "--size", 16, "--num-frames", 4, "--split", "validation", "--out", "v")
    answer = kinema(*command)
    assert answer.code == 0, answer.err
    assert "optical flow is there of 4 of " in answer.out + answer.err
    assert (answer.json["new"], answer.json["bytes"]) == (2, 2 * 4 * 2 * 16 * 16)
    settings = Store.open(Path("v"), kind="frames").settings
    assert settings["motion"]["method"] == "stored"

    of_recipe = kinema(*prepare, "--frames", "--recipe", recipe, "--out", "s")
    assert of_recipe.code == 0, of_recipe.err
    assert list(of_recipe.json["failed"]) == ["P02_02_0"]
    assert "flow_frames/P02_02: there is no such folder of optical flow" in of_recipe.json["failed"]["P02_02_0"]
    assert of_recipe.json["clips"]["train"] == 4

    for store, output in (("s", "stored"), ("none", "files")):
        run = kinema("train", recipe, f"data.root={root}", f"output={output}", f"clips.store={store}")
        assert run.code == 0, run.err
        assert "train: 1 of 5 clips cannot be read and are left out" in run.out + run.err
        assert ("read from frames stored in" in run.out + run.err) is (store == "s")
    weights = [Path(name, "weights/model.safetensors").read_bytes() for name in ("stored", "files")]
    assert weights[0] == weights[1]
    config = json.loads(Path("files/weights/config.json").read_text())
    assert config["preprocessing"]["flow"]["motion"]["method"] == "stored"

    evaluated = kinema("evaluate", "files", "--split", "validation", "--json", "-")
    assert evaluated.code == 0, evaluated.err
    assert evaluated.json["num_clips"] == 2


def test_a_folder_of_frames_and_flow_is_predicted(kinema: Kinema, root: Path, tmp_path: Path) -> None:
    run = kinema("train", tmp_path / "recipe.yaml", f"data.root={root}", "output=run")
    assert run.code == 0, run.err
    folder = write_frames(tmp_path / "mine", 20)
    names = ("flow_x_%05d.jpg", "flow_y_%05d.jpg")
    write_flow(folder, 19, lambda _field: (2.0, np.pi), names=names)
    said = kinema("predict", "run/weights", folder, "--fps", 20, "--json", "-")
    assert said.code == 0, said.err
    frames = root / "P01" / "rgb_frames" / "P01_01"
    refused = kinema("predict", "run/weights", frames, "--fps", 60).error()
    assert "rgb_frames/P01_01: holds no optical flow; clips.motion.method=stored reads" in refused
