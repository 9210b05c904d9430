"""Optical flow that is read from files: which fields, cut where, in which pixels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.data.datasets.epic_tree import write_lists
from tests.flow_files import write_field, write_flow, write_frames

from kinema.data.datasets.epic_kitchens_100 import epic_kitchens_100
from kinema.data.datasets.table import table
from kinema.data.decoding import Video, probe
from kinema.data.device import to_model_input
from kinema.data.findings import findings
from kinema.data.frame_store import Files, FrameFormat, frames_key
from kinema.data.geometry import Box
from kinema.data.optical_flow import dequantise
from kinema.data.reading import ClipPlan, from_rgb, plan_clip, read_clip, read_plan
from kinema.data.stored_flow import check_flow, fields_of, flow_of_clip
from kinema.data.usable import probe_splits
from kinema.preprocessing import make_preprocessing
from kinema.sections import ClipsSection
from kinema.types import Clip, ConfigError, DataError, Motion, Preprocessing

RATES = {"P01_01": (60, 150), "P01_11": (60, 90), "P02_02": (60, 90), "P18_09": (60, 90), "P03_101": (50, 113)}
"""Video -> frames per second and frames, as they are published."""


def form(modality: Any = "flow", *, size_px: int = 16, **motion: Any) -> Preprocessing:
    clips = {"num_frames": 4, "size_px": size_px, "motion": {"method": "stored", **motion}}
    return make_preprocessing(ClipsSection.model_validate(clips), modality, mean=(0.5,) * 3, std=(0.25,) * 3)


def motion_of(field: int) -> tuple[float, float]:
    """Known of every field by its number, and within the bound for the first 150."""
    return (field % 15) - 7.0, 10.0 - field // 15


@pytest.fixture(scope="module")
def epic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """EPIC-KITCHENS as it is published: flow of videos of 2018 at every second frame, and of the later at every one."""
    root = tmp_path_factory.mktemp("epic")
    write_lists(root / "epic-kitchens-100-annotations")
    for video, (fps, num) in RATES.items():
        write_frames(root / video[:3] / "rgb_frames" / video, num)
        of_flow = -(-(num - 3) // 2) if fps == 60 else num - 1
        if video != "P02_02":
            write_flow(root / video[:3] / "flow_frames" / video, of_flow, motion_of)
    return root


def opened(root: Path, clip_id: str) -> tuple[Clip, Video]:
    dataset = epic_kitchens_100(root, source="frames")
    (clip,) = (clip for clips in dataset.splits.values() for clip in clips if clip.clip_id == clip_id)
    return clip, probe(clip.video, fps=clip.fps)


@pytest.mark.parametrize(("clip_id", "stride"), [("P01_01_1", 2), ("P03_101_0", 1)])
def test_fields_are_those_of_the_frames(epic: Path, clip_id: str, stride: int) -> None:
    """As the official conversion of frame numbers has it: (number - 1) // stride + 1, counted from 1."""
    clip, video = opened(epic, clip_id)
    wanted = form(bound_px=16)
    plan = plan_clip(clip, video, wanted)
    assert plan.stacks is not None
    for index, (field,) in zip(plan.indices, plan.stacks, strict=True):
        assert field + 1 == index // stride + 1
    found = dequantise(read_plan(video, plan, wanted), 16)
    scale = 16 / 18  # of the short side
    for values, (field,) in zip(found, plan.stacks, strict=True):
        for plane, expected in zip(values, motion_of(field), strict=True):
            # Half a step of the files, of JPEG about another, and half a step of ours.
            assert np.abs(plane - scale * expected).max() < 2 * 20 / 255 + 16 / 254


def test_stacks_lie_in_the_clip(epic: Path) -> None:
    """Ten fields, a thirtieth of a second from each to the next, whatever the rate."""
    for clip_id, step, first, last in (("P01_01_1", 1, 30, 73), ("P03_101_1", 2, 50, 111)):
        clip, video = opened(epic, clip_id)
        flow = flow_of_clip(clip, video)
        begin, end = video.frames_at([clip.start_s, np.nextafter(clip.stop_s or 0, 0)]).tolist()
        stacks = fields_of(range(begin, end + 1), clip, video, Motion(stack=10, interval_s=1 / 30), flow)
        assert {stack[0] for stack in stacks} == set(range(first, last - 9 * step + 1))
        assert {tuple(np.diff(stack).tolist()) for stack in stacks} == {(step,) * 9}
        assert max(max(stack) for stack in stacks) == last


def test_a_video_of_another_rate_has_the_flow_of_its_moments(epic: Path) -> None:
    """Frames of a file at 59.94 per second, flow of what was resampled to 60."""
    clip, video = opened(epic, "P01_01_1")
    slower = replace(video, times_s=video.times_s * (60 / 59.94), fps=59.94)
    flow = flow_of_clip(clip, video)
    stacks = fields_of([100, 149], replace(clip, stop_s=2.45), slower, Motion(stack=1, interval_s=0.02), flow)
    assert stacks == ((50,), (72,))


def test_a_short_clip_repeats_its_last_field(tmp_path: Path) -> None:
    write_frames(tmp_path, 3)
    write_flow(tmp_path, 2, motion_of)
    video = probe(tmp_path, fps=10)
    clip = Clip(clip_id="a", video=tmp_path, fps=10)
    found = fields_of([0, 2], clip, video, Motion(stack=4, interval_s=0.1), flow_of_clip(clip, video))
    assert found == ((0, 1, 1, 1), (0, 1, 1, 1))


@pytest.mark.parametrize("first", [0, 1])
def test_denseflow_beside_frames(tmp_path: Path, first: int) -> None:
    write_frames(tmp_path, 12, name="img_%05d.jpg")
    names = ("flow_x_%05d.jpg", "flow_y_%05d.jpg")
    write_flow(tmp_path, 11, lambda field: (field, -field), first=first, names=names)
    video = probe(tmp_path, fps=25)
    assert len(video.times_s) == 12
    clip = Clip(clip_id="a", video=tmp_path, fps=25)
    wanted = form("flow", bound_px=16)
    plan = plan_clip(clip, video, wanted)
    assert plan.stacks == tuple((index,) for index in plan.indices)
    u = dequantise(read_plan(video, plan, wanted)[:, 0], 16).mean(axis=(1, 2))
    assert np.abs(u - np.array(plan.indices) * 16 / 18).max() < 0.2


def test_flow_of_smaller_frames_is_cut_where_those_of_the_video_are(tmp_path: Path) -> None:
    """Of 340 x 256, squashed, for a video of 1920 x 1080: u and v are stretched by factors of their own."""
    u = np.zeros((256, 340))
    u[:, 170:] = 8
    v = np.zeros((256, 340))
    v[128:] = -6
    write_field(tmp_path / "u" / "frame_0000000001.jpg", u)
    write_field(tmp_path / "v" / "frame_0000000001.jpg", v)
    video = replace(probe(write_frames(tmp_path, 2), fps=10), width_px=1920, height_px=1080)
    wanted = form(size_px=64)
    # The lower right quarter of what is in the middle: it begins 60 px left of the step of u and 30 above that of v.
    box = Box(left_px=900, top_px=510, width_px=480, height_px=240)
    plan = ClipPlan(indices=(0,), box=box, stacks=((0,),), flow=flow_of_clip(Clip(clip_id="a", video=tmp_path), video))
    (found,) = dequantise(read_plan(video, plan, wanted), 20)
    right, down = 8 * (1920 / 340) * (64 / 480), -6 * (1080 / 256) * (64 / 240)
    assert np.abs(found[0, :, 12:] - right).max() < 0.3
    assert np.abs(found[0, :, :4]).max() == 0
    assert np.abs(found[1, 12:] - down).max() < 0.3
    assert np.abs(found[1, :4]).max() == 0


def test_what_stands_still_is_zero_whichever_way_it_was_rounded(tmp_path: Path) -> None:
    for place, value in (("u", 127), ("v", 128)):
        (tmp_path / place).mkdir()
        Image.fromarray(np.full((18, 32), value, dtype=np.uint8)).save(tmp_path / place / "frame_0000000001.png")
    video = probe(write_frames(tmp_path, 2), fps=10)
    wanted = form()
    found = read_clip(Clip(clip_id="a", video=tmp_path, fps=10), video, wanted)
    assert torch.equal(found, torch.full_like(found, 128))
    inputs = to_model_input({"flow": found[None]}, {"flow": wanted})["flow"]
    assert float(inputs.abs().max()) < 1e-6


def test_a_mirrored_clip_moves_the_other_way(epic: Path) -> None:
    clip, video = opened(epic, "P01_01_0")
    wanted = form(bound_px=8, magnitude=True, stack=2)
    stored = read_clip(clip, video, wanted)[None]
    plain = to_model_input({"flow": stored}, {"flow": wanted})["flow"]
    mirrored = to_model_input({"flow": stored}, {"flow": wanted}, flip=torch.tensor([True]))["flow"]
    assert torch.allclose(mirrored[:, :, [0, 3]], -plain[:, :, [0, 3]].flip(-1), atol=1e-6)
    assert torch.equal(mirrored[:, :, [1, 2, 4, 5]], plain[:, :, [1, 2, 4, 5]].flip(-1))
    assert float(plain[:, :, [0, 3]].abs().max()) > 0.1
    alone = read_clip(clip, video, form("flow_magnitude", bound_px=8, stack=2))[None]
    assert torch.equal(alone, stored[:, :, [2, 5]])


def test_another_bound_of_the_files_is_another_motion(epic: Path) -> None:
    clip, video = opened(epic, "P01_01_0")
    whole = dequantise(read_clip(clip, video, form(bound_px=16)).numpy(), 16)
    half = dequantise(read_clip(clip, video, form(bound_px=16, stored_bound_px=10)).numpy(), 16)
    assert np.abs(half - whole / 2).max() < 16 / 127
    assert form().fingerprint != form(stored_bound_px=10).fingerprint
    with pytest.raises(ValueError, match="stored_bound_px is of method stored, and the method is dis"):
        ClipsSection.model_validate({"motion": {"stored_bound_px": 10}})


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "clip", 40)
    clip, video = Clip(clip_id="a", video=folder, fps=20), probe(folder, fps=20)
    with pytest.raises(DataError, match=r"clip: holds no optical flow; clips.motion.method=stored reads u/\*.jpg"):
        read_clip(clip, video, form())
    gone = replace(clip, attributes={"flow": str(tmp_path / "P01" / "flow_frames")})
    with pytest.raises(DataError, match=r"P01/flow_frames: there is no such folder of optical flow"):
        read_clip(gone, video, form())
    file = replace(clip, video=tmp_path / "a.mp4")
    with pytest.raises(DataError, match=r"a.mp4: no folder of optical flow is known for it"):
        read_clip(file, video, form())
    with pytest.raises(DataError, match="frames alone were given"):
        from_rgb(np.zeros((4, 18, 32, 3), dtype=np.uint8), [0], form())


def test_missing_numbers_are_named(tmp_path: Path) -> None:
    def made(name: str, num: int) -> tuple[Clip, Video]:
        folder = write_frames(tmp_path / name, 40)
        write_flow(folder, num, motion_of)
        return Clip(clip_id="a", video=folder, fps=20), probe(folder, fps=20)

    assert len(read_clip(*made("whole", 39), form())) == 4
    assert len(read_clip(*made("almost", 37), form())) == 4  # of a stride, or of frames that lie apart
    clip, video = made("half", 21)
    message = r"half/u: frame_0000000022.jpg is missing, and the clip 'a' needs the fields 1 to 39; unpack"
    with pytest.raises(DataError, match=message):
        read_clip(clip, video, form())
    assert len(read_clip(replace(clip, stop_s=1.0), video, form())) == 4
    with pytest.raises(DataError, match=r"frame_0000000022.jpg is missing, and the clip 'a' needs the fields 31 to 39"):
        read_clip(replace(clip, start_s=1.5), video, form())
    for name, number, message in (("begun", 1, r"begun/u: .*0001.jpg is missing"), ("v", 1, r"/v/.*0001.jpg: is miss")):
        clip, video = made(name, 39)
        (clip.video / ("v" if name == "v" else "u") / f"frame_{number:010d}.jpg").unlink()
        with pytest.raises(DataError, match=message):
            read_clip(clip, video, form())
    clip, video = made("cut", 39)
    (clip.video / "v" / "frame_0000000016.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"v/frame_0000000016.jpg: not an image"):
        read_clip(clip, video, form())
    write_field(clip.video / "v" / "frame_0000000016.jpg", np.zeros((9, 16)))
    with pytest.raises(DataError, match=r"v/frame_0000000016.jpg: is 16x9 px, and frame_0000000016.jpg of u 32x18"):
        read_clip(clip, video, form())


def test_an_unpacking_that_left_all_of_u_and_a_part_of_v_is_seen_before_training(tmp_path: Path) -> None:
    write_frames(tmp_path / "a", 40)
    write_flow(tmp_path / "a", 39, motion_of)
    for path in sorted((tmp_path / "a" / "v").iterdir())[10:]:
        path.unlink()
    clip = Clip(clip_id="a", video=tmp_path / "a", fps=10)
    with pytest.raises(DataError, match=r"v: frame_0000000011.jpg is missing"):
        check_flow(clip, probe(clip.video, fps=10))


def test_clips_without_flow_are_left_out_and_counted(epic: Path) -> None:
    dataset = epic_kitchens_100(epic, source="frames")
    assert "optical flow is there of 4 of 5 videos" in dataset.notes
    clips, videos, skipped = probe_splits(dataset, ["train"], workers=0, flow=["train"])
    assert [clip.clip_id for clip in clips["train"]] == ["P01_01_0", "P01_01_1", "P03_101_0", "P03_101_1"]
    reason = f"{epic / 'P02' / 'flow_frames' / 'P02_02'}: there is no such folder of optical flow, which "
    assert skipped["train"]["P02_02_0"].startswith(reason)
    assert len(probe_splits(dataset, ["train"], workers=0)[0]["train"]) == 5
    assert len(probe_splits(dataset, ["train"], workers=0, flow=["validation"])[0]["train"]) == 5
    del videos


def test_a_check_counts_clips_without_flow(epic: Path) -> None:
    from kinema.data.checking import Checked

    dataset = epic_kitchens_100(epic, source="frames")
    clips = [clip for of_split in dataset.splits.values() for clip in of_split]
    checked = {clip.video: Checked(video=probe(clip.video, fps=clip.fps)) for clip in clips}
    (found,) = findings(dataset, checked, min_frames=2)["without_flow"]
    assert (found["clip_id"], found["split"]) == ("P02_02_0", "train")
    assert "P02_02: there is no such folder" in found["reason"]


def test_a_table_names_folders_of_flow(tmp_path: Path) -> None:
    write_frames(tmp_path / "frames" / "a", 10)
    write_flow(tmp_path / "flow" / "a", 5, motion_of)
    (tmp_path / "clips.csv").write_text("path,label,flow,flow_fps\nframes/a,x,flow/a,5\nframes/a,y,,\n")
    with_flow, without = table(tmp_path, fps=10).splits["train"]
    assert with_flow.attributes["flow"] == str(tmp_path / "flow" / "a")
    video = probe(with_flow.video, fps=10)
    plan = plan_clip(with_flow, video, form())
    assert plan.stacks == tuple((min(index // 2, 3),) for index in plan.indices)
    with pytest.raises(DataError, match="frames/a: holds no optical flow"):
        plan_clip(without, video, form())
    wrong = replace(with_flow, attributes={**with_flow.attributes, "flow_fps": "fast"})
    with pytest.raises(DataError, match="flow_fps of the clip 'frames/a' is 'fast', not a number above 0"):
        plan_clip(wrong, video, form())


def test_what_is_stored_is_of_these_files(tmp_path: Path) -> None:
    """Other flow of the same frames is found to be other flow."""
    folder = write_frames(tmp_path / "clip", 8)
    write_flow(folder, 7, motion_of)
    clip, video, wanted = Clip(clip_id="a", video=folder, fps=10), probe(folder, fps=10), form()
    plan = plan_clip(clip, video, wanted)

    def key() -> bytes:
        return frames_key(Files(tmp_path).state_of(folder, plan), plan, FrameFormat.of(wanted))

    before = key()
    assert key() == before
    write_field(folder / "v" / "frame_0000000003.jpg", np.full((18, 32), 9.0))
    assert key() != before


def test_it_is_flow_alone() -> None:
    from kinema.config import resolve

    recipe = {"data": {"name": "motion"}, "model": {"name": "cnn_lstm"}}
    with pytest.raises(ConfigError, match="differences of frames have stack and interval_s alone"):
        resolve(recipe, ["data.modality=rgb_difference", "clips.motion.method=stored"])
