"""What `kinema data prepare` does for every kind of store: its clips, its recipe, and what it says at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinema.cli.console import Output
from kinema.cli.data_section import SplitName
from kinema.types import UserError
from kinema.wording import byte_size

if TYPE_CHECKING:
    from kinema.data.video import Video
    from kinema.preparation.storing import Stored
    from kinema.sections import DataSection, Recipe
    from kinema.types import Clip, Split

_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What every kind of store is made with.

    Attributes:
        name: Of the data set.
        root: Its folder.
        overrides: Settings that were given.
        annotations: Folder of the lists, if another.
        folder: Of the store.
        split: The only split, if one.
        shard: (i, n): what falls to job i of n.
        workers: Processes to use.
        output: Where to say what becomes of it.
    """

    name: str
    root: Path
    overrides: Sequence[str] | None
    annotations: Path | None
    folder: Path
    split: SplitName | None
    shard: tuple[int, int]
    workers: int
    output: Output

    def readers(self, decoder: str) -> int:
        """Processes that read: none but this one where a GPU decodes, which processes made by forking cannot use."""
        return 0 if decoder == "torchcodec_cuda" else self.workers


def usable_clips(
    job: Job, section: DataSection, seed: int = 0, *, decoder: str = "pyav", flow: bool = False
) -> tuple[dict[Split, list[Clip]], dict[Path, Video], dict[str, Any]]:
    """Clips that can be read, as training and evaluation list them; their videos; and what to report of them.

    Args:
        job: Says which splits.
        section: The data set.
        seed: Of a validation split that is cut out.
        decoder: That is to decode the videos.
        flow: Optical flow is read from files.
    """
    from kinema.data.decoders import check_decoder
    from kinema.data.load_dataset import load_dataset
    from kinema.data.usable import probe_splits

    split, output = job.split, job.output
    check_decoder(decoder, [])
    dataset = load_dataset(section, seed=seed, for_training=False, reporter=output.reporter)
    for note in dataset.notes:
        output.say(note)
    wanted: list[Split] = [name for name in dataset.splits if split is None or name == split.value]
    if not wanted:
        raise UserError(f"--split: there is no {split} split; there are {', '.join(dataset.splits)}")
    clips, videos, skipped = probe_splits(
        dataset, wanted, workers=job.workers, background=True, flow=wanted if flow else (), reporter=output.reporter
    )
    check_decoder(decoder, videos.values())
    reasons = {clip_id: reason for found in skipped.values() for clip_id, reason in found.items()}
    return clips, videos, {"clips": {name: len(some) for name, some in clips.items()}, "skipped": reasons}


def recipe_of(job: Job, recipe: str) -> Recipe:
    """The recipe, with its data where NAME and ROOT say they are."""
    from kinema import recipes
    from kinema.config import resolve

    values = dict(recipes.read(recipe))
    before = values.get("data")
    kept: dict[str, Any] = dict(before) if isinstance(before, Mapping) else {}
    if kept.get("name") != job.name:  # other data, seen in the same way
        kept = {key: value for key, value in kept.items() if key == "modality"}
    values["data"] = {**kept, "name": job.name, "root": str(job.root)}
    if job.annotations is not None:
        values["data"]["annotations"] = str(job.annotations.expanduser().absolute())
    return resolve(values, list(job.overrides or []))


def finish(job: Job, record: dict[str, Any], section: DataSection, unit: str, done: Stored) -> None:
    """Say what became of it.

    Raises:
        UserError: There is nothing in the store of what was to be stored.
    """
    output, folder = job.output, job.folder
    failures: dict[str, str] = {**record.pop("skipped"), **done.failures}
    output.say(
        f"{folder}: {done.num_new:,} {unit} stored, {byte_size(done.num_bytes)}"
        + (f"; {done.num_before:,} were there before" if done.num_before else "")
    )
    if failures:
        shown = [f"\n  {name}: {reason}" for name, reason in list(failures.items())[:_SHOWN]]
        more = f"\n  and {len(failures) - _SHOWN:,} more; --json FILE has them all" if len(failures) > _SHOWN else ""
        output.say(f"warning: {len(failures):,} {unit} cannot be read and are left out:{''.join(shown)}{more}")
    output.finish(
        {
            "store": str(folder),
            "data": section.model_dump(mode="json"),
            **record,
            "asked": done.num_asked,
            "before": done.num_before,
            "new": done.num_new,
            "bytes": done.num_bytes,
            "failed": failures,
        }
    )
    if done.failures and not done.num_new + done.num_before:
        raise UserError(f"{folder}: nothing is stored: none of the {unit} can be read")


def only_with(option: str, **given: object) -> None:
    """Refuse what was given and has a meaning beside another option only."""
    for name, value in given.items():
        if value is not None:
            raise UserError(f"--{name.replace('_', '-')}: has a meaning with {option} only")


def shard_of(text: str) -> tuple[int, int]:
    """(i, n) of "i/n"."""
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise UserError(f"--shard: {text!r}: expected I/N, as in 1/4 for the first of four")
    return int(number), int(count)
