"""Batches: their order, their randomness and what is left out depend on nothing but (seed, epoch, index)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.videos import numbered_frames, read_number, write_video

from kinema.data.decoding import probe
from kinema.data.loading import Batch, ClipReader, EpochOrder, clip_loader
from kinema.data.read_ahead import Drawn
from kinema.sections import Augmentation
from kinema.types import Clip, Preprocessing

SMALL = Preprocessing(num_frames=3, size_px=24, resize_px=24, fit="squash", mean=(0.5,) * 3, std=(0.5,) * 3)
STRONG = Augmentation(flip=0.5, min_scale=0.4, colour=0.3)
EVERYTHING = Augmentation.model_validate(
    {
        "frame_stride": [1, 5],
        "multi_scale": [1, 0.8],
        "rotation_deg": 20,
        "hue": 0.1,
        "grey": 0.5,
        "blur": 0.5,
        "erase": 0.5,
        "rand_augment": 2,
    }
)
NUM_CLIPS = 7
BROKEN = 2


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    """Seven clips of four videos; a video's frames are numbered from 100, 200, ..."""
    folder = tmp_path_factory.mktemp("loading")
    found = []
    for number in range(4):
        path = folder / f"{number}.mp4"
        write_video(path, numbered_frames(20, first=100 * (number + 1)), fps=10, options={"crf": "12"})
        for start_s in (0.0, 1.0):
            labels = {"verb": number, "noun": int(start_s)}
            found.append(
                Clip(clip_id=f"{number}-{start_s}", video=path, start_s=start_s, stop_s=start_s + 1, labels=labels)
            )
    return found[:NUM_CLIPS]


def reader(clips: list[Clip], augmentation: Augmentation | None = None, seed: int = 0) -> ClipReader:
    videos = {clip.video: probe(clip.video) for clip in clips}
    return ClipReader(clips, videos, {"rgb": SMALL}, augmentation=augmentation, seed=seed)


def damaged(clips: list[Clip], *positions: int) -> ClipReader:
    """Clips at some positions lie in a video that was there when it was probed, and is not there any more."""
    whole = reader(clips)
    gone = Path("gone.mp4")
    videos = {**whole.videos, gone: replace(whole.videos[clips[0].video], path=gone)}
    changed = [replace(clip, video=gone) if i in positions else clip for i, clip in enumerate(clips)]
    return ClipReader(changed, videos, {"rgb": SMALL}, augmentation=None, seed=0)


def positioned(seed: int | None, *, epoch: int, first_batch: int = 0, batch_size: int = 3) -> EpochOrder:
    order = EpochOrder(NUM_CLIPS, batch_size=batch_size, seed=seed)
    order.set_position(epoch=epoch, first_batch=first_batch)
    return order


def assert_same(first: Iterable[Batch], second: Iterable[Batch]) -> None:
    for one, other in zip(first, second, strict=True):
        assert one.indices.tolist() == other.indices.tolist()
        assert one.failures == other.failures
        assert one.labels.keys() == other.labels.keys()
        assert all(torch.equal(one.labels[task], other.labels[task]) for task in one.labels)
        assert one.streams.keys() == other.streams.keys()
        assert all(torch.equal(one.streams[stream], other.streams[stream]) for stream in one.streams)
        assert (one.flip is None) == (other.flip is None)
        assert one.flip is None or other.flip is None or torch.equal(one.flip, other.flip)
        assert (one.colour is None) == (other.colour is None)
        assert one.colour is None or other.colour is None or torch.equal(one.colour, other.colour)
        assert one.changes == other.changes


# Order


@given(st.integers(1, 60), st.integers(1, 20), st.none() | st.integers(0, 2**40), st.integers(0, 1000))
def test_an_epoch_has_every_clip_once(num_clips: int, batch_size: int, seed: int | None, epoch: int) -> None:
    order = EpochOrder(num_clips, batch_size=batch_size, seed=seed)
    order.set_position(epoch=epoch, first_batch=0)
    batches = list(order)
    assert len(batches) == len(order)
    assert sorted(index for batch in batches for index, _ in batch) == list(range(num_clips))
    assert {number for batch in batches for _, number in batch} == {epoch}
    assert all(len(batch) == batch_size for batch in batches[:-1])
    if seed is None:
        assert [index for batch in batches for index, _ in batch] == list(range(num_clips))


@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 2**40), st.integers(0, 1000), st.data())
def test_an_epoch_can_be_entered_anywhere(
    num_clips: int, batch_size: int, seed: int, epoch: int, data: st.DataObject
) -> None:
    whole = EpochOrder(num_clips, batch_size=batch_size, seed=seed)
    whole.set_position(epoch=epoch, first_batch=0)
    first = data.draw(st.integers(0, len(whole)))
    rest = EpochOrder(num_clips, batch_size=batch_size, seed=seed)
    rest.set_position(epoch=epoch, first_batch=first)
    assert list(rest) == list(whole)[first:]


def test_order_is_a_function_of_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        batches = EpochOrder(50, batch_size=8, seed=seed)
        batches.set_position(epoch=epoch, first_batch=0)
        torch.rand(1)
        return [index for batch in batches for index, _ in batch]

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


# Clips


def test_a_batch_holds_the_clips_and_their_labels(clips: list[Clip]) -> None:
    batches = list(clip_loader(reader(clips), positioned(None, epoch=0), workers=0))
    assert [len(batch) for batch in batches] == [3, 3, 1]
    assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(NUM_CLIPS))
    for batch in batches:
        assert batch.streams["rgb"].shape == (len(batch), 3, 3, 24, 24)
        assert batch.streams["rgb"].dtype == torch.uint8
        assert batch.colour is None
        assert batch.failures == {}
        for row, index in enumerate(batch.indices.tolist()):
            verb, noun = batch.labels["verb"][row].item(), batch.labels["noun"][row].item()
            assert {"verb": verb, "noun": noun} == clips[index].labels
            image = batch.streams["rgb"][row, 0].permute(1, 2, 0).numpy()
            assert read_number(image) == 100 * (verb + 1) + 10 * noun + 1


@pytest.mark.parametrize("augmentation", [None, STRONG, EVERYTHING])
def test_the_number_of_workers_changes_nothing(clips: list[Clip], augmentation: Augmentation | None) -> None:
    def batches(workers: int) -> list[Batch]:
        return list(clip_loader(reader(clips, augmentation), positioned(1, epoch=2), workers=workers))

    alone = batches(0)
    assert_same(alone, batches(1))
    assert_same(alone, batches(2))


def test_workers_follow_from_epoch_to_epoch(clips: list[Clip]) -> None:
    order = EpochOrder(NUM_CLIPS, batch_size=3, seed=1)
    loader = clip_loader(reader(clips, STRONG), order, workers=1)
    for epoch in (0, 3):
        order.set_position(epoch=epoch, first_batch=1)
        expected = clip_loader(reader(clips, STRONG), positioned(1, epoch=epoch, first_batch=1), workers=0)
        assert_same(loader, expected)


def test_a_clips_randomness_depends_on_seed_epoch_and_index_alone(clips: list[Clip]) -> None:
    def read(epoch: int, seed: int, index: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
        frames = np.zeros((3, *SMALL.frame_shape), dtype=np.uint8)
        drawn = reader(clips, STRONG, seed).read(index, epoch, {"rgb": frames})
        assert drawn.colour is not None
        return torch.from_numpy(frames), torch.tensor(drawn.colour)

    frames, colour = read(0, 0)
    again = read(0, 0)
    assert torch.equal(frames, again[0])
    assert torch.equal(colour, again[1])
    assert ((colour >= 0.7) & (colour <= 1.3)).all()
    for other in (read(1, 0), read(0, 1), read(0, 0, index=5)):
        assert not torch.equal(frames, other[0])
        assert not torch.equal(colour, other[1])


def test_views_are_a_number_of_versions_that_epochs_take_turns_in(clips: list[Clip]) -> None:
    augmentation = STRONG.model_copy(update={"views": 2})
    found = [list(clip_loader(reader(clips, augmentation), positioned(None, epoch=e), workers=0)) for e in range(4)]
    assert_same(found[0], found[2])
    assert_same(found[1], found[3])
    assert not torch.equal(found[0][0].streams["rgb"], found[1][0].streams["rgb"])


def test_what_is_done_on_the_device_is_drawn_with_the_clip(clips: list[Clip]) -> None:
    found = [next(iter(clip_loader(reader(clips, EVERYTHING), positioned(None, epoch=e), workers=0))) for e in (0, 1)]
    assert found[0].changes is not None
    assert len(found[0].changes) == len(found[0]) == 3
    assert found[0].changes != found[1].changes
    assert found[0].to(torch.device("meta")).changes == found[0].changes
    plain = next(iter(clip_loader(reader(clips, STRONG), positioned(None, epoch=0), workers=0)))
    assert plain.changes is None


def test_changes_stay_with_their_clips_where_one_cannot_be_read(clips: list[Clip]) -> None:
    whole = reader(clips, EVERYTHING)
    broken = damaged(clips, 1)
    part = ClipReader(broken.clips, broken.videos, {"rgb": SMALL}, augmentation=EVERYTHING, seed=0)
    one, other = (next(iter(clip_loader(r, positioned(None, epoch=0), workers=0))) for r in (whole, part))
    assert other.indices.tolist() == [0, 2]
    assert one.changes is not None
    assert other.changes == (one.changes[0], one.changes[2])


def test_no_colour_is_drawn_where_none_is_wanted(clips: list[Clip]) -> None:
    augmentation = STRONG.model_copy(update={"colour": 0.0})
    batch = next(iter(clip_loader(reader(clips, augmentation), positioned(None, epoch=0), workers=0)))
    assert batch.colour is None


def test_clips_are_mirrored_later_and_all_else_is_the_same(clips: list[Clip]) -> None:
    def batch(flip: float) -> Batch:
        augmentation = STRONG.model_copy(update={"flip": flip})
        return next(iter(clip_loader(reader(clips, augmentation), positioned(3, epoch=1), workers=0)))

    never, always, sometimes = batch(0.0), batch(1.0), batch(0.5)
    assert never.flip is None
    assert always.flip is not None
    assert always.flip.tolist() == [True] * 3
    assert sometimes.flip is None or sometimes.flip.shape == (3,)
    for other in (always, sometimes):
        assert torch.equal(never.streams["rgb"], other.streams["rgb"])
        assert never.colour is not None
        assert other.colour is not None
        assert torch.equal(never.colour, other.colour)


class Lies:
    """A store of some clips, which are grey."""

    def __init__(self, *indices: int, whole: bool) -> None:
        self.indices = indices
        self.whole = whole

    def read(self, index: int, epoch: int, out: NDArray[np.uint8]) -> Drawn | None:
        if index not in self.indices:
            return None
        out[...] = 128
        return Drawn(flip=True)


@pytest.mark.parametrize("whole", [False, True])
def test_clips_that_lie_ready_are_taken_from_where_they_lie(clips: list[Clip], whole: bool) -> None:
    stored = [index for index, clip in enumerate(clips) if whole or clip.labels["noun"]]
    videos = {clip.video: probe(clip.video) for clip in clips}
    source = ClipReader(clips, videos, {"rgb": SMALL}, augmentation=None, seed=0, store=Lies(*stored, whole=whole))
    assert source.in_processes != whole
    with clip_loader(source, positioned(None, epoch=0), workers=1) as loader:
        plain = clip_loader(reader(clips), positioned(None, epoch=0), workers=0)
        for batch, frames in zip(loader, plain, strict=True):
            for row, index in enumerate(batch.indices.tolist()):
                if index in stored:
                    assert (batch.streams["rgb"][row] == 128).all()
                    assert batch.flip is not None
                    assert bool(batch.flip[row])
                else:
                    assert torch.equal(batch.streams["rgb"][row], frames.streams["rgb"][row])


# Broken clips


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_clip_is_left_out_and_named(clips: list[Clip], workers: int) -> None:
    batches = list(clip_loader(damaged(clips, BROKEN), positioned(None, epoch=0), workers=workers))
    assert [len(batch) for batch in batches] == [2, 3, 1]
    assert batches[0].failures == {BROKEN: "gone.mp4: no such file"}
    assert batches[0].indices.tolist() == [0, 1]
    assert batches[0].labels["verb"].tolist() == [0, 0]
    assert batches[1].failures == {}
    assert BROKEN not in torch.cat([batch.indices for batch in batches]).tolist()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_without_a_readable_clip_is_empty(clips: list[Clip], workers: int) -> None:
    batches = list(clip_loader(damaged(clips, 0, 1, 2), positioned(None, epoch=0), workers=workers))
    assert len(batches[0]) == 0
    assert (batches[0].streams, batches[0].labels, batches[0].colour) == ({}, {}, None)
    assert batches[0].failures.keys() == {0, 1, 2}
    assert [len(batch) for batch in batches[1:]] == [3, 1]


def test_a_batch_moves_as_one(clips: list[Clip]) -> None:
    batch = next(iter(clip_loader(reader(clips, STRONG), positioned(None, epoch=0), workers=0)))
    moved = batch.to(torch.device("meta"))
    assert moved.streams["rgb"].device.type == "meta"
    assert moved.labels["verb"].device.type == "meta"
    assert moved.colour is not None
    assert moved.colour.device.type == "meta"
    assert moved.indices.tolist() == batch.indices.tolist()


def test_clips_without_labels_make_a_batch_without_labels(clips: list[Clip]) -> None:
    unlabelled = [replace(clip, labels={}) for clip in clips]
    batch = next(iter(clip_loader(reader(unlabelled), positioned(None, epoch=0), workers=0)))
    assert len(batch) == 3
    assert batch.labels == {}
