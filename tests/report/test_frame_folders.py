"""Clips of frame folders and still images, from the table of predictions to the page."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image
from tests.videos import numbered_frames

from kinema.evaluation.predictions import Predictions
from kinema.report.clips import clip_figures, read_samples
from kinema.types import Clip


def test_clips_of_frame_folders_and_still_images_are_shown(tmp_path: Path) -> None:
    folder, picture = tmp_path / "P01_01", tmp_path / "picture.jpg"
    folder.mkdir()
    for number, image in enumerate(numbered_frames(20), start=1):
        Image.fromarray(image).save(folder / f"frame_{number:010d}.jpg")
    Image.fromarray(numbered_frames(1)[0]).save(picture)
    clips = [
        Clip(clip_id="frames", video=folder, start_s=0.1, stop_s=0.3, fps=60.0, labels={"verb": 0}),
        Clip(clip_id="picture", video=picture, labels={"verb": 1}),
    ]
    predictions = Predictions(
        classes={"verb": ("take", "put")},
        clips=clips,
        logits={"verb": np.array([[1.0, 0.0], [1.0, 0.0]], dtype=np.float32)},
        labels={"verb": np.array([0, 1])},
        skipped={},
    )
    predictions.save(tmp_path / "evaluation")
    with (tmp_path / "evaluation" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["fps"] for row in rows] == ["60.0", ""]
    samples = read_samples(rows, ["verb"])
    assert [(sample.video, sample.fps) for sample in samples] == [(folder, 60.0), (picture, None)]
    page = str(clip_figures(samples, folder=tmp_path))
    assert page.count("<picture") == 2
    assert "video not available" not in page
    earlier = [{column: cell for column, cell in row.items() if column != "fps"} for row in rows]
    assert [sample.fps for sample in read_samples(earlier, ["verb"])] == [None, None]
