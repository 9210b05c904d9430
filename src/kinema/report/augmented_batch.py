"""A picture of clips of the first training batch: as evaluation would see them, and beside that as training does."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from kinema.data.device import to_model_input, to_rgb
from kinema.data.loading import Batch, EpochOrder, clip_loader
from kinema.sections import Augmentation
from kinema.training.prepare import Prepared
from kinema.training.readers import frame_reader
from kinema.types import DataError, Preprocessing

NUM_CLIPS = 8
NUM_FRAMES = 4

_FRAME_PX = 112
_GAP_PX = 4
_MIDDLE_PX = 24
_TEXT_PX = 14
_LINE_PX = 20
_MARGIN_PX = 12
_PAPER, _INK, _FAINT = (255, 255, 255), (30, 30, 30), (110, 110, 110)


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One clip.

    Attributes:
        caption: Its classes.
        before: Some of its frames, as evaluation sees them.
        after: Frames at the same places in the clip that training is given.
    """

    caption: str
    before: UInt8[Tensor, "N 3 S S"]
    after: UInt8[Tensor, "N 3 S S"]


def draw_batch(prepared: Prepared) -> bytes:
    """A PNG of the first clips of the first training batch.

    Raises:
        DataError: None of them can be read.
    """
    return _png(shown_clips(prepared))


def shown_clips(prepared: Prepared) -> list[Shown]:
    """The first clips of the first training batch, before and after augmentation.

    Raises:
        DataError: None of them can be read.
    """
    before = _batch(prepared, None)
    after = _batch(prepared, prepared.recipe.clips.augmentation)
    places = {index: row for row, index in enumerate(before.indices.tolist())}
    shown = []
    for row, index in enumerate(after.indices.tolist()):
        if index in places:
            labels = prepared.clips["train"][index].labels
            names = {task: prepared.dataset.classes[task][label] for task, label in labels.items()}
            told_apart = [f"{task}: {name}" for task, name in names.items()] if len(names) > 1 else names.values()
            caption = ", ".join(told_apart)
            plain = _visible(before, places[index], prepared.preprocessing)
            changed = _visible(after, row, prepared.preprocessing)
            for stream, frames in plain.items():
                of_stream = f"{caption} ({stream})" if len(plain) > 1 else caption
                shown.append(Shown(caption=of_stream, before=frames, after=changed[stream]))
    if not shown:
        failures = {**before.failures, **after.failures}
        raise DataError(next(iter(failures.values()), "there are no training clips"))
    return shown


def _batch(prepared: Prepared, augmentation: Augmentation | None) -> Batch:
    recipe, clips = prepared.recipe, prepared.clips["train"]
    reader = frame_reader(prepared, "train", augmentation)
    # The order has the same beginning whatever the size of a batch.
    size = min(NUM_CLIPS, recipe.clips.batch_size)
    with clip_loader(reader, EpochOrder(len(clips), batch_size=size, seed=recipe.trainer.seed), workers=0) as loader:
        return next(iter(loader))


def _visible(batch: Batch, row: int, preprocessing: Mapping[str, Preprocessing]) -> dict[str, UInt8[Tensor, "N 3 S S"]]:
    """Stream -> some frames of a clip, as the model is given them, but for the normalisation."""
    rows = slice(row, row + 1)
    inputs = to_model_input(
        {stream: frames[rows] for stream, frames in batch.streams.items()},
        preprocessing,
        colour=None if batch.colour is None else batch.colour[rows],
        flip=None if batch.flip is None else batch.flip[rows],
        changes=None if batch.changes is None else batch.changes[rows],
    )
    return {stream: _pixels(values[0], preprocessing[stream]) for stream, values in inputs.items()}


def _pixels(values: Float[Tensor, "T C S S"], preprocessing: Preprocessing) -> UInt8[Tensor, "N 3 S S"]:
    chosen = np.linspace(0, len(values) - 1, min(NUM_FRAMES, len(values))).round().astype(int)
    values = values[torch.from_numpy(chosen)]
    mean, std = (values.new_tensor(of).view(-1, 1, 1) for of in (preprocessing.mean, preprocessing.std))
    seen = (values * std + mean).mul(255).round().clamp(0, 255).to(torch.uint8)
    return seen if preprocessing.motion is None else to_rgb(seen, preprocessing)


def _png(shown: Sequence[Shown]) -> bytes:
    half_px = len(shown[0].before) * (_FRAME_PX + _GAP_PX) - _GAP_PX
    right_px = _MARGIN_PX + half_px + _MIDDLE_PX
    width_px = right_px + half_px + _MARGIN_PX
    height_px = 2 * _MARGIN_PX + _LINE_PX + len(shown) * (_LINE_PX + _FRAME_PX + _GAP_PX)
    picture = Image.new("RGB", (width_px, height_px), _PAPER)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(_TEXT_PX)
    top_px = _MARGIN_PX
    for left_px, title in ((_MARGIN_PX, "without augmentation"), (right_px, "in the first epoch of training")):
        draw.text((left_px, top_px), _fitting(title, half_px, font), fill=_FAINT, font=font)
    for clip in shown:
        top_px += _LINE_PX
        draw.text((_MARGIN_PX, top_px), _fitting(clip.caption, 2 * half_px, font), fill=_INK, font=font)
        top_px += _LINE_PX
        for left_px, frames in ((_MARGIN_PX, clip.before), (right_px, clip.after)):
            for number, frame in enumerate(frames):
                image = Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy())
                image = image.resize((_FRAME_PX, _FRAME_PX), Image.Resampling.BICUBIC)
                picture.paste(image, (left_px + number * (_FRAME_PX + _GAP_PX), top_px))
        top_px += _FRAME_PX + _GAP_PX - _LINE_PX
    content = io.BytesIO()
    picture.save(content, "PNG", optimize=True)
    return content.getvalue()


def _fitting(text: str, width_px: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Shortened to what there is room for."""
    if font.getlength(text) <= width_px:
        return text
    while text and font.getlength(f"{text}…") > width_px:
        text = text[:-1]
    return f"{text}…"
