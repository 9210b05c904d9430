"""Planes: cut, scaled and converted, against torch's own scaling of planes and swscale's RGB."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from av.video.frame import VideoFrame
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.videos import Image, write_video

from kinema.data.decoding import probe, read_frames, take_frames
from kinema.data.device import to_rgb
from kinema.data.geometry import Box, centre_box
from kinema.data.pictures import Planes, aligned, resize_i420, take_planes, take_rgb
from kinema.data.reading import ClipPlan, from_rgb, read_plan, to_size
from kinema.data.video import Video
from kinema.types import Preprocessing

SMALL = Preprocessing(
    num_frames=3, size_px=32, resize_px=32, fit="crop", pixels="i420", mean=(0.5,) * 3, std=(1.0,) * 3
)

EDGE_CASES = [
    "av1_video.mkv",  # BT.709
    "h264_10bits.mp4",
    "kinetics_like_h264.mp4",
    "nasa_13013_rotated.mp4",
    "portrait_h264.mp4",
    "testsrc2_odd_width_vp9.mp4",
    "testsrc2_vp8.webm",
]


def smooth_frames(num_frames: int, *, height_px: int = 60, width_px: int = 80) -> list[Image]:
    """Something like a photograph: colours that change slowly, and move."""
    generator = torch.Generator().manual_seed(3)
    values = torch.rand(1, 3, 4, 6, generator=generator) * 100 + 78
    wide = F.interpolate(values, scale_factor=32, mode="bicubic")[0].clamp(0, 255).to(torch.uint8)
    return [wide[:, :height_px, 4 * i : 4 * i + width_px].permute(1, 2, 0).numpy() for i in range(num_frames)]


def random_planes(height_px: int, width_px: int, seed: int) -> Planes:
    row = np.random.default_rng(seed).integers(0, 256, height_px * width_px * 3 // 2, dtype=np.uint8)
    return Planes.of_row(row, height_px, width_px)


def as_torch_scales(plane: Image, size_px: int) -> Image:
    values = torch.from_numpy(plane.copy())[None, None]
    return F.interpolate(values, size=(size_px, size_px), mode="bilinear", antialias=True)[0, 0].numpy()


def read_rgb(video: Video, indices: list[int], box: Box, size_px: int) -> Image:
    """As by a decoder of RGB: every frame in full, then cut, then scaled."""
    return to_size(read_frames(video, indices), box, size_px).numpy()


@settings(max_examples=25)
@given(
    height_px=st.integers(1, 40).map(lambda n: 2 * n),
    width_px=st.integers(1, 40).map(lambda n: 2 * n),
    size_px=st.integers(1, 20).map(lambda n: 2 * n),
    num_frames=st.integers(1, 6),
)
def test_each_plane_is_scaled_as_torch_scales_it_alone(
    height_px: int, width_px: int, size_px: int, num_frames: int
) -> None:
    frames = [random_planes(height_px, width_px, seed) for seed in range(num_frames)]
    out = np.empty((num_frames, size_px * size_px * 3 // 2), dtype=np.uint8)
    resize_i420(frames, size_px, out)
    for frame, row in zip(frames, out, strict=True):
        found = Planes.of_row(row, size_px, size_px)
        assert np.array_equal(found.y, as_torch_scales(frame.y, size_px))
        assert np.array_equal(found.u, as_torch_scales(frame.u, size_px // 2))
        assert np.array_equal(found.v, as_torch_scales(frame.v, size_px // 2))


@given(st.data(), st.integers(2, 300), st.integers(2, 300))
def test_aligned_boxes_are_even_and_inside(data: st.DataObject, height_px: int, width_px: int) -> None:
    tall, wide = data.draw(st.integers(1, height_px)), data.draw(st.integers(1, width_px))
    top, left = data.draw(st.integers(0, height_px - tall)), data.draw(st.integers(0, width_px - wide))
    even = height_px // 2 * 2, width_px // 2 * 2
    box = aligned(Box(top_px=top, left_px=left, height_px=tall, width_px=wide), *even)
    assert all(value % 2 == 0 for value in (box.top_px, box.left_px, box.height_px, box.width_px))
    assert 0 <= box.top_px <= box.top_px + box.height_px <= even[0]
    assert 0 <= box.left_px <= box.left_px + box.width_px <= even[1]
    assert box.height_px == min(tall + tall % 2, even[0])
    # By one to the even row, and by one more where the box was at a last odd row, which is left out.
    assert abs(box.top_px - top) <= 1 + height_px % 2
    assert abs(box.left_px - left) <= 1 + width_px % 2


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuvj420p", "yuv422p", "yuv444p", "yuv420p10le"])
@pytest.mark.parametrize("size", [(60, 80), (61, 81)])
def test_i420_agrees_with_full_size_rgb(tmp_path: Path, pix_fmt: str, size: tuple[int, int]) -> None:
    if pix_fmt in ("yuv420p", "yuvj420p", "yuv420p10le") and size[0] % 2:
        pytest.skip("the encoder takes even sizes only")
    frames = smooth_frames(5, height_px=size[0], width_px=size[1])
    codec = "mjpeg" if pix_fmt == "yuvj420p" else "ffv1"
    video = probe(write_video(tmp_path / "a.mkv", frames, fps=5, codec=codec, pix_fmt=pix_fmt))
    box = Box(top_px=4, left_px=10, height_px=50, width_px=52)
    plan = ClipPlan(indices=(0, 2, 4), box=box)
    found = to_rgb(torch.from_numpy(read_plan(video, plan, SMALL)), SMALL).numpy()
    difference = np.abs(found.astype(int) - read_rgb(video, [0, 2, 4], box, 32))
    assert difference.mean() < 2  # swscale rounds down, which makes nearly 1
    assert difference.max() <= 10


@pytest.mark.parametrize("name", EDGE_CASES)
def test_real_frames_agree_with_full_size_rgb(data_root: Path, name: str) -> None:
    video = probe(data_root / "edge_cases" / name)
    settings = replace(SMALL, size_px=112, resize_px=112)
    box = centre_box(video.height_px, video.width_px, settings)
    found = to_rgb(torch.from_numpy(read_plan(video, ClipPlan(indices=(0, 3), box=box), settings)), settings).numpy()
    even = aligned(box, video.height_px // 2 * 2, video.width_px // 2 * 2)
    difference = np.abs(found.astype(int) - read_rgb(video, [0, 3], even, 112))
    # Half of these are test patterns, whose hard edges between pure colours have less resolution here than in RGB.
    is_pattern = "testsrc" in name or name in ("av1_video.mkv", "h264_10bits.mp4")
    assert difference.mean() < (7 if is_pattern else 2.5)


def test_stored_planes_give_what_the_video_gives(data_root: Path) -> None:
    for name in ("nasa_13013_rotated.mp4", "testsrc2_odd_width_vp9.mp4", "h264_10bits.mp4"):
        video = probe(data_root / "edge_cases" / name)
        whole = Box(top_px=0, left_px=0, height_px=video.height_px, width_px=video.width_px)
        stored = take_frames(video, [0, 2], take_planes(video, whole))
        for box in (
            centre_box(video.height_px, video.width_px, SMALL),
            Box(top_px=7, left_px=9, height_px=51, width_px=64),
        ):
            out = np.empty((2, *SMALL.frame_shape), dtype=np.uint8)
            resize_i420([take_planes(video, box)(planes) for planes in stored], 32, out)
            assert np.array_equal(out, read_plan(video, ClipPlan(indices=(0, 2), box=box), SMALL))
            for picture, image in zip(stored, read_frames(video, [0, 2]), strict=True):
                if name.startswith("nasa"):  # even and 8 bits: its planes hold all of it
                    assert np.array_equal(take_rgb(video)(picture), image)


def test_frames_of_the_right_size_keep_their_pixels(tmp_path: Path) -> None:
    video = probe(write_video(tmp_path / "a.mkv", smooth_frames(3), fps=5, codec="ffv1"))
    frames = take_frames(video, [0, 2], lambda picture: picture)
    found = read_plan(video, ClipPlan(indices=(0, 2), box=Box(top_px=6, left_px=9, height_px=32, width_px=32)), SMALL)
    for frame, row in zip(frames, found, strict=True):
        assert isinstance(frame, VideoFrame)
        y = frame.to_ndarray(format="yuv420p")[:60]
        assert np.array_equal(Planes.of_row(row, 32, 32).y, y[6:38, 8:40])


def test_rotated_frames_are_those_of_their_planes_upright(tmp_path: Path) -> None:
    for rotation_deg, mirrored in ((90, False), (180, False), (270, False), (0, True)):
        stored, turned = (
            probe(write_video(tmp_path / f"{name}{rotation_deg}.mp4", smooth_frames(2), fps=5, rotation_deg=degrees,
                              flip_horizontally=flip))
            for name, degrees, flip in (("a", 0, False), ("b", rotation_deg, mirrored))
        )  # fmt: skip
        whole = [Box(top_px=0, left_px=0, height_px=v.height_px, width_px=v.width_px) for v in (stored, turned)]
        (plain,), (found,) = (
            take_frames(video, [1], take_planes(video, box)) for video, box in zip((stored, turned), whole, strict=True)
        )
        for plane, original in zip((found.y, found.u, found.v), (plain.y, plain.u, plain.v), strict=True):
            expected = original[:, ::-1] if mirrored else np.rot90(original, rotation_deg // 90)
            assert np.array_equal(plane, expected)


def test_rgb_frames_and_images_of_one_pixel(tmp_path: Path) -> None:
    one = np.full((1, 9, 3), (200, 30, 60), dtype=np.uint8)
    found = to_rgb(from_rgb(one[None], [0], replace(SMALL, fit="squash")), SMALL)
    assert (found - torch.tensor([200, 30, 60]).view(1, 3, 1, 1)).abs().max() <= 3


def test_bt709_becomes_bt601() -> None:
    rng = np.random.default_rng(5)
    planes = Planes(
        y=rng.integers(90, 170, (32, 32), dtype=np.uint8),
        u=rng.integers(108, 148, (16, 16), dtype=np.uint8),
        v=rng.integers(108, 148, (16, 16), dtype=np.uint8),
        colourspace=1,
    )
    packed = np.concatenate([planes.y, planes.u.reshape(8, 32), planes.v.reshape(8, 32)])
    frame = VideoFrame.from_ndarray(packed, format="yuv420p")
    frame.colorspace = 1
    out = np.empty((1, *SMALL.frame_shape), dtype=np.uint8)
    resize_i420([planes], 32, out)
    found = to_rgb(torch.from_numpy(out), SMALL)[0].permute(1, 2, 0).numpy()
    assert np.abs(found.astype(int) - frame.to_ndarray(format="rgb24", threads=1)).max() <= 5
