"""What one process prepares reaches another whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from kinema.models.layers.backbone import FrameBackbone
from kinema.preparation.feature_store import FeatureReader
from kinema.progress import SILENT
from kinema.sections import Recipe
from kinema.training.prepare import Prepared, prepare
from kinema.training.readers import readers_of
from kinema.training.run_folder import Run
from kinema.training.work import Work, packed, unpacked
from kinema.types import ConfigError


def work_of(prepared: Prepared, folder: Path) -> Work:
    return Work(
        prepared=prepared,
        run=Run(folder),
        clips_fingerprint="1",
        readers=readers_of(prepared, None, SILENT),
        goes_on=False,
        clips_done=0,
        precision="fp32",
    )


@pytest.mark.parametrize("features", [False, True])
def test_the_other_side_has_the_same(
    recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, features: bool
) -> None:
    monkeypatch.setenv("KINEMA_CACHE", str(tmp_path / "cache"))
    overrides = []
    if features:
        torch.save(FrameBackbone("tiny").body.state_dict(), tmp_path / "weights.pt")
        overrides = ["init.freeze=backbone", f"init.weights={tmp_path / 'weights.pt'}", "clips.augmentation.views=2"]
        overrides += ["init.mean=[0.5,0.5,0.5]", "init.std=[0.5,0.5,0.5]"]
    work = work_of(prepare(recipe(*overrides)), tmp_path)
    found = unpacked(packed(work))
    assert found.prepared.recipe.to_dict() == work.prepared.recipe.to_dict()
    assert found.prepared.clips == work.prepared.clips
    assert found.prepared.dataset.classes == work.prepared.dataset.classes
    state = found.prepared.model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in work.prepared.model.state_dict().items())
    reader, theirs = work.readers["train"], found.readers["train"]
    assert isinstance(theirs, FeatureReader) == features
    outs = [
        {name: np.zeros(shape, dtype) for name, (shape, dtype) in part.layout().items()} for part in (reader, theirs)
    ]
    assert reader.read(3, 1, outs[0]) == theirs.read(3, 1, outs[1])
    assert all(out.any() and np.array_equal(out, outs[1][name]) for name, out in outs[0].items())


def test_a_model_that_cannot_be_sent_is_named(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    class Local(nn.Module):
        pass

    work = work_of(prepare(recipe()), tmp_path)
    work.prepared.model.extra = Local()
    with pytest.raises(ConfigError, match=r"trainer.devices: the run cannot be sent to other processes: .*Local"):
        packed(work)
