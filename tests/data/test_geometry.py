"""Which rectangle of a frame a model sees."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms import v2

from kinema.data.geometry import Box, centre_box, multi_scale_box, random_box
from kinema.types import Fit, Preprocessing

SIDES = st.integers(1, 4000)
SIZES = st.tuples(st.integers(8, 500), st.integers(0, 200))  # size_px, and by how much resize_px is larger
FITS = st.sampled_from(["crop", "squash"])


def preprocessing(size_px: int, resize_px: int, fit: Fit = "crop") -> Preprocessing:
    return Preprocessing(
        num_frames=1, size_px=size_px, resize_px=resize_px, fit=fit, mean=(0.5, 0.5, 0.5), std=(1.0, 1.0, 1.0)
    )


def is_inside(box: Box, height_px: int, width_px: int) -> bool:
    return (
        box.top_px >= 0
        and box.left_px >= 0
        and box.height_px >= 1
        and box.width_px >= 1
        and box.top_px + box.height_px <= height_px
        and box.left_px + box.width_px <= width_px
    )


@pytest.mark.parametrize(
    ("height_px", "width_px", "box"),
    [
        (240, 320, Box(top_px=15, left_px=55, height_px=210, width_px=210)),
        (320, 240, Box(top_px=55, left_px=15, height_px=210, width_px=210)),
        (256, 256, Box(top_px=16, left_px=16, height_px=224, width_px=224)),
        (1, 9, Box(top_px=0, left_px=4, height_px=1, width_px=1)),
    ],
)
def test_crop_takes_the_centre(height_px: int, width_px: int, box: Box) -> None:
    assert centre_box(height_px, width_px, preprocessing(224, 256)) == box


def test_squash_takes_the_whole_frame() -> None:
    box = centre_box(240, 320, preprocessing(224, 224, "squash"))
    assert box == Box(top_px=0, left_px=0, height_px=240, width_px=320)


@given(SIDES, SIDES, SIZES, FITS)
def test_the_centre_box_is_inside_and_centred(height_px: int, width_px: int, size: tuple[int, int], fit: Fit) -> None:
    box = centre_box(height_px, width_px, preprocessing(size[0], sum(size), fit))
    assert is_inside(box, height_px, width_px)
    assert 0 <= (height_px - box.height_px) - 2 * box.top_px <= 1
    assert 0 <= (width_px - box.width_px) - 2 * box.left_px <= 1
    if fit == "crop":
        assert box.height_px == box.width_px
        assert box.height_px == pytest.approx(min(height_px, width_px) * size[0] / sum(size), abs=0.5 + 1e-9) or (
            box.height_px == 1
        )


@given(SIDES, SIDES, SIZES, FITS, st.floats(0, 1, exclude_min=True), st.integers(0, 2**32))
def test_a_random_box_is_inside_and_keeps_shape_and_area(
    height_px: int, width_px: int, size: tuple[int, int], fit: Fit, min_scale: float, seed: int
) -> None:
    settings_ = preprocessing(size[0], sum(size), fit)
    whole = centre_box(height_px, width_px, settings_)
    box = random_box(height_px, width_px, settings_, min_scale=min_scale, rng=np.random.default_rng(seed))
    assert is_inside(box, height_px, width_px)
    assert box.height_px <= whole.height_px
    assert box.width_px <= whole.width_px
    # Half a pixel of rounding on each side.
    shrunk = [(box.height_px, whole.height_px), (box.width_px, whole.width_px)]
    lowest = max((side - 0.5) / whole_side for side, whole_side in shrunk)
    highest = min((side + 0.5) / whole_side for side, whole_side in shrunk)
    if min(box.height_px, box.width_px) > 1:
        assert lowest <= highest + 1e-9
        assert highest >= min_scale**0.5 - 1e-9


def test_a_scale_of_one_is_the_centre_box() -> None:
    settings_ = preprocessing(64, 72)
    box = random_box(90, 120, settings_, min_scale=1.0, rng=np.random.default_rng(0))
    assert box == centre_box(90, 120, settings_)


def test_random_boxes_reach_every_corner() -> None:
    rng = np.random.default_rng(0)
    boxes = [random_box(20, 30, preprocessing(16, 16), min_scale=0.2, rng=rng) for _ in range(400)]
    assert {box.top_px for box in boxes} >= {0, 5}
    assert any(box.left_px + box.width_px == 30 for box in boxes)
    assert any(box.top_px + box.height_px == 20 for box in boxes)
    areas = [box.height_px * box.width_px / 400 for box in boxes]
    assert min(areas) < 0.3
    assert max(areas) > 0.9


# Stretched crops


@given(SIDES, SIDES, SIZES, FITS, st.floats(0.05, 1), st.floats(1, 3), st.integers(0, 2**32))
def test_stretched_boxes_are_inside_and_as_asked(
    height_px: int, width_px: int, size: tuple[int, int], fit: Fit, min_scale: float, max_aspect: float, seed: int
) -> None:
    settings_ = preprocessing(size[0], sum(size), fit)
    rng = np.random.default_rng(seed)
    box = random_box(height_px, width_px, settings_, min_scale=min_scale, max_aspect=max_aspect, rng=rng)
    assert is_inside(box, height_px, width_px)
    whole = centre_box(height_px, width_px, settings_)
    if min(box.height_px, box.width_px) > 20:  # else rounding is a large part
        area = box.height_px * box.width_px / (whole.height_px * whole.width_px)
        assert min_scale * 0.95 <= area <= 1.05
        stretch = (box.width_px / box.height_px) / (whole.width_px / whole.height_px)
        assert 0.9 / max_aspect <= stretch <= 1.1 * max_aspect


def test_stretched_boxes_are_those_of_torchvision() -> None:
    """Of the whole frame, of the same distribution as its RandomResizedCrop."""
    torch.manual_seed(0)
    reference = v2.RandomResizedCrop(224, scale=(0.1, 1.0), ratio=(3 / 4, 4 / 3))
    image = torch.zeros(3, 1000, 1000)
    theirs = [reference.make_params([image]) for _ in range(3000)]
    rng = np.random.default_rng(0)
    settings_ = preprocessing(224, 224, "squash")
    ours = [random_box(1000, 1000, settings_, min_scale=0.1, max_aspect=4 / 3, rng=rng) for _ in range(3000)]
    there = np.array([(one["top"], one["left"], one["height"], one["width"]) for one in theirs])
    here = np.array([(one.top_px, one.left_px, one.height_px, one.width_px) for one in ours])
    for column in range(4):
        spread = there[:, column].std() * (2 / 3000) ** 0.5
        assert here[:, column].mean() == pytest.approx(there[:, column].mean(), abs=4 * spread)
        ends = [np.quantile(of[:, column], [0.02, 0.25, 0.75, 0.98]) for of in (here, there)]
        assert ends[0] == pytest.approx(ends[1], abs=40)


# Multi-scale crops


def tsn_boxes(height_px: int, width_px: int, scales: list[float]) -> set[Box]:
    """All that GroupMultiScaleCrop of Temporal Segment Networks draws from, with its five places (fix_crop, without
    more_fix_crop), for an input of another size than any of them."""
    base_px = min(height_px, width_px)
    sizes = [int(base_px * scale) for scale in scales]
    found = set()
    for i, crop_height in enumerate(sizes):
        for j, crop_width in enumerate(sizes):
            if abs(i - j) <= 1:
                w_step, h_step = (width_px - crop_width) // 4, (height_px - crop_height) // 4
                for left, top in (
                    (0, 0),
                    (4 * w_step, 0),
                    (0, 4 * h_step),
                    (4 * w_step, 4 * h_step),
                    (2 * w_step, 2 * h_step),
                ):
                    found.add(Box(top_px=top, left_px=left, height_px=crop_height, width_px=crop_width))
    return found


def test_multi_scale_boxes_are_those_of_temporal_segment_networks() -> None:
    """All of them, and no others; its corners are multiples of four pixels, ours the corners."""
    scales = [1, 0.875, 0.75, 0.66]
    rng = np.random.default_rng(0)
    settings_ = preprocessing(224, 256)
    found = {multi_scale_box(256, 340, settings_, scales=scales, rng=rng) for _ in range(3000)}
    expected = tsn_boxes(256, 340, scales)
    rounded = {
        Box(
            top_px=box.top_px // 4 * 4 if box.top_px == 256 - box.height_px else box.top_px,
            left_px=box.left_px // 4 * 4 if box.left_px == 340 - box.width_px else box.left_px,
            height_px=box.height_px,
            width_px=box.width_px,
        )
        for box in found
    }
    assert rounded == expected
    assert all(is_inside(box, 256, 340) for box in found)


@given(SIDES, SIDES, FITS, st.lists(st.floats(0.01, 1), min_size=1, max_size=5), st.integers(0, 2**32))
def test_multi_scale_boxes_are_inside(height_px: int, width_px: int, fit: Fit, scales: list[float], seed: int) -> None:
    settings_ = preprocessing(64, 64, fit)
    box = multi_scale_box(height_px, width_px, settings_, scales=scales, rng=np.random.default_rng(seed))
    assert is_inside(box, height_px, width_px)
