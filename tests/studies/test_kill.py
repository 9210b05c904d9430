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
from kinema.studies.running import open_jobs, read_plan, run_here
from kinema.studies.study import read_study

_LONGEST_S = 300.0


def start(path: Path, out: Path, *options: str, num: int = 2) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "kinema.cli.main", "study", "run", str(path), "--out", str(out), *options]
    command += ["--jobs", str(num)]
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


_HOLD = """
import sys
from pathlib import Path
from kinema.studies.jobs import Place

with Place(Path(sys.argv[1])).workers({"jobs": ["of another"]}) as own:
    print(own.name, flush=True)
    sys.stdin.read()
"""


def test_each_command_has_a_plan_of_its_own(tmp_path: Path) -> None:
    place = Place(tmp_path / "out")
    command = [sys.executable, "-c", _HOLD, str(place.folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "1\n"
        with place.workers({"jobs": ["own"]}) as own:
            assert own.name == "2"
            assert read_plan(own) == {"jobs": ["own"]}
            assert read_plan(own.with_name("1")) == {"jobs": ["of another"]}
        other.stdin.close()
    with place.workers({"jobs": ["next"]}) as own:  # what ended is used again
        assert own.name == "1"
        assert read_plan(own) == {"jobs": ["next"]}


@pytest.mark.slow
def test_two_commands_at_once_do_what_each_was_asked_for(study_file: Any, tmp_path: Path) -> None:
    """One of them while the other is at it, and a run that both want is done once."""
    rates = {"a": 1e-3, "b": 2e-3, "c": 3e-3}
    runs = [{"name": name, "overrides": {"optim.lr": rate}} for name, rate in rates.items()]
    path = study_file(runs=runs, seeds=[0], overrides={"trainer.epochs": 20})
    out = tmp_path / "out"
    by_name = {job.setting: job for job in jobs_of(read_study(str(path), output=out))}
    place = Place(out)
    first = start(path, out, "--only", "a", "--only", "b", num=1)
    wait_for(lambda: bool(begun([by_name["a"]], place)), first)
    second = start(path, out, "--only", "a", "--only", "c", num=1)
    assert [process.wait(_LONGEST_S) for process in (first, second)] == [0, 0], out.with_suffix(".log").read_text()
    assert not open_jobs(list(by_name.values()), place)
    log = out.with_suffix(".log").read_text()
    assert log.count("a, seed 0: ") in (1, 2)  # the other one says that it is being done, or done in the meantime
    for name in "bc":
        assert log.count(f"{name}, seed 0: ") == 1
    assert place.epochs_done(by_name["a"]) == 20
