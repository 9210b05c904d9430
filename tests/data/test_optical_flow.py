"""Optical flow of pictures whose flow is known, its 8 bits, and pictures of any size."""

from __future__ import annotations

import importlib
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from tests.conftest import REPOSITORY
from torchvision.models import optical_flow as networks

from kinema.data import optical_flow
from kinema.data.optical_flow import dequantise, flow_of, from_stored, quantise, quantise_magnitude
from kinema.types import ConfigError, DataError

MARGIN_PX = 8
"""Beside the edges of either picture, where content comes and goes, nothing is asked for."""
SIZES = [(112, 112), (96, 160), (180, 240)]
SMALL = [(1, 1), (2, 7), (8, 8), (9, 31), (12, 64), (15, 300), (300, 15), (16, 16), (24, 20), (32, 32)]
BOUNDS = st.floats(0.5, 100)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    return importlib.import_module("known_motion")


@pytest.fixture(scope="module")
def small_raft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that nobody trained."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("raft") / "raft_small.pt"
    torch.save(networks.raft_small().state_dict(), path)
    return path


def f32(values: object) -> NDArray[np.float32]:
    return np.array(values, dtype=np.float32)


def u8(values: object) -> NDArray[np.uint8]:
    return np.array(values, dtype=np.uint8)


def noise(height_px: int, width_px: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height_px, width_px), dtype=np.uint8)


SLOW = [(0, 0), (1, 0), (0, -4), (0.5, 0.25), (-2.3, 3.6)]
FAST = [(8, 0), (0, 8), (-5.5, 5.5), (-2.3, 7.6)]


# Farnebäck's windows of 15 pixels lose more than 4 pixels here and there in pictures that can be halved once only.
@pytest.mark.parametrize(
    ("method", "size", "shift"),
    [("dis", size, shift) for size in SIZES for shift in SLOW + FAST]
    + [("farneback", size, shift) for size in SIZES for shift in SLOW]
    + [("farneback", SIZES[-1], shift) for shift in FAST],
    ids=str,
)
def test_translation(known: ModuleType, method: str, size: tuple[int, int], shift: tuple[float, float]) -> None:
    motion = known.Motion(right_px=shift[0], down_px=shift[1])
    found = flow_of(method)(*known.pair(motion, *size))
    assert found.shape == (*size, 2)
    assert found.dtype == np.float32
    assert known.end_point_error(found, motion, margin_px=MARGIN_PX) < 0.15
    # All of the picture, its edges as well.
    assert np.linalg.norm(found - motion.flow(*size), axis=-1).mean() < 0.5


@pytest.mark.parametrize("shift", SLOW)
def test_translation_by_tvl1(known: ModuleType, shift: tuple[float, float]) -> None:
    # Faster, it keeps to a wrong wave of this texture in places: 0.2 to 0.5 px at 8.
    motion = known.Motion(right_px=shift[0], down_px=shift[1])
    found = flow_of("tvl1")(*known.pair(motion, 96, 112))
    assert known.end_point_error(found, motion, margin_px=MARGIN_PX) < 0.1


@pytest.mark.parametrize("method", ["dis", "farneback", "tvl1"])
@pytest.mark.parametrize("change", [{"turn_deg": 3}, {"turn_deg": -3}, {"zoom": 1.05}, {"zoom": 0.95}], ids=str)
def test_turns_and_zooms(known: ModuleType, method: str, change: dict[str, float]) -> None:
    motion = known.Motion(**change)
    found = flow_of(method)(*known.pair(motion, 96, 112))
    assert known.end_point_error(found, motion, margin_px=MARGIN_PX) < 0.25
    still = known.end_point_error(np.zeros_like(found), motion, margin_px=MARGIN_PX)
    assert still > 1  # there is something to be found


def test_the_known_flow_is_that_of_the_pictures(known: ModuleType) -> None:
    # A whole pixel to the right and two down: the second picture is the first one, shifted.
    first, second = known.pair(known.Motion(right_px=1, down_px=2), 40, 50)
    np.testing.assert_array_equal(second[2:, 1:], first[:-2, :-1])
    # A quarter turn clockwise takes what is on the right to the bottom.
    first, second = known.pair(known.Motion(turn_deg=90), 41, 41)
    np.testing.assert_array_equal(second, np.rot90(first, -1))
    flow = known.Motion(turn_deg=90).flow(41, 41)
    np.testing.assert_allclose(flow[20, 40], [-20, 20], atol=1e-9)
    np.testing.assert_allclose(known.Motion(zoom=1.5).flow(41, 41)[20, 40], [10, 0], atol=1e-9)


@pytest.mark.parametrize("method", ["dis", "farneback", "tvl1"])
def test_mirrored_pictures_have_mirrored_flow(known: ModuleType, method: str) -> None:
    motion = known.Motion(right_px=3, down_px=-1.5, turn_deg=2)
    first, second = known.pair(motion, 96, 112)
    flow = flow_of(method)
    plain, mirrored = flow(first, second), flow(first[:, ::-1], second[:, ::-1])
    back = mirrored[:, ::-1] * f32([-1, 1])
    stays = known.stays(motion, 96, 112, margin_px=MARGIN_PX)
    apart_px = np.linalg.norm(plain - back, axis=-1)[stays].mean()
    noise_px = known.end_point_error(plain, motion, margin_px=MARGIN_PX)
    assert apart_px <= 2 * noise_px  # two estimates, each that far from the truth
    assert np.linalg.norm(plain - mirrored[:, ::-1], axis=-1)[stays].mean() > 3  # without the sign they differ


@pytest.mark.parametrize("method", ["dis", "farneback", "tvl1"])
def test_the_same_pictures_have_the_same_flow(method: str) -> None:
    # Between them others, of another size: OpenCV's objects remember.
    flow, first, second = flow_of(method), noise(40, 52), noise(40, 52, 1)
    found = flow(first, second)
    flow(noise(33, 70, 2), noise(33, 70, 3))
    np.testing.assert_array_equal(flow(first, second), found)
    np.testing.assert_array_equal(flow_of(method)(first, second), found)
    assert cv2.getNumThreads() == 1


@pytest.mark.parametrize("method", ["dis", "farneback", "tvl1"])
def test_pictures_of_any_size(method: str) -> None:
    # In a process of its own: OpenCV 5.0 crashes on some of them where they are given as they are.
    program = f"""
        import numpy as np
        from kinema.data.optical_flow import flow_of
        flow = flow_of({method!r})
        for height, width in {SMALL}:
            picture = np.random.default_rng(0).integers(0, 256, (height, width), dtype=np.uint8)
            found = flow(picture, np.roll(picture, 1, axis=1))
            assert found.shape == (height, width, 2) and found.dtype == np.float32, (found.shape, found.dtype)
            assert np.isfinite(found).all(), (height, width)
            assert np.abs(flow(picture, picture)).max() < 0.1, (height, width)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


def test_small_pictures_are_not_much_worse(known: ModuleType) -> None:
    motion = known.Motion(right_px=1)
    for size in ((16, 16), (24, 24), (20, 40)):
        found = flow_of("dis")(*known.pair(motion, *size))
        assert known.end_point_error(found, motion, margin_px=4) < 0.5


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (noise(20, 20), noise(20, 21), r"one size, not of \(20, 20\) and \(20, 21\)"),
        (noise(20, 20).astype(np.float32), noise(20, 20), "uint8"),
        (noise(20, 20)[..., None], noise(20, 20), r"not uint8 \(20, 20, 1\)"),
        (noise(0, 20), noise(0, 20), r"\(0, 20\)"),
    ],
)
def test_what_are_no_two_grey_pictures(first: NDArray[np.uint8], second: NDArray[np.uint8], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        flow_of("farneback")(first, second)


def test_settings_that_do_not_go(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'tvl2' is no method of optical flow; did you mean 'tvl1'.*dis, farneback"):
        flow_of("tvl2")
    with pytest.raises(ConfigError, match="weights: dis has none"):
        flow_of("dis", weights=tmp_path)
    monkeypatch.delattr(cv2, "optflow")
    with pytest.raises(ConfigError, match=r"tvl1 needs OpenCV's contributed modules.*kinema\[opencv\]"):
        flow_of("tvl1")
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ConfigError, match=r'method: dis needs OpenCV \(.*\): pip install "kinema\[opencv\]"'):
        flow_of("dis")


def test_raft_is_torchvisions(small_raft: Path) -> None:
    first, second = noise(128, 136), noise(128, 136, 1)
    flow = flow_of("raft", weights=small_raft)
    found = flow(first, second)
    network = networks.raft_small().eval()
    network.load_state_dict(torch.load(small_raft, weights_only=True))
    prepare = networks.Raft_Small_Weights.DEFAULT.transforms()
    colour = [torch.from_numpy(picture)[None, None].repeat(1, 3, 1, 1) for picture in (first, second)]
    with torch.inference_mode():
        expected = network(*prepare(*colour))[-1][0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-3)
    np.testing.assert_array_equal(flow(first, second), found)


def test_raft_of_other_sizes(small_raft: Path) -> None:
    flow = flow_of("raft", weights=small_raft)
    first, second = noise(130, 140), noise(130, 140, 1)
    padded = [np.pad(picture, ((3, 3), (2, 2)), "edge") for picture in (first, second)]
    np.testing.assert_allclose(flow(first, second), flow(*padded)[3:-3, 2:-2], atol=1e-3)
    small = flow(noise(20, 30), noise(20, 30, 1))
    assert small.shape == (20, 30, 2)
    assert np.isfinite(small).all()


def test_weights_of_raft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"module." + name: value for name, value in networks.raft_large().state_dict().items()}, "large.pt")
    assert flow_of("raft", weights=Path("large.pt"))(noise(8, 8), noise(8, 8)).shape == (8, 8, 2)
    torch.save({"weight": torch.zeros(3)}, "other.pt")
    with pytest.raises(DataError, match=r"^other.pt: not the weights of torchvision's raft_large or raft_small"):
        flow_of("raft", weights=Path("other.pt"))
    with pytest.raises(DataError, match=r"none.pt: no such file of weights"):
        flow_of("raft", weights=Path("none.pt"))
    torch.save(print, "code.pt")
    with pytest.raises(DataError, match=r"code.pt: .*not unpickled"):
        flow_of("raft", weights=Path("code.pt"))

    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(DataError, match=r"cannot be fetched \(no network\); download https://.* and give the path"):
        flow_of("raft")


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


FLOWS = arrays(np.float32, (3, 4, 2), elements=st.floats(-200, 200, width=32))


@given(flow=FLOWS, bound_px=BOUNDS)
def test_8_bits_are_right_to_half_a_step(flow: NDArray[np.float32], bound_px: float) -> None:
    inside = np.clip(flow, -bound_px, bound_px)
    values = quantise(flow, bound_px)
    assert values.dtype == np.uint8
    assert values.min() >= 1
    assert np.abs(dequantise(values, bound_px) - inside).max() <= bound_px / 254 * (1 + 1e-5)
    np.testing.assert_array_equal(quantise(dequantise(values, bound_px), bound_px), values)


@given(flow=FLOWS, bound_px=BOUNDS)
def test_flow_the_other_way_is_256_less_its_value(flow: NDArray[np.float32], bound_px: float) -> None:
    np.testing.assert_array_equal(quantise(-flow, bound_px).astype(int), 256 - quantise(flow, bound_px).astype(int))
    np.testing.assert_array_equal(quantise_magnitude(-flow, bound_px), quantise_magnitude(flow, bound_px))


@given(bound_px=BOUNDS, more=st.floats(0, 1000))
def test_what_is_faster_than_the_bound(bound_px: float, more: float) -> None:
    fast = f32([bound_px + more + 1e-3, -bound_px - more - 1e-3, np.inf, -np.inf])
    assert quantise(fast, bound_px).tolist() == [255, 1, 255, 1]
    assert quantise_magnitude(fast[:, None] * f32([1, 0.1]), bound_px).tolist() == [255] * 4


@given(flow=FLOWS, bound_px=BOUNDS)
def test_magnitude_is_right_to_half_a_step(flow: NDArray[np.float32], bound_px: float) -> None:
    values = quantise_magnitude(flow, bound_px)
    assert values.shape == (3, 4)
    assert values.dtype == np.uint8
    length_px = np.minimum(np.linalg.norm(flow.astype(np.float64), axis=-1), bound_px)
    assert np.abs(values * (bound_px / 255) - length_px).max() <= bound_px / 510 * (1 + 1e-5)


def test_no_motion() -> None:
    still = np.zeros((2, 2), dtype=np.float32)
    assert (quantise(still, 20) == optical_flow.ZERO).all()
    assert (quantise(-still, 20) == 128).all()
    assert (dequantise(np.full((2, 2), 128, dtype=np.uint8), 20) == 0).all()
    assert quantise_magnitude(np.zeros((1, 2), dtype=np.float32), 20).tolist() == [0]


@given(stored=arrays(np.uint8, (5, 6)), bound_px=BOUNDS, stored_bound_px=BOUNDS)
def test_files_of_others(stored: NDArray[np.uint8], bound_px: float, stored_bound_px: float) -> None:
    values = from_stored(stored, bound_px=bound_px, stored_bound_px=stored_bound_px)
    flow_px = np.clip((stored / 255 * 2 - 1) * stored_bound_px, -bound_px, bound_px)
    # Half a step of ours, and half a step of theirs for the two values beside no motion.
    most = bound_px / 254 + np.where((stored == 127) | (stored == 128), stored_bound_px / 255, 0)
    assert (np.abs(dequantise(values, bound_px) - flow_px) <= most * (1 + 1e-5)).all()
    turned = from_stored(255 - stored, bound_px=bound_px, stored_bound_px=stored_bound_px)
    np.testing.assert_array_equal(turned.astype(int), 256 - values.astype(int))


def test_no_motion_in_files_of_others() -> None:
    stored = u8([0, 127, 128, 255])
    assert from_stored(stored, bound_px=20).tolist() == [1, 128, 128, 255]
    assert from_stored(stored, bound_px=1).tolist() == [1, 128, 128, 255]
    assert from_stored(u8([64, 191]), bound_px=40).tolist() == [96, 160]


@pytest.mark.parametrize("bound_px", [0.0, -1.0, float("nan"), float("inf")])
def test_bounds_that_are_none(bound_px: float) -> None:
    values, flow = np.zeros(2, dtype=np.uint8), np.zeros(2, dtype=np.float32)
    calls: list[Callable[[], object]] = [
        lambda: quantise(flow, bound_px),
        lambda: dequantise(values, bound_px),
        lambda: quantise_magnitude(flow[None], bound_px),
        lambda: from_stored(values, bound_px=bound_px),
        lambda: from_stored(values, bound_px=1, stored_bound_px=bound_px),
    ]
    for call in calls:
        with pytest.raises(ConfigError, match="is no bound of flow; give a number above 0"):
            call()


def test_flow_that_is_not_a_number() -> None:
    flow = f32([[1, np.nan]])
    for quantised in (quantise, quantise_magnitude):
        with pytest.raises(ValueError, match="not a number"):
            quantised(flow, 20)
