"""What the data sets of EPIC-KITCHENS share: tasks, and clips made of segments and of what is on the disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kinema.data.epic_files import Media, expected_flow, expected_place
from kinema.data.epic_lists import ClassList, Segment, VideoFacts, read_class_indices
from kinema.data.listing import coverage_note, hint, sort_out
from kinema.data.official_lists import find_lists
from kinema.data.stored_flow import FOLDER as FLOW_FOLDER
from kinema.data.stored_flow import RATE as FLOW_RATE
from kinema.types import Clip, ConfigError, DataError, Heads, Split

Source = Literal["auto", "videos", "frames"]
FrameRate = Literal["published", "native"]

# Before frames were extracted for publication, videos were resampled: to 60 frames per second those of 2018, whose
# names end in two digits, to 50 the later ones, whose names end in three. `start_frame` and `stop_frame` of the lists
# are at these rates: in 9,616 of the 9,668 validation segments `start_frame` is floor(60 * start) exactly, in the
# others it is one off, as times are rounded to 1/100 s.
_PUBLISHED_FPS = {2: 60.0, 3: 50.0}

# Flow of the videos of 2018 begins at every second frame (and goes to the third one behind it), that of the later ones
# at every frame: github.com/epic-kitchens/C1-Action-Recognition-TSN-TRN-TSM, src/convert_rgb_to_flow_frame_idxs.py.
_FLOW_FPS = {2: 30.0, 3: 50.0}


class Vocabulary:
    """The tasks that were asked for, and the labels that a verb and a noun make in them.

    Args:
        tasks: `verb`, `noun`, `verb_category`, `noun_category`, `action`.
        verbs: Verb classes.
        nouns: Noun classes.
        pairs: Verb and noun of every labelled segment: the classes of `action`.

    Raises:
        ConfigError: There are no tasks, or one twice.
    """

    def __init__(
        self, tasks: Sequence[str], *, verbs: ClassList, nouns: ClassList, pairs: Iterable[tuple[int, int]]
    ) -> None:
        if not tasks or len(set(tasks)) < len(tasks):
            raise ConfigError(f"data.tasks: expected at least one task, and none twice, got {list(tasks)}")
        self._actions = sorted(set(pairs)) if "action" in tasks else []
        action_index = {pair: index for index, pair in enumerate(self._actions)}
        known: dict[str, tuple[tuple[str, ...], Callable[[int, int], int]]] = {
            "verb": (verbs.names, lambda verb, noun: verb),
            "noun": (nouns.names, lambda verb, noun: noun),
            "verb_category": _categories(verbs, lambda verb, noun: verb),
            "noun_category": _categories(nouns, lambda verb, noun: noun),
            "action": (
                tuple(f"{verbs.names[verb]} {nouns.names[noun]}" for verb, noun in self._actions),
                lambda verb, noun: action_index[verb, noun],
            ),
        }
        self._tasks = {task: known[task] for task in tasks}
        self._labels: dict[tuple[int, int], Mapping[str, int]] = {}

    @property
    def classes(self) -> Heads:
        """Task -> class names."""
        return {task: names for task, (names, _) in self._tasks.items()}

    def labels(self, verb: int, noun: int) -> Mapping[str, int]:
        """Task -> class index. Segments of the same verb and noun share one mapping."""
        pair = verb, noun
        if pair not in self._labels:
            self._labels[pair] = {task: index(verb, noun) for task, (_, index) in self._tasks.items()}
        return self._labels[pair]

    def tail(self, verbs: frozenset[int], nouns: frozenset[int]) -> dict[str, frozenset[int]]:
        """Task -> rare classes. A rare action is one whose verb or whose noun is rare; categories have none."""
        actions = {index for index, (verb, noun) in enumerate(self._actions) if verb in verbs or noun in nouns}
        rare = {"verb": verbs, "noun": nouns, "action": frozenset(actions)}
        return {task: rare[task] for task in self._tasks if rare.get(task)}


def _categories(
    classes: ClassList, index: Callable[[int, int], int]
) -> tuple[tuple[str, ...], Callable[[int, int], int]]:
    names = classes.category_names
    of_class = [names.index(category) for category in classes.categories]
    return names, lambda verb, noun: of_class[index(verb, noun)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Footage:
    """What clips are read from.

    Attributes:
        root: `data.root`.
        media: What was found there.
        source: Whether to read files or folders of frames; `auto` takes the file where there is one.
        frame_rate: Whether folders of frames are at the rate of the published ones or at that of the video.
        facts: The table of videos; may be empty.
    """

    root: Path
    media: Media
    source: Source
    frame_rate: FrameRate
    facts: Mapping[str, VideoFacts]

    def of(self, video_id: str) -> tuple[Path, float | None, bool]:
        """(Where it is or would be, rate of a folder of frames, whether it is there)."""
        file = self.media.videos.get(video_id) if self.source != "frames" else None
        folder = self.media.frames.get(video_id) if self.source != "videos" else None
        if file is not None:
            return file, None, True
        if folder is not None:
            return folder, self._fps(video_id), True
        return expected_place(self.root, video_id, frames=self.source == "frames"), None, False

    def flow_of(self, video_id: str) -> dict[str, str]:
        """Attributes of the clips of a video that say where its flow is, and how many fields it has in a second."""
        folder = self.media.flow.get(video_id)
        if folder is None:
            # Where it would be, so that whoever looks for it can name that place.
            return {FLOW_FOLDER: str(expected_flow(self.root, video_id))} if self.media.flow else {}
        return {FLOW_FOLDER: str(folder), FLOW_RATE: f"{_FLOW_FPS[_digits(video_id)]:g}"}

    def flow_note(self, clips: Iterable[Clip]) -> str:
        """Of how many videos of these clips flow is there; empty where it is there of none."""
        videos = {clip.attributes["video_id"] for clip in clips}
        num = len(videos & self.media.flow.keys())
        return f"optical flow is there of {num} of {len(videos)} videos" if num else ""

    def _fps(self, video_id: str) -> float:
        digits = _digits(video_id)
        if self.frame_rate == "published" and digits in _PUBLISHED_FPS:
            return _PUBLISHED_FPS[digits]
        if video_id not in self.facts:
            raise DataError(
                f"{self.root}: the rate of the frames of {video_id} is not known; "
                "put the table of videos (EPIC_100_video_info.csv or EPIC_video_info.csv) beside the lists"
            )
        return self.facts[video_id].fps

    def note(self, clips: Iterable[Clip]) -> str:
        """What the clips that are there are read from."""
        files: set[Path] = set()
        folders: set[Path] = set()
        for clip in clips:
            (files if clip.fps is None else folders).add(clip.video)
        parts = [f"video files ({len(files)})"] if files else []
        if folders:
            rate = "the published rate" if self.frame_rate == "published" else "the rate of the videos"
            parts.append(f"folders of frames ({len(folders)}), taken to be at {rate}")
        return f"read from {' and '.join(parts)}"


def clips_of(segments: Iterable[Segment], vocabulary: Vocabulary, footage: Footage) -> list[Clip]:
    """A clip for each segment, whether its video is there or not."""
    places: dict[str, tuple[Path, float | None, dict[str, str]]] = {}
    clips = []
    for segment in segments:
        video_id = segment.video_id
        if video_id not in places:
            path, fps, _ = footage.of(video_id)
            places[video_id] = path, fps, footage.flow_of(video_id)
        path, fps, flow_attribute = places[video_id]
        attributes = {"participant_id": segment.participant, "video_id": video_id}
        labelled = segment.verb is not None and segment.noun is not None
        if labelled:
            attributes["narration"] = segment.narration
        stop_s = segment.stop_s
        facts = footage.facts.get(video_id)
        if facts is not None and segment.start_s < facts.duration_s < stop_s:
            stop_s = facts.duration_s  # one segment is annotated to 13 ms behind the end of its video
        clips.append(
            Clip(
                clip_id=segment.clip_id,
                video=path,
                start_s=segment.start_s,
                stop_s=stop_s,
                labels=vocabulary.labels(segment.verb or 0, segment.noun or 0) if labelled else {},
                group=segment.participant,
                fps=fps,
                attributes=attributes | flow_attribute,
            )
        )
    return clips


def sort_clips(
    listed: Mapping[Split, list[Clip]], footage: Footage
) -> tuple[dict[Split, tuple[Clip, ...]], dict[Split, tuple[Clip, ...]], tuple[str, ...]]:
    """(Clips that are there, clips that are not, notes)."""
    there = {path for path, _, is_there in map(footage.of, _video_ids(listed)) if is_there}
    splits, absent = sort_out(listed, lambda clip: clip.video in there)
    packed = _packed(footage)
    read = [clip for clips in splits.values() for clip in clips]
    how = [footage.note(read)] if read else []
    more = [note for note in (footage.flow_note(read), packed) if note]
    return splits, absent, (*coverage_note(splits, absent, noun="segments"), *how, *more)


def all_absent(absent: Mapping[Split, Iterable[Clip]], footage: Footage, lists: Path) -> str:
    """What is wrong where no video is there."""
    clips = [clip for clips in absent.values() for clip in clips]
    packed = _packed(footage)
    return (
        f"{footage.root}: the videos of all {len(clips)} segments listed in {lists} are absent"
        + "".join(f", such as {clip.video}" for clip in clips[:1])
        + (f"; {packed}; unpack each into a folder of its name" if packed else "")
    )


def _digits(video_id: str) -> int:
    """Of the number of a video: two in 2018, three later."""
    return len(video_id.partition("_")[2])


def _packed(footage: Footage) -> str:
    archives = footage.media.archives
    return f"archives of frames that are not unpacked: {len(archives)}, such as {archives[0]}" if archives else ""


def _video_ids(listed: Mapping[Split, list[Clip]]) -> set[str]:
    return {clip.attributes["video_id"] for clips in listed.values() for clip in clips}


def only_participants(
    listed: Mapping[Split, list[Segment]], wanted: Sequence[str] | None
) -> tuple[dict[Split, list[Segment]], tuple[str, ...]]:
    """The segments of some participants, and a note; all of them where `wanted` is None.

    Raises:
        ConfigError: There is no such participant in the lists.
    """
    if wanted is None:
        return dict(listed), ()
    known = {segment.participant for segments in listed.values() for segment in segments}
    for name in wanted:
        if name not in known:
            raise ConfigError(f"data.participants: no participant is called {name!r}{hint(name, sorted(known))}")
    if not wanted:
        raise ConfigError("data.participants: is empty; leave it out to use all")
    chosen = frozenset(wanted)
    kept = {split: [s for s in segments if s.participant in chosen] for split, segments in listed.items()}
    return (
        {split: segments for split, segments in kept.items() if segments},
        (f"data.participants: {len(chosen)} of {len(known)} participants are used",),
    )


def lists_folder(root: Path, annotations: str | None, *, names: Sequence[str], folders: Sequence[str]) -> Path:
    """The folder with the annotations.

    Args:
        root: `data.root`.
        annotations: `data.annotations`.
        names: The lists, one of which has to be there.
        folders: Names that the folder of annotations may have, in `root` or beside it.

    Raises:
        ConfigError: `annotations` is not a folder.
        DataError: The lists are not found.
    """
    bases = [root, *(root / base for base in ("EPIC-KITCHENS", "EPIC_KITCHENS_2018"))]
    places = [*bases, *(base / folder for base in (*bases, root.parent) for folder in folders)]

    def holds(place: Path) -> bool:
        return any((place / name).is_file() or (place / name).with_suffix(".pkl").is_file() for name in names)

    found = find_lists(root, annotations, places=places, holds=holds)
    if found is None:
        where = str(root / annotations) if annotations else f"{root}, its {folders[0]} or {root.parent / folders[0]}"
        raise DataError(
            f"{root}: {names[0]} is not in {where}; get the repository {folders[0]} of github.com/epic-kitchens "
            "or name its folder in data.annotations"
        )
    return found


def indices(folder: Path, name: str, column: str, classes: ClassList) -> frozenset[int]:
    """The class indices of a list that need not be there."""
    path = folder / name
    return read_class_indices(path, column, classes) if path.is_file() else frozenset()
