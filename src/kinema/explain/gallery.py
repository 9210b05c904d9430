"""Feature visualisations as a folder: a picture for each unit, and a grid of all.

LAYER/UNIT.png      a still picture; UNIT.webp and UNIT.mp4 a moving one
features.json       settings, and each unit's activation; pictures that it names are not made again
features.png        the grid: a row for each layer (features.webp where pictures move)
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from kinema.explain.drawing import canvas, png, scaled, write
from kinema.explain.features import Feature, Subject, visualise
from kinema.explain.movies import mp4, webp
from kinema.explain.palette import SOFT
from kinema.files import read_json_object, write_atomically, write_json
from kinema.progress import SILENT, Reporter
from kinema.types import DataError, fingerprint

_AT_ONCE = 6
"""Units whose pictures are made together; that many are lost when the work is interrupted."""
_FPS = 8.0
_TILE_PX, _GAP_PX, _MARGIN_PX, _NAME_PX = 144, 6, 16, 24

Pixels = UInt8[np.ndarray, "_ _ 3"]
Tile = list[Pixels]
"""A picture, or the frames of a moving one."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What pictures depend on, beside layer and unit.

    Attributes:
        network: Fingerprint of the weights.
        shape: Of a picture.
        steps: Of gradient ascent.
        seed: Of all that is random.
    """

    network: str
    shape: tuple[int, ...]
    steps: int
    seed: int


def make_gallery(
    folder: Path,
    subjects: Mapping[str, tuple[Subject, str]],
    units: Mapping[str, Sequence[int]],
    settings: Mapping[str, Settings],
    *,
    reporter: Reporter = SILENT,
) -> list[dict[str, Any]]:
    """Make those pictures that are not there yet, and the grid of all that are asked for.

    Args:
        folder: Where to; made if it is not there.
        subjects: Layer -> the network that pictures are shown to, and the layer's name within it.
        units: Layer -> its units.
        settings: Layer -> what the pictures depend on.
        reporter: Told of every step.

    Returns:
        A record for each unit: layer, unit, activation, noise, file.

    Raises:
        DataError: The folder cannot be written, or its features.json cannot be read.
    """
    known = _known(folder)
    keys = {
        (layer, unit): fingerprint([layer, unit, asdict(settings[layer])]) for layer in units for unit in units[layer]
    }
    todo = {layer: [unit for unit in units[layer] if keys[layer, unit] not in known] for layer in units}
    total = sum(len(todo[layer]) * settings[layer].steps for layer in todo)
    done = sum(len(units[layer]) * settings[layer].steps for layer in units) - total
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with reporter.track("Making pictures", total=total + done, unit="steps", done=done) as task:
            for layer, own in todo.items():
                for start in range(0, len(own), _AT_ONCE):
                    part, how = own[start : start + _AT_ONCE], settings[layer]
                    subject, name = subjects[layer]
                    for feature in visualise(subject, name, part, steps=how.steps, seed=how.seed, task=task):
                        known[keys[layer, feature.unit]] = _keep(folder, layer, feature)
                    write_json(folder / "features.json", {"pictures": known})
        records = [known[keys[layer, unit]] for layer in units for unit in units[layer]]
        _write_grid(folder, units, records)
    except OSError as error:
        raise DataError(f"--out: {folder} cannot be written: {error.strerror or error}") from error
    return records


def frames_of(feature: Feature) -> Tile:
    """A picture, or the frames of a moving one."""
    values = (feature.picture.clamp(0, 1) * 255).round().byte()
    if values.ndim == 3:
        return [values.permute(1, 2, 0).numpy()]
    return list(values.permute(1, 2, 3, 0).numpy())


def _known(folder: Path) -> dict[str, dict[str, Any]]:
    path = folder / "features.json"
    if not path.is_file():
        return {}
    found = read_json_object(path).get("pictures")
    if not isinstance(found, dict) or not all(isinstance(one, dict) and "file" in one for one in found.values()):
        raise DataError(f"{path}: not written by this version of kinema; remove it, or give another --out")
    return {key: one for key, one in found.items() if (folder / one["file"]).is_file()}


def _keep(folder: Path, layer: str, feature: Feature) -> dict[str, Any]:
    tile = frames_of(feature)
    place = folder / layer
    place.mkdir(exist_ok=True)
    files = {".png": png(Image.fromarray(tile[0]))}
    if len(tile) > 1:
        files = {".mp4": mp4(_longer(tile), fps=_FPS), ".webp": webp(tile, fps=_FPS)}
    for suffix, content in files.items():
        write_atomically(place / f"{feature.unit}{suffix}", content)
    return {
        "layer": layer,
        "unit": feature.unit,
        "activation": feature.activation,
        "noise": feature.noise,
        "file": f"{layer}/{feature.unit}{list(files)[-1]}",
    }


def _longer(tile: Tile) -> Tile:
    """A video is over in a second: it is shown three times."""
    return tile * 3


def _write_grid(folder: Path, units: Mapping[str, Sequence[int]], records: Sequence[Mapping[str, Any]]) -> None:
    rows: dict[str, list[tuple[str, Tile]]] = {layer: [] for layer in units}
    for record in records:
        tile = _read_tile(folder / record["file"])
        rows[record["layer"]].append((f"{record['unit']}: {record['activation']:.3g}", tile))
    num_frames = max(len(tile) for row in rows.values() for _, tile in row)
    pages = [_page(rows, moment, num_frames) for moment in range(num_frames)]
    if num_frames == 1:
        write_atomically(folder / "features.png", png(pages[0]))
        return
    frames = [np.asarray(page) for page in pages]
    write_atomically(folder / "features.webp", webp(frames, fps=_FPS))
    write_atomically(folder / "features.mp4", mp4(_longer(frames), fps=_FPS))
    write_atomically(folder / "features.png", png(pages[num_frames // 2]))


def _page(rows: Mapping[str, Sequence[tuple[str, Tile]]], moment: int, num_frames: int) -> Image.Image:
    step = _TILE_PX + _GAP_PX
    width = 2 * _MARGIN_PX + max(len(row) for row in rows.values()) * step - _GAP_PX
    image = canvas(max(width, 320), 2 * _MARGIN_PX + len(rows) * (step + _NAME_PX + 16))
    y = _MARGIN_PX
    for layer, row in rows.items():
        write(image, layer, _MARGIN_PX, y, size_px=15, most_px=image.width - 2 * _MARGIN_PX)
        for column, (name, tile) in enumerate(row):
            x = _MARGIN_PX + column * step
            frame = tile[moment * len(tile) // num_frames]
            image.paste(scaled(frame, _TILE_PX, _TILE_PX), (x, y + _NAME_PX))
            write(image, name, x, y + _NAME_PX + _TILE_PX + 1, size_px=11, colour=SOFT, most_px=_TILE_PX)
        y += step + _NAME_PX + 16
    return image


def _read_tile(path: Path) -> Tile:
    try:
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            frames = []
            for number in range(getattr(image, "n_frames", 1)):
                image.seek(number)
                frames.append(np.asarray(image.convert("RGB")))
            return frames
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as a picture ({error}); remove it, and it is made again") from None
