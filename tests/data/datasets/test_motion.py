"""The generated data set: only the order of frames tells the verbs of a pair apart."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import Literal

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from kinema import registry
from kinema.config import section_model
from kinema.data.datasets.motion import motion
from kinema.data.motion_scenes import NOUNS, PAIRS, VERBS, Plan, encode, film, scenes
from kinema.types import Clip, ConfigError, Dataset, Split, fingerprint

Array = NDArray[np.float32]
Pixels = NDArray[np.uint8]

NUM_TRAIN, NUM_TEST = 18, 12


def tiny(root: Path, *, tasks: tuple[Literal["verb", "noun"], ...] = ("verb",)) -> Dataset:
    return motion(root, num_train_backgrounds=1, num_validation_backgrounds=0, num_test_backgrounds=0, tasks=tasks)


def decode(video: Path) -> Pixels:
    """All frames, (T, H, W, 3)."""
    with av.open(video) as container:
        frames = [frame.to_ndarray(format="rgb24", threads=1) for frame in container.decode(video=0)]
    return np.stack(frames).astype(np.uint8)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return motion(
        tmp_path_factory.mktemp("motion"),
        num_train_backgrounds=NUM_TRAIN,
        num_validation_backgrounds=1,
        num_test_backgrounds=NUM_TEST,
        tasks=("verb", "noun"),
    )


@pytest.fixture(scope="module")
def frames(dataset: Dataset) -> dict[str, Pixels]:
    """Clip -> what comes out of the decoder."""
    return {clip.clip_id: decode(clip.video) for clips in dataset.splits.values() for clip in clips}


def recordings(dataset: Dataset, split: Split, pair: tuple[str, str]) -> list[tuple[Clip, Clip]]:
    """The two recordings of every scene of a pair of verbs."""
    found = {(clip.group, VERBS[clip.labels["verb"]]): clip for clip in dataset.splits[split]}
    groups = sorted({str(clip.group) for clip in dataset.splits[split]})
    return [(found[group, pair[0]], found[group, pair[1]]) for group in groups]


# What the clips are


def test_every_background_shows_every_verb_once_and_nouns_are_balanced(dataset: Dataset) -> None:
    for (split, clips), num_backgrounds in zip(dataset.splits.items(), (NUM_TRAIN, 1, NUM_TEST), strict=True):
        groups = {clip.group for clip in clips}
        assert len(groups) == num_backgrounds
        shown = Counter((clip.group, clip.labels["verb"]) for clip in clips)
        assert shown == {(group, verb): 1 for group in groups for verb in range(len(VERBS))}
        assert dataset.num_listed[split] == len(clips)
        if num_backgrounds % len(NOUNS) == 0:
            done = Counter((clip.labels["noun"], clip.labels["verb"]) for clip in clips)
            assert len(done) == len(NOUNS) * len(VERBS)
            assert set(done.values()) == {num_backgrounds // len(NOUNS)}
    assert len({clip.clip_id for clips in dataset.splits.values() for clip in clips}) == 10 * (NUM_TRAIN + 1 + NUM_TEST)


def test_no_two_splits_share_a_background(dataset: Dataset, frames: dict[str, Pixels]) -> None:
    groups = [{clip.group for clip in clips} for clips in dataset.splits.values()]
    assert sum(map(len, groups)) == len(set().union(*groups))

    # In pixels: what is left of a clip without the shape that crosses it looks most like another clip in front of
    # the same background, whatever split the others are of.
    crossing = {VERBS.index("rise"), VERBS.index("move_left")}
    clips = [clip for of_split in dataset.splits.values() for clip in of_split if clip.labels["verb"] in crossing]
    still = np.stack([np.median(frames[clip.clip_id][::3], axis=0)[::3, ::3].ravel() for clip in clips])
    still = (still - still.mean(axis=1, keepdims=True)) / still.std(axis=1, keepdims=True)
    alike = still @ still.T
    np.fill_diagonal(alike, -np.inf)
    is_same = [clip.group == clips[nearest].group for clip, nearest in zip(clips, alike.argmax(axis=1), strict=True)]
    assert np.mean(is_same) > 0.95


def test_files_are_ordinary_h264(dataset: Dataset) -> None:
    for clip in dataset.splits["validation"]:
        with av.open(clip.video) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.name == "h264"
            assert (stream.width, stream.height, stream.pix_fmt) == (72, 72, "yuv420p")
            assert stream.average_rate == int(clip.attributes["fps"])
            assert stream.frames == int(clip.attributes["num_frames"])


def test_speeds_and_lengths_vary(dataset: Dataset) -> None:
    clips = dataset.splits["train"]
    assert {clip.attributes["fps"] for clip in clips} == {"24", "25", "30"}
    lengths = {int(clip.attributes["num_frames"]) for clip in clips}
    assert len(lengths) >= 6
    assert all(length % 2 == 1 for length in lengths)


def test_the_change_is_clear_in_every_scene() -> None:
    """First and last frame differ by far more than noise does, in each of 60 scenes."""
    plan = Plan(num_backgrounds={"train": 12, "validation": 0, "test": 0}, size_px=72, seed=5)
    for scene in scenes(plan):
        pixels = film(plan, scene)[0].astype(np.float32)
        differs = np.abs(pixels[0] - pixels[-1]).max(axis=2) > 40
        assert differs.mean() > 0.02, scene


# Only the order tells the verbs of a pair apart


@pytest.mark.parametrize("pair", PAIRS)
def test_both_recordings_show_the_same_frames_to_the_last_bit(
    dataset: Dataset, frames: dict[str, Pixels], pair: tuple[str, str]
) -> None:
    """So neither sharpness nor the kind or size of a frame tells where in its file it stands."""
    for forwards, reverse in recordings(dataset, "test", pair):
        assert forwards.labels["noun"] == reverse.labels["noun"]
        assert np.array_equal(frames[forwards.clip_id], frames[reverse.clip_id][::-1])
        assert not np.array_equal(frames[forwards.clip_id], frames[reverse.clip_id])


def test_first_and_last_frames_are_equally_sharp(dataset: Dataset, frames: dict[str, Pixels]) -> None:
    """The mean energy of what is finer than 3 pixels, over both recordings, at both ends of the file."""
    for clips in dataset.splits.values():
        ends = np.stack([fine_energy(frames[clip.clip_id][[0, -1]]) for clip in clips])
        assert ends[:, 0].mean() == pytest.approx(ends[:, 1].mean(), rel=1e-6)


def test_every_frame_is_compressed_on_its_own(dataset: Dataset) -> None:
    for clip in dataset.splits["validation"]:
        with av.open(clip.video) as container:
            assert all(packet.is_keyframe for packet in container.demux(video=0) if packet.size)


def test_a_usual_encoder_would_tell_the_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The two tests above can fail: with x264's default groups of frames, the recordings differ."""
    plan = Plan(num_backgrounds={"train": 1, "validation": 0, "test": 0}, size_px=72, seed=0)
    pixels, fps = film(plan, next(scenes(plan)))
    for name, order in (("forwards", pixels), ("reverse", pixels[::-1])):
        (tmp_path / f"{name}.mp4").write_bytes(encode(order, fps))
        with av.open(tmp_path / f"{name}_usual.mp4", "w") as container:
            stream = container.add_stream("libx264", rate=fps)
            stream.height, stream.width, stream.pix_fmt = 72, 72, "yuv420p"
            for picture in order:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
    ours = [decode(tmp_path / f"{name}.mp4") for name in ("forwards", "reverse")]
    usual = [decode(tmp_path / f"{name}_usual.mp4") for name in ("forwards", "reverse")]
    assert np.array_equal(ours[0], ours[1][::-1])
    assert not np.array_equal(usual[0], usual[1][::-1])


@pytest.mark.parametrize("num_sampled", [1, 2, 3, 5, 8, 10, 13, 16, 20, 25, 32, 39])
def test_sampled_frames_of_the_reverse_are_the_mirror_image(dataset: Dataset, num_sampled: int) -> None:
    for clip in dataset.splits["test"][::7]:
        with av.open(clip.video) as container:
            stream = container.streams.video[0]
            assert stream.time_base is not None
            times_s = sorted(
                float((packet.pts or 0) * stream.time_base) for packet in container.demux(stream) if packet.size
            )
        duration_s = len(times_s) / int(clip.attributes["fps"])
        wanted_s = (np.arange(num_sampled) + 0.5) / num_sampled * duration_s
        sampled = np.searchsorted(times_s, wanted_s, side="right") - 1
        assert np.array_equal(sampled, len(times_s) - 1 - sampled[::-1])


@pytest.mark.parametrize("pair", PAIRS)
def test_averaging_frames_is_undecided(dataset: Dataset, frames: dict[str, Pixels], pair: tuple[str, str]) -> None:
    def feature(pixels: Pixels) -> Array:
        # Exact in integers, as is the question: a rounding error must not decide.
        mean = pixels.sum(axis=0, dtype=np.int64) / len(pixels)
        squares = (pixels.astype(np.int64) ** 2).sum(axis=(0, 3)) / len(pixels)
        fine = np.sort(fine_energy(pixels))
        return np.concatenate([shrink(mean).ravel(), shrink(squares).ravel(), [fine.mean(), fine.std()]]).astype(
            np.float32
        )

    assert 0.45 <= accuracy_within(dataset, frames, pair, feature) <= 0.55


@pytest.mark.parametrize("pair", PAIRS)
def test_the_change_from_begin_to_end_decides(
    dataset: Dataset, frames: dict[str, Pixels], pair: tuple[str, str]
) -> None:
    def feature(pixels: Pixels) -> Array:
        moments, third = moments_of(pixels), len(pixels) // 3
        return np.asarray(moments[-third:].mean(axis=0) - moments[:third].mean(axis=0), np.float32)

    assert accuracy_within(dataset, frames, pair, feature) > 0.9


def accuracy_within(dataset: Dataset, frames: dict[str, Pixels], pair: tuple[str, str], feature: object) -> float:
    """Accuracy on the test split of a linear classifier between two verbs, fitted to the training split by ridge
    regression."""
    assert callable(feature)
    splits: tuple[Split, ...] = ("train", "test")
    sets = []
    for split in splits:
        clips = [clip for both in recordings(dataset, split, pair) for clip in both]
        sets.append(np.stack([feature(frames[clip.clip_id]) for clip in clips]).astype(np.float64))
    fit, test = sets
    mean, spread = fit.mean(axis=0), fit.std(axis=0) + 1e-6
    fit, test = (fit - mean) / spread, (test - mean) / spread
    # Recordings alternate: forwards, reverse, forwards, ...
    sign = np.where(np.arange(len(fit)) % 2 == 0, 1.0, -1.0)
    weights = np.linalg.solve(fit.T @ fit + np.eye(fit.shape[1]), fit.T @ sign)
    answer = np.where(test @ weights > 0, 1.0, -1.0)
    return float((answer == np.where(np.arange(len(test)) % 2 == 0, 1.0, -1.0)).mean())


def shrink(picture: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means of 6 x 6 blocks of (72, 72, ...)."""
    return np.asarray(picture.reshape(12, 6, 12, 6, -1).mean(axis=(1, 3)))


def fine_energy(pixels: Pixels) -> NDArray[np.float64]:
    """Mean absolute Laplacian of each frame, (T,)."""
    grey = pixels.astype(np.int64).sum(axis=3)
    middle = 4 * grey[:, 1:-1, 1:-1]
    around = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    return np.asarray(np.abs(middle - around).mean(axis=(1, 2)))


def moments_of(pixels: Pixels) -> Array:
    """Amount, place and extent, in each frame, of what is colourful, what is bright and what moves: (T, 15)."""
    picture = pixels[:, ::2, ::2].astype(np.float32) / 255
    bright, colourful = picture.max(axis=3), picture.max(axis=3) - picture.min(axis=3)
    moving = np.abs(picture - np.median(picture, axis=0)).sum(axis=3)
    line = np.linspace(-1, 1, picture.shape[1], dtype=np.float32)
    found = []
    for amount in (colourful - np.median(colourful), bright - np.median(bright), moving):
        weight = np.maximum(amount - 0.15, 0) + 1e-6
        total = weight.sum(axis=(1, 2))
        found.append(np.log(total))
        for along in (line[None, None, :], line[None, :, None]):
            place = (weight * along).sum(axis=(1, 2)) / total
            found.append(place)
            found.append(np.sqrt((weight * (along - place[:, None, None]) ** 2).sum(axis=(1, 2)) / total))
    return np.stack(found, axis=1)


# What the function returns


def test_tasks_name_the_heads_and_the_pairs(tmp_path: Path) -> None:
    verb, noun, both = tiny(tmp_path), tiny(tmp_path, tasks=("noun",)), tiny(tmp_path, tasks=("verb", "noun"))
    assert (verb.classes, verb.pairs) == ({"action": VERBS}, {"action": PAIRS})
    assert (noun.classes, noun.pairs) == ({"action": NOUNS}, {})
    assert (both.classes, both.pairs) == ({"verb": VERBS, "noun": NOUNS}, {"verb": PAIRS})
    assert verb.group_name == "background"
    assert set(verb.splits) == {"train"}
    for clip in both.splits["train"]:
        assert clip.attributes["verb"] == VERBS[clip.labels["verb"]]
        assert clip.clip_id.endswith(f"{VERBS[clip.labels['verb']]}_{NOUNS[clip.labels['noun']]}")
    assert len(list(tmp_path.iterdir())) == 1  # tasks do not change the videos


def test_a_recipe_takes_its_arguments() -> None:
    model = section_model(registry.entry("dataset", "motion", key="data.name"))
    section = model.model_validate({"name": "motion", "tasks": ["verb", "noun"], "size_px": 96})
    assert section.arguments() == {
        "num_train_backgrounds": 48,
        "num_validation_backgrounds": 12,
        "num_test_backgrounds": 24,
        "size_px": 96,
        "seed": 0,
        "tasks": ("verb", "noun"),
        "imbalance": 1.0,
        "texture": True,
        "moving": True,
    }


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({"num_train_backgrounds": 0}, "data.num_train_backgrounds"),
        ({"num_test_backgrounds": -1}, "data.num_test_backgrounds"),
        ({"size_px": 71}, "data.size_px"),
        ({"size_px": 16}, "data.size_px"),
        ({"seed": -1}, "data.seed"),
        ({"tasks": ()}, "data.tasks"),
        ({"tasks": ("verb", "verb")}, "data.tasks"),
    ],
)
def test_impossible_arguments_name_their_key(tmp_path: Path, arguments: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{key}: "):
        motion(tmp_path, **arguments)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_clips_file_lists_every_video(tmp_path: Path) -> None:
    clips = tiny(tmp_path).splits["train"]
    folder = clips[0].video.parent.parent
    with (folder / "clips.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [folder / row["path"] for row in rows] == [clip.video for clip in clips]
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*.mp4")} == {row["path"] for row in rows}
    for row, clip in zip(rows, clips, strict=True):
        assert (row["verb"], row["split"], row["background"]) == (clip.attributes["verb"], "train", clip.group)
        duration_s = int(row["num_frames"]) / int(row["fps"])
        assert float(row["start_s"]) == 0
        assert duration_s - 1e-6 < float(row["stop_s"]) <= duration_s


def test_training_clips_can_be_skewed(tmp_path: Path) -> None:
    even = motion(tmp_path, num_train_backgrounds=12, num_validation_backgrounds=1, num_test_backgrounds=1)
    skewed = motion(
        tmp_path, num_train_backgrounds=12, num_validation_backgrounds=1, num_test_backgrounds=1, imbalance=10
    )
    counts = sorted(Counter(clip.labels["action"] for clip in skewed.splits["train"]).values(), reverse=True)
    assert counts == [round(12 * 10 ** (-rank / 9)) for rank in range(10)]
    assert {c.clip_id for c in skewed.splits["train"]} < {c.clip_id for c in even.splits["train"]}
    assert skewed.splits["test"] == even.splits["test"]
    assert skewed.splits["validation"] == even.splits["validation"]
    with pytest.raises(ConfigError, match=r"^data\.imbalance: the commonest class has 12 clips"):
        motion(tmp_path, num_train_backgrounds=12, num_validation_backgrounds=1, num_test_backgrounds=1, imbalance=13)
    with pytest.raises(ConfigError, match=r"^data\.imbalance: has to be at least 1"):
        motion(tmp_path, imbalance=0.5)


# Without texture, without motion


def one(**switches: bool) -> Plan:
    return Plan(num_backgrounds={"train": 1, "validation": 0, "test": 0}, size_px=64, seed=3, **switches)


def test_without_texture_all_that_is_left_is_two_colours_and_an_edge() -> None:
    """The same scenes: what is covered by the shape is what it covers with texture."""
    for scene in scenes(one()):
        (plain, fps), (textured, fps_of_textured) = film(one(texture=False), scene), film(one(), scene)
        assert plain.shape == textured.shape
        assert fps == fps_of_textured
        colours, counts = np.unique(plain.reshape(-1, 3), axis=0, return_counts=True)
        ground, shape = colours[np.argsort(counts)[-2:]].astype(float)[::-1]
        shares = np.sort(counts)[::-1] / counts.sum()
        assert shares[:2].sum() > 0.8  # the rest is along the edge
        assert np.abs(ground - shape).max() > 20
        assert plain.reshape(-1, 3).std(axis=0).max() > 1
        changed = np.abs(np.diff(plain.astype(int), axis=0)).max(axis=(1, 2, 3))
        if scene.noun not in ("disc", "ring") or scene.pair[0] != "turn_left":
            assert (changed > 0).sum() > 5


def test_without_motion_both_recordings_show_one_picture(tmp_path: Path) -> None:
    (clips,) = motion(
        tmp_path, num_train_backgrounds=1, num_validation_backgrounds=0, num_test_backgrounds=0, moving=False
    ).splits.values()
    found = {VERBS[clip.labels["action"]]: decode(clip.video) for clip in clips}
    for forwards, backwards in PAIRS:
        assert np.array_equal(found[forwards], found[backwards])
        assert (found[forwards] == found[forwards][:1]).all()
        assert found[forwards].std() > 5


def test_switches_write_beside_and_leave_what_there_was() -> None:
    """What was written before they were there keeps its folder."""
    names = {one().folder_name, one(texture=False).folder_name, one(moving=False).folder_name}
    assert len(names) == 3
    known = {"num_backgrounds": {"train": 1, "validation": 0, "test": 0}, "size_px": 64, "seed": 3, "version": 1}
    assert one().folder_name == f"motion-{fingerprint(known)}"
