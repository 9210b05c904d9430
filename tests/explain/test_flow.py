"""`kinema explain flow`: the pictures say what moves where, and the command finds what is known."""

from __future__ import annotations

import importlib
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from tests.commands import Kinema
from tests.conftest import REPOSITORY
from tests.videos import numbered_frames, write_video
from torchvision.utils import flow_to_image

from kinema.data.flow_colours import colour_wheel, flow_colours
from kinema.explain.flow import FlowClip, FlowPair
from kinema.explain.flow_pictures import ROWS, strip, views

SPEED_PX = 3.0
HEIGHT_PX, WIDTH_PX = 96, 128


@pytest.fixture(scope="module")
def moving(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A texture that moves 3 px to the right and 1 px up in each of 12 frames."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(REPOSITORY / "benchmarks")
        known = importlib.import_module("known_motion")
    frames = []
    for number in range(12):
        motion = known.Motion(right_px=SPEED_PX * number, down_px=-float(number))
        grey = known.pair(motion, HEIGHT_PX, WIDTH_PX)[1]
        frames.append(np.repeat(grey[..., None], 3, axis=-1))
    path = tmp_path_factory.mktemp("flow") / "moving.mp4"
    return write_video(path, frames, fps=8, options={"crf": "12"})


def uniform(right_px: float, down_px: float) -> NDArray[np.float32]:
    return np.full((4, 6, 2), (right_px, down_px), dtype=np.float32)


def test_colours_are_those_of_the_benchmark() -> None:
    flow = np.random.default_rng(0).normal(size=(40, 50, 2)).astype(np.float32)
    # torchvision takes the greatest motion of the picture for the bound.
    bound_px = float(np.linalg.norm(flow, axis=-1).max())
    expected = flow_to_image(torch.from_numpy(flow).permute(2, 0, 1)).permute(1, 2, 0).numpy()
    apart = np.abs(flow_colours(flow, bound_px).astype(int) - expected.astype(int))
    assert apart.max() <= 1  # it rounds down in 32 bits
    assert (apart == 0).mean() > 0.99
    assert colour_wheel().shape == (55, 3)


@pytest.mark.parametrize(
    ("right_px", "down_px", "channels"),
    [
        (5, 0, (255, 0, 0)),  # red
        (0, 5, (255, 229, 0)),  # yellow
        (-5, 0, (0, 209, 255)),  # cyan
        (0, -5, (88, 0, 255)),  # blue to violet
        (0, 0, (255, 255, 255)),
    ],
)
def test_directions(right_px: float, down_px: float, channels: tuple[int, int, int]) -> None:
    colour = flow_colours(uniform(right_px, down_px), 5)[0, 0].astype(int)
    assert np.abs(colour - channels).max() <= 26, colour


def test_what_is_faster_than_the_bound_is_darker() -> None:
    at, slower, faster = (flow_colours(uniform(speed, 0), 5)[0, 0].tolist() for speed in (5, 2.5, 6))
    assert at == [255, 0, 0]
    assert slower == [255, 127, 127]
    assert faster == [191, 0, 0]


def test_views() -> None:
    frame = np.zeros((4, 6, 3), dtype=np.uint8)
    still = views(FlowPair(frame=frame, flow=uniform(0, 0), time_s=0), 5)
    assert [view[0, 0].tolist() for view in still] == [[0] * 3, [128] * 3, [128] * 3, [0, 0, 4], [255] * 3]
    fast = views(FlowPair(frame=frame, flow=uniform(7, -2.5), time_s=0), 5)
    assert [view[0, 0].tolist() for view in fast[1:4]] == [[255] * 3, [64] * 3, [252, 255, 164]]
    assert len(still) == len(ROWS)


@pytest.mark.parametrize("num", [1, 16])
def test_the_strip_shows_each_pair(num: int) -> None:
    frame = np.full((60, 90, 3), 40, dtype=np.uint8)
    flows = [np.full((60, 90, 2), (0.0, 4.0 * number / num), dtype=np.float32) for number in range(num)]
    pairs = [FlowPair(frame=frame, flow=flow, time_s=number / 8) for number, flow in enumerate(flows)]
    drawn = np.asarray(strip(FlowClip(pairs=pairs, method="dis", fps=8, num_all=40), 4, name="clip"))
    for pair in pairs:
        assert (drawn == views(pair, 4)[2][0, 0]).all(axis=-1).sum() >= 60 * 90  # enlarged
        assert (drawn == views(pair, 4)[4][0, 0]).all(axis=-1).sum() >= 60 * 90


def test_bounds_that_fit() -> None:
    def of(speed_px: float) -> float:
        pair = FlowPair(frame=np.zeros((4, 6, 3), dtype=np.uint8), flow=uniform(speed_px, 0), time_s=0)
        return FlowClip(pairs=[pair], method="dis", fps=8, num_all=1).fitting_bound_px()

    assert [of(speed_px) for speed_px in (0, 0.7, 5, 5.1, 19, 1000)] == [0.5, 1, 5, 10, 20, 100]


@pytest.mark.parametrize("method", ["dis", "farneback", "tvl1"])
def test_command(kinema: Kinema, moving: Path, method: str) -> None:
    done = kinema("explain", "flow", moving, "--method", method, "--pairs", 3, "--json", "-")
    assert done.code == 0, done.err
    facts = done.json
    assert facts["files"] == [f"flow/moving/{method}.png", f"flow/moving/{method}.mp4"]
    assert facts["num_all"] == 11
    assert facts["bound_px"] >= 5
    assert [pair["time_s"] for pair in facts["pairs"]] == [pytest.approx(time_s) for time_s in (0.125, 0.625, 1.125)]
    for pair in facts["pairs"]:
        # Sideways and up; content comes and goes at two edges, and the video is compressed.
        assert pair["mean_px"] == pytest.approx(np.hypot(SPEED_PX, 1), abs=0.4)
    with Image.open(facts["files"][0]) as image:
        assert image.size[0] >= 600
    with av.open(facts["files"][1]) as container:
        (stream,) = container.streams.video
        assert sum(1 for _ in container.decode(stream)) == 11
        assert float(stream.average_rate or 0) == pytest.approx(8)


def test_size_bound_and_times(kinema: Kinema, moving: Path) -> None:
    done = kinema("explain", "flow", moving, "--size", 48, "--bound", 1.5, "--start", 0.5, "--stop", 1.0, "--no-movie",
                  "--out", "here", "--json", "-")  # fmt: skip
    assert done.code == 0, done.err
    facts = done.json
    assert [pair["time_s"] for pair in facts["pairs"]] == [0.5, 0.625, 0.75]
    assert facts["files"] == ["here/dis.png"]
    assert facts["bound_px"] == 1.5
    for pair in facts["pairs"]:
        assert pair["mean_px"] == pytest.approx(np.hypot(SPEED_PX, 1) / 2, abs=0.3)  # half the size, half the motion
        assert pair["beyond"] > 0.5


def test_a_folder_of_frames(kinema: Kinema) -> None:
    Path("frames").mkdir()
    for number, frame in enumerate(numbered_frames(3)):
        Image.fromarray(frame).save(f"frames/{number:05d}.png")
    done = kinema("explain", "flow", "frames", "--fps", 10, "--json", "-")
    assert done.code == 0, done.err
    assert [pair["time_s"] for pair in done.json["pairs"]] == [0, 0.1]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("V --method disc", "method: 'disc' is no method of optical flow; did you mean 'dis'?"),
        ("V --bound 0", "--bound: 0 px is no bound of flow"),
        ("V --bound nan", "--bound: nan px is no bound of flow"),
        ("V --weights none.pt", "weights: dis has none"),
        ("V --method raft --weights none.pt", "none.pt: no such file of weights"),
        ("V --start 9", "is annotated from 9"),
        ("V --stop 0.05", "optical flow is between two frames, and the clip has one; give another --stop"),
        ("none.mp4", "none.mp4"),
        ("V --out V", "--out:"),
    ],
)
def test_one_line_for_every_mistake(kinema: Kinema, moving: Path, command: str, said: str) -> None:
    words = [str(moving) if word == "V" else word for word in command.split()]
    assert said in kinema("explain", "flow", *words).error()
