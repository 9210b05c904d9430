"""Doing one run of a study: training it, or going on with it, measuring it, and writing down what came of it."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback

from kinema.data.loading import ClipReader
from kinema.data.stored_flow import reads_stored
from kinema.data.usable import probe_splits
from kinema.evaluation.evaluate import evaluate
from kinema.evaluation.frequency import GROUPS
from kinema.evaluation.metrics import main_task
from kinema.evaluation.results import save_evaluation
from kinema.files import read_json_object, write_json
from kinema.models.configurations import Configuration, measure
from kinema.models.runtime import give_back_memory, set_up
from kinema.models.streams_model import frame_models
from kinema.models.weights import read_training
from kinema.preparation.features import frozen_features
from kinema.progress import SILENT, Reporter
from kinema.report.page import write_page
from kinema.report.record import read_run
from kinema.studies.jobs import Job, Place
from kinema.training.prepare import Prepared, compute_device, prepare
from kinema.training.run_folder import Run, create_run
from kinema.training.train import train
from kinema.types import JOINT, DataError, Split, UserError

log = logging.getLogger(__name__)

_CHECKPOINT_SHARE = 0.05
"""Epochs on stored features take as long as a checkpoint does."""


def do(
    job: Job, place: Place, *, callbacks: Sequence[Callback] = (), reporter: Reporter = SILENT
) -> dict[str, Any] | None:
    """Do a run, whatever of it is done already. One that fails is written down as failed.

    Args:
        job: It.
        place: The study's folder.
        callbacks: That Lightning is to call too while it trains; what they raise, but for errors, is raised.
        reporter: Where to show progress.

    Returns:
        What came of it; None where it failed.

    Raises:
        StoppedBySignal: SIGINT or SIGTERM came. The run goes on from there when it is done again.
        DataError: The study's folder cannot be written.
    """
    place.forget_failure(job)
    try:
        _forget_peak()
        record = _done(job, callbacks, reporter)
    except UserError as error:
        place.keep_failure(job, str(error).partition("\n")[0])
        return None
    except Exception as error:  # whatever is wrong with one run, the others are to be done
        log.exception("%s failed", job.name)
        first = (str(error) or "no message").strip().splitlines()[0]
        place.keep_failure(job, f"{type(error).__name__}: {first}")
        return None
    place.keep_result(job, record)
    return record


def _done(job: Job, callbacks: Sequence[Callback], reporter: Reporter) -> dict[str, Any]:
    run = Run(job.folder)
    facts_file = job.folder / "facts.json"
    if not run.is_finished:
        if not run.config.is_file():  # killed while its folder was made
            shutil.rmtree(job.folder, ignore_errors=True)
        prepared = prepare(job.recipe, reporter=reporter)
        _store_plain_features(prepared, job, reporter)
        if not run.config.is_file():
            create_run(job.recipe)
        _write_facts(facts_file, prepared)
        with _log_to(job.folder / "log.txt"):
            train(prepared, run, callbacks=callbacks, checkpoint_share=_CHECKPOINT_SHARE, reporter=reporter)
        del prepared
    if job.split == "test" and not _is_evaluated(run, "test"):
        _evaluate(run, job, reporter)
    facts = read_json_object(facts_file) if facts_file.is_file() else {}
    record = {"name": job.name, "run": job.folder.name, **facts, "memory_bytes": _peak_bytes(), **_measured(run)}
    if job.fold is None and not run.report.is_file():
        with contextlib.suppress(UserError):  # a page that cannot be made costs nobody their run
            write_page(run.folder)
    shutil.rmtree(run.last_checkpoint.parent, ignore_errors=True)  # a finished run never goes on from one
    return record


def _store_plain_features(prepared: Prepared, job: Job, reporter: Reporter) -> None:
    """Compute once, for all folds and seeds, what each of them would compute again at its end: features of training
    clips and of what is held out without augmentation."""
    recipe, model = prepared.recipe, prepared.model
    plain = (
        recipe.clips.store == "auto"
        and recipe.trainer.runtime.features == "fp32"
        and recipe.clips.augmentation.num_views is not None
    )
    networks = frame_models(model, list(prepared.preprocessing)) if plain else None
    if networks is None or not all(network.backbone.frozen for network in networks.values()):
        return
    if len(networks) > 1 and any(network.takes_maps for network in networks.values()):
        return
    clips, videos = dict(prepared.clips), dict(prepared.videos)
    if job.split == "test":
        of_test, found, _ = probe_splits(
            prepared.dataset,
            ["test"],
            workers=recipe.clips.workers,
            flow=["test"] if reads_stored(prepared.seen.values()) else (),
            reporter=reporter,
        )
        clips, videos = {**clips, **of_test}, {**videos, **found}
    device = compute_device(recipe.trainer)
    set_up(model.to(device), recipe.trainer.runtime, device)
    listed = [clip for of_split in clips.values() for clip in of_split]
    for stream, network in networks.items():
        own = {stream: prepared.preprocessing[stream]}
        frozen_features(
            network.backbone,
            ClipReader(listed, videos, own, augmentation=None, seed=0, decoder=recipe.clips.decoder),
            maps=network.takes_maps,
            batch_size=recipe.clips.batch_size,
            workers=recipe.clips.workers,
            root=recipe.data.root,
            name="plain" if len(networks) == 1 else f"plain, {stream}",
            reporter=reporter,
        )


def _write_facts(path: Path, prepared: Prepared) -> None:
    """What only those know who have the model and the data at hand."""
    total, trainable = prepared.num_parameters
    recipe = prepared.recipe
    shape = next(iter(prepared.preprocessing.values())).shape
    configuration = Configuration(
        name=recipe.model.name,
        arguments=recipe.model.arguments(),
        classes={task: len(names) for task, names in prepared.dataset.classes.items()},
        num_frames=shape.num_frames,
        size_px=shape.height_px,
        streams={stream: of.channels for stream, of in prepared.preprocessing.items()},
        summary="",
    )
    try:
        gflops: float | None = measure(recipe.model.name, configuration).gflops
    except (RuntimeError, NotImplementedError, ValueError) as error:
        log.warning("arithmetic of %s is not counted: %s", recipe.model.name, str(error).partition("\n")[0])
        gflops = None
    write_json(path, {"parameters": total, "trainable": trainable, "gflops": gflops})


def _is_evaluated(run: Run, split: Split) -> bool:
    return (run.evaluations / split / "metrics.json").is_file()


def _evaluate(run: Run, job: Job, reporter: Reporter) -> None:
    section = job.recipe.clips
    keys = ("workers", "batch_size", "decoder")
    defaults = {key: getattr(section, key) for key in keys}
    with _log_to(run.folder / "log.txt"):
        evaluation = evaluate(run.weights, split=job.split, defaults=defaults, reporter=reporter)
    folder = run.evaluations / job.split
    shutil.rmtree(folder, ignore_errors=True)  # of an attempt that was interrupted: the numbers are written last
    try:
        save_evaluation(folder, dict(evaluation.record), evaluation.predictions)
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be written: {error.strerror or error}") from None


def _measured(run: Run) -> dict[str, Any]:
    """What the run's own files say: the headline of each evaluation, and how training went."""
    record = read_run(run.folder)
    training = read_training(run.weights)
    found = {}
    for evaluation in record.evaluations:
        if evaluation.name in ("validation", "test"):
            main = main_task(evaluation.record["tasks"])
            values = evaluation.tasks[main]
            keys = ("top1", "top5", "mean_class", "chance", "majority", "gap")
            found[evaluation.name] = {key: values.get(key) for key in keys}
            found[evaluation.name]["groups"] = {
                group if len(evaluation.tasks) == 1 else f"{task} {group}": of_task[group]
                for task, of_task in evaluation.tasks.items()
                for group in GROUPS
                if of_task.get(group) is not None
            }
            found[evaluation.name] |= {"num_clips": evaluation.record["num_clips"], "task": main}
            found[evaluation.name]["tasks"] = {task: v["top1"] for task, v in evaluation.tasks.items()}
            found[evaluation.name]["of_tasks"] = {
                task: {key: v.get(key) for key in ("top1", "top3", "top5", "loss", "majority")}
                for task, v in evaluation.tasks.items()
            }
    losses = [row.get("train/loss") for row in record.history if row.get("epoch") == training.epoch]
    seconds = sorted(row["seconds"] for row in record.history if row.get("seconds", 0) > 0)
    typical = seconds[len(seconds) // 2] if seconds else None
    return {
        "measured": found,
        "train_top1": training.accuracy.get(JOINT, next(iter(training.accuracy.values()))),
        "train_loss": losses[0] if losses else None,
        "epoch": training.epoch,
        "epochs": len(record.history),
        "seconds": sum(seconds),
        "clips_per_s": None if typical is None else training.num_clips / typical,
    }


@contextlib.contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """Messages of the library also go into the run's log."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    logger = logging.getLogger("kinema")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()


def _forget_peak() -> None:
    """Begin as a process of its own would: what earlier runs freed and the allocator kept is no peak of this one."""
    give_back_memory()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is held now


def _peak_bytes() -> int | None:
    """The most memory that this process has held since then; of the GPU's, where there is one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return None
