"""The picture of a training batch: the right clips, before and after."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.videos import write_video

from kinema.config import resolve
from kinema.data.loading import EpochOrder
from kinema.report.augmented_batch import draw_batch, shown_clips
from kinema.training.prepare import Prepared, prepare
from kinema.types import DataError

BRIGHTNESS = {"dark": 40, "grey": 120, "bright": 210}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three classes of three clips, each of one brightness that gets a little higher to the right."""
    ramp = np.broadcast_to(np.linspace(0, 30, 48, dtype=np.uint8)[:, None], (48, 48, 3))
    for name, level in BRIGHTNESS.items():
        for number in range(3):
            path = tmp_path / "clips" / name / f"{number}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_video(path, [(ramp + np.uint8(level)).astype(np.uint8)] * 6, fps=6, options={"crf": "4"})
    return tmp_path / "clips"


def prepared(root: Path, *overrides: str, **augmentation: Any) -> Prepared:
    recipe = {
        "data": {"name": "folder", "root": str(root)},
        "clips": {"num_frames": 5, "size_px": 32, "workers": 0, "batch_size": 4, "augmentation": augmentation},
        "model": {"name": "frame_average", "backbone": "tiny"},
        "trainer": {"accelerator": "cpu", "seed": 3, "select": "last"},
    }
    return prepare(resolve(recipe, overrides))


def test_the_clips_of_the_first_batch_with_their_classes(root: Path) -> None:
    plan = prepared(root, preset="none", flip=1.0)
    shown = shown_clips(plan)
    first = next(iter(EpochOrder(9, batch_size=4, seed=3)))
    names = plan.dataset.classes["action"]
    assert [clip.caption for clip in shown] == [names[plan.clips["train"][i].labels["action"]] for i, _ in first]
    for clip in shown:
        assert clip.before.shape == clip.after.shape == (4, 3, 32, 32)
        assert clip.before.float().mean() == pytest.approx(BRIGHTNESS[clip.caption] + 15, abs=6)
        assert (clip.after.int() - clip.before.flip(-1).int()).abs().max() <= 1
        assert not torch.equal(clip.after, clip.before)


def test_the_picture_has_both_sides(root: Path) -> None:
    def sides(**augmentation: Any) -> tuple[np.ndarray, np.ndarray]:
        picture = Image.open(io.BytesIO(draw_batch(prepared(root, **augmentation))))
        assert picture.format == "PNG"
        first_row = np.asarray(picture)[12 + 2 * 20 :][:112]  # below title and caption
        return first_row[:, : picture.width // 2], first_row[:, picture.width // 2 :]

    plain, same = sides(preset="none")
    assert np.array_equal(plain, same)
    assert plain.min() < 250
    still_plain, changed = sides(preset="aggressive", erase=1.0)
    assert np.array_equal(still_plain, plain)
    assert not np.array_equal(changed, plain)


def test_clips_that_cannot_be_read_are_left_out(root: Path) -> None:
    plan = prepared(root, preset="light")
    num_shown = len(shown_clips(plan))
    assert num_shown == 4
    first = [index for index, _ in next(iter(EpochOrder(9, batch_size=4, seed=3)))]
    plan.clips["train"][first[0]].video.unlink()
    assert len(shown_clips(plan)) == 3
    for index in first[1:]:
        plan.clips["train"][index].video.unlink()
    with pytest.raises(DataError):
        draw_batch(plan)
