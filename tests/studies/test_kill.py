"""A study whose processes are killed loses nothing but the batches at hand."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.training.runs import result

from kinema.studies.jobs import Job, Place, jobs_of
from kinema.studies.running import open_jobs, run_here
from kinema.studies.study import read_study

_LONGEST_S = 300.0


def start(path: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "kinema.cli.main", "study", "run", str(path), "--out", str(out), "--jobs", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with out.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)


def wait_for(condition: Any, process: subprocess.Popen[bytes]) -> None:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < _LONGEST_S
        assert process.poll() is None
        time.sleep(0.02)


def begun(jobs: list[Job], place: Place) -> list[Job]:
    return [job for job in jobs if (job.folder / "checkpoints" / "last.ckpt").is_file() and place.result(job) is None]


@pytest.mark.slow
def test_a_study_that_was_killed_goes_on(study_file: Any, tmp_path: Path) -> None:
    path = study_file(seeds=[0, 1], grid={"optim.lr": [1e-3, 1e-2]}, overrides={"trainer.epochs": 12})
    out, undisturbed = tmp_path / "out", tmp_path / "undisturbed"
    jobs = jobs_of(read_study(str(path), output=out))
    place = Place(out)
    process = start(path, out)
    wait_for(lambda: bool(begun(jobs, place)), process)
    killed = begun(jobs, place)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert open_jobs(jobs, place)
    assert not any((job.folder / "weights" / "training.json").is_file() for job in killed)

    again = start(path, out)
    assert again.wait(_LONGEST_S) == 0, out.with_suffix(".log").read_text()
    assert not open_jobs(jobs, place)
    assert all(place.epochs_done(job) == 12 for job in jobs)

    # What was interrupted ends in the same weights as what was not.
    same = [
        job for job in jobs_of(read_study(str(path), output=undisturbed)) if job.fingerprint == killed[0].fingerprint
    ]
    run_here(same, Place(undisturbed))
    assert result(same[0].folder)["model.safetensors"] == result(killed[0].folder)["model.safetensors"]
    assert result(same[0].folder)["metrics.csv"] == result(killed[0].folder)["metrics.csv"]


@pytest.mark.slow
def test_what_kills_one_process_fails_one_run(study_file: Any, tmp_path: Path) -> None:
    path = study_file(grid={"optim.lr": [1e-3, 1e-2, 1e-1]}, overrides={"trainer.epochs": 8})
    out = tmp_path / "out"
    jobs = jobs_of(read_study(str(path), output=out))
    place = Place(out)
    process = start(path, out)
    wait_for(lambda: bool(begun(jobs, place)), process)
    victim = begun(jobs, place)[0]
    pid = place.holder(victim)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert process.wait(_LONGEST_S) == 1
    assert "SIGKILL" in (place.failure(victim) or "")
    assert [job.fingerprint for job in open_jobs(jobs, place)] == [victim.fingerprint]
