"""Feature visualisation: pictures that move their unit, the same for the same seed, and folders that go on."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from kinema.data.one_clip import open_clip
from kinema.data.reading import read_clip
from kinema.explain import gallery
from kinema.explain.changes import changed
from kinema.explain.features import Subject, by_unit, noise_pictures, unit_activations, visualise
from kinema.explain.fourier import frequencies, random_spectrum, to_picture, to_spectrum
from kinema.explain.subjects import choose_layers, choose_units, layers_of, of_backbone, settings_of
from kinema.types import ConfigError, Preprocessing

HALF = (0.5, 0.5, 0.5)


def edges(shape: tuple[int, ...] = (32, 32)) -> Subject:
    """Two units: bright below dark, and bright beside dark."""
    kernel = torch.tensor([[-1.0, -2.0, -1.0], [0.0, 0.0, 0.0], [1.0, 2.0, 1.0]])
    network = nn.Sequential(nn.Conv2d(3, 2, 3, bias=False), nn.ReLU(inplace=True))
    network[0].weight = nn.Parameter(torch.stack([kernel, kernel.T])[:, None].expand(2, 3, 3, 3).clone())
    return Subject(module=network, run=network, shape=shape, mean=HALF, std=HALF)


@pytest.mark.parametrize("shape", [(16, 16), (15, 17), (4, 16, 16), (5, 9, 8)])
def test_there_and_back(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    picture = 0.1 + 0.8 * torch.rand(2, 3, *shape, generator=generator)
    torch.testing.assert_close(to_picture(to_spectrum(picture), shape), picture, rtol=1e-4, atol=1e-4)
    spectrum = torch.stack([random_spectrum(shape, generator)])
    assert spectrum.shape == (1, 3, *shape[:-1], shape[-1] // 2 + 1, 2)
    grey = to_picture(spectrum, shape)
    assert 0.005 < float(grey.sub(0.5).std()) < 0.25, "it begins as faint noise"


def test_a_step_moves_coarse_structure_more() -> None:
    shape = (32, 32)
    assert frequencies(shape)[0, 0] == 0
    assert frequencies(shape)[0, -1] == pytest.approx(0.5)
    spectrum = torch.zeros(1, 3, 32, 17, 2)
    coarse, fine = spectrum.clone(), spectrum.clone()
    coarse[..., 0, 1, 0], fine[..., 0, 12, 0] = 1.0, 1.0
    moved = [float((to_picture(each, shape) - 0.5).abs().mean()) for each in (coarse, fine)]
    assert moved[0] > 8 * moved[1]


@pytest.mark.parametrize("shape", [(24, 24), (4, 24, 24)])
def test_changes_keep_the_picture_and_hand_gradients_back(shape: tuple[int, ...]) -> None:
    picture = to_picture(torch.stack([random_spectrum(shape, torch.Generator().manual_seed(0))] * 2), shape)
    picture.requires_grad_(True)
    first = changed(picture, torch.Generator().manual_seed(1))
    assert first.shape == picture.shape
    torch.testing.assert_close(first, changed(picture, torch.Generator().manual_seed(1)))
    torch.testing.assert_close(first[0], first[1])
    assert not torch.equal(first, changed(picture, torch.Generator().manual_seed(2)))
    (gradient,) = torch.autograd.grad(first.sum(), picture)
    assert float(gradient.abs().sum()) > 0


def test_pictures_show_what_the_unit_answers_to() -> None:
    subject = edges()
    level, upright = visualise(subject, "1", [0, 1], steps=60, seed=0)
    for feature in (level, upright):
        assert feature.activation > 1.3 * feature.noise
    answers = unit_activations(subject, "1", torch.stack([level.picture, upright.picture]))
    assert answers[0, 0] > answers[0, 1] + 0.3, "one is of level edges"
    assert answers[1, 1] > answers[1, 0] + 0.3, "the other of upright ones"


def test_one_seed_one_picture() -> None:
    subject = edges()
    (first,) = visualise(subject, "1", [1], steps=8, seed=3)
    (again,) = visualise(subject, "1", [1], steps=8, seed=3)
    (other,) = visualise(subject, "1", [1], steps=8, seed=4)
    assert torch.equal(first.picture, again.picture)
    assert not torch.equal(first.picture, other.picture)
    _, beside = visualise(subject, "1", [0, 1], steps=8, seed=3)
    torch.testing.assert_close(first.picture, beside.picture, rtol=0, atol=2e-3)


def test_silent_units_are_woken() -> None:
    subject = edges()
    network = subject.module
    network[0].weight = nn.Parameter(torch.full((2, 3, 3, 3), 1 / 9))  # type: ignore[index]
    network[0].bias = nn.Parameter(torch.full((2,), -1.5))  # type: ignore[index]
    assert not unit_activations(subject, "1", torch.full((1, 3, 32, 32), 0.5)).any()
    (feature,) = visualise(subject, "1", [0], steps=60, seed=0)
    assert feature.activation > 0
    assert all("forward" not in module.__dict__ for module in network.modules())


def test_moving_pictures_move() -> None:
    torch.manual_seed(0)
    network = nn.Conv3d(3, 1, (3, 1, 1), bias=False)
    network.weight = nn.Parameter(torch.tensor([-1.0, 0.0, 1.0]).view(1, 1, 3, 1, 1).expand(1, 3, 3, 1, 1).clone())
    holder = nn.Sequential(network, nn.ReLU())
    subject = Subject(
        module=holder, run=lambda clips: holder(clips.transpose(1, 2)), shape=(6, 16, 16), mean=HALF, std=HALF
    )
    (feature,) = visualise(subject, "1", [0], steps=80, seed=0)
    assert feature.picture.shape == (3, 6, 16, 16)
    assert feature.activation > 1.5 * feature.noise
    assert len(gallery.frames_of(feature)) == 6
    assert float(feature.picture.diff(dim=1).abs().mean()) > 0.05


@pytest.mark.parametrize(
    ("shape", "num", "units"),
    [((2, 5, 4, 4), 2, 5), ((2, 4, 4, 5), 2, 5), ((2, 9, 5), 2, 5), ((2, 5), 2, 5), ((6, 5), 2, 5),
     ((6, 5, 4, 4), 2, 5), ((2, 5, 3, 4, 4), 2, 5)],
)  # fmt: skip
def test_means_of_units(shape: tuple[int, ...], num: int, units: int) -> None:
    values = torch.rand(shape)
    found = by_unit(values, num)
    assert found.shape == (num, units)
    torch.testing.assert_close(found.mean(), values.mean())


def test_edges_do_not_count() -> None:
    values = torch.zeros(1, 3, 48, 48)
    values[..., :2, :], values[..., -2:] = 9.0, 9.0
    assert not by_unit(values, 1).any()


def test_layers_and_units_by_name() -> None:
    subject = of_backbone("mobilenet_v2", None, mean=HALF, std=HALF, size_px=32, random=True)
    chosen = choose_layers([subject], ["features.1", "features.12"])
    assert list(chosen) == ["body.features.1", "body.features.12"]
    _, layer = chosen["body.features.12"]
    assert choose_units(layer, subject, num=4, named=None) == [0, 32, 63, 95]
    assert choose_units(layer, subject, num=4, named=[7]) == [7]
    with pytest.raises(ConfigError, match="has units 0 to 95, not 96"):
        choose_units(layer, subject, num=4, named=[96])
    with pytest.raises(ConfigError, match=r"--layers: no layer 'features\.21'; did you mean"):
        choose_layers([subject], ["features.21"])
    assert len(choose_layers([subject], None)) == 4
    assert layers_of(subject)[-1].name == "body"


def test_a_folder_goes_on_where_it_was(tmp_path: Path) -> None:
    subject = edges()
    settings = settings_of(subject, steps=4, seed=0)

    def make(units: list[int], how: gallery.Settings = settings, **more: object) -> list[dict[str, object]]:
        return gallery.make_gallery(tmp_path, {"1": (subject, "1")}, {"1": units}, {"1": how}, **more)  # type: ignore[arg-type]

    class StopError(Exception):
        pass

    class Stopping:
        def __init__(self) -> None:
            self.steps = 0

        @contextmanager
        def track(self, *_: object, **__: object) -> Iterator[Stopping]:
            yield self

        def advance(self, num: int = 1, **_: str) -> None:
            self.steps += num
            if self.steps > 4:
                raise StopError

    patch = pytest.MonkeyPatch()
    patch.setattr(gallery, "_AT_ONCE", 1)
    with pytest.raises(StopError):
        make([0, 1], reporter=Stopping())
    first = (tmp_path / "1" / "0.png").stat().st_mtime_ns
    assert not (tmp_path / "1" / "1.png").exists()
    counted = Stopping()
    records = make([0, 1], reporter=counted)
    assert counted.steps == 4, "only what was missing is made"
    assert [record["unit"] for record in records] == [0, 1]
    assert (tmp_path / "1" / "0.png").stat().st_mtime_ns == first
    assert Image.open(io.BytesIO((tmp_path / "features.png").read_bytes())).size[0] >= 300
    make([0], replace(settings, seed=1))
    assert (tmp_path / "1" / "0.png").stat().st_mtime_ns != first, "of another seed it is another picture"
    patch.undo()
    known = json.loads((tmp_path / "features.json").read_text())["pictures"]
    assert len(known) == 3
    assert list(itertools.chain(tmp_path.rglob(".*"))) == []


@pytest.mark.slow
def test_units_of_published_weights_prefer_their_pictures(data_root: Path) -> None:
    weights = data_root / "weights" / "mobilenet_v2_imagenet_dequant.pt"
    subject = of_backbone("mobilenet_v2", weights, mean=HALF, std=HALF, size_px=96)
    own = Preprocessing(num_frames=8, size_px=96, resize_px=110, fit="crop", mean=HALF, std=HALF)
    videos = sorted((data_root / "ut_interaction").rglob("*.avi"))[:4]
    clips = torch.cat([read_clip(*open_clip(video), own) for video in videos]).float() / 255
    for layer in ("body.features.4", "body.features.12"):
        units = [3, 17]
        real: Tensor = unit_activations(subject, layer, clips)[:, units].amax(dim=0)
        noise = unit_activations(subject, layer, noise_pictures((96, 96), seed=1))[:, units].amax(dim=0)
        for row, feature in enumerate(visualise(subject, layer, units, steps=48, seed=0)):
            assert np.isfinite(feature.activation)
            assert feature.activation > float(real[row]) + 1
            assert feature.activation > float(noise[row]) + 1
