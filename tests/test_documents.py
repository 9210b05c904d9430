"""What the documentation shows runs as it is written."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from tests.conftest import REPOSITORY
from tests.videos import write_video

from kinema import recipes
from kinema.config import resolve

DOCUMENTS = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
KINEMA = Path(sys.executable).with_name("kinema")


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: some clips in a folder per class, and published weights where torchvision keeps them."""
    folder = tmp_path_factory.mktemp("user")
    rng = np.random.default_rng(0)
    for name, suffix, codec in (("jump", "mp4", "libx264"), ("run", "avi", "mpeg4")):
        for number in ("001", "007", "008", "009", "010"):
            path = folder / "my_clips" / name / f"{number}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_video(path, list(rng.integers(0, 255, (8, 64, 96, 3), dtype=np.uint8)), fps=25, codec=codec)
    weights = torchvision.models.get_model_weights("mobilenet_v2").DEFAULT
    checkpoint = folder / "torch" / "hub" / "checkpoints" / Path(weights.url).name
    checkpoint.parent.mkdir(parents=True)
    torch.save(torchvision.models.mobilenet_v2().state_dict(), checkpoint)
    return folder


@pytest.mark.parametrize(
    "document", ["README.md", "docs/augmentation.md", "docs/recipes.md", "docs/stores.md", "docs/training.md"]
)
def test_commands_run_as_written(document: str, workplace: Path) -> None:
    script = "\n".join(blocks(REPOSITORY / document, "sh"))
    assert script.count("kinema ") >= 3
    environment = {
        **os.environ,
        "PATH": f"{KINEMA.parent}{os.pathsep}{os.environ['PATH']}",
        "TORCH_HOME": str(workplace / "torch"),
    }
    done = subprocess.run(
        ["bash", "-euc", script], cwd=workplace, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr


def test_readme_python_runs_as_written(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (workplace / "runs" / "mine").is_dir():
        test_commands_run_as_written("README.md", workplace)
    monkeypatch.chdir(workplace)
    (code,) = blocks(REPOSITORY / "README.md", "python")
    names: dict[str, object] = {}
    exec(code, names)
    assert "recogniser" in names


def test_examples_of_extensions_register(tmp_path: Path) -> None:
    from kinema.registry import _read

    model, dataset = blocks(REPOSITORY / "docs" / "extending.md", "python")
    for kind, code in (("model", model), ("dataset", dataset)):
        path = tmp_path / f"my_{kind}.py"
        path.write_text(code, encoding="utf-8")
        (entry,) = _read(kind, path.stem, path)  # type: ignore[arg-type]
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        assert callable(getattr(module, entry.name))
        assert all(parameter.doc for parameter in entry.parameters)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", document.read_text(encoding="utf-8")):
        assert (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_recipes_and_keys_that_are_named_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for name, settings in re.findall(r"kinema train (\S+/\S+)((?: [a-z_]+\.[a-z_.]+=\S+)*)", text.replace("\\\n", " ")):
        if "optim.lrr" not in settings and "$" not in name:
            resolve(recipes.read(name.strip("`")), [setting.strip("`.,") for setting in settings.split()])


@pytest.mark.parametrize("name", recipes.names())
def test_shipped_recipes_say_what_they_are(name: str) -> None:
    text = recipes.find(name).read_text(encoding="utf-8")
    assert text.startswith("# ")
    resolve(recipes.read(name))
