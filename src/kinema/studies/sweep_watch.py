"""What is said while a sweep's processes try settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kinema.progress import Task
from kinema.studies.study import Study
from kinema.studies.sweep import best_of, blame, trials_of
from kinema.types import DataError
from kinema.wording import percent


class SweepWatch:
    """Follows the trials through the sweep's file.

    Args:
        study: That is searched.
        search: Optuna's study.
        task: Counts trials.
        say: Gets a line for each trial that ends.
    """

    def __init__(self, study: Study, search: Any, task: Task, say: Callable[[str], None]) -> None:
        self._study = study
        self._search = search
        self._task = task
        self._say = say
        self._ended = {trial.number for trial in trials_of(search) if trial.state not in ("running", "waiting")}

    def look(self) -> None:
        """Say which trials have ended."""
        trials = trials_of(self._search)
        for trial in trials:
            if trial.number in self._ended or trial.state in ("running", "waiting"):
                continue
            self._ended.add(trial.number)
            words = {
                "failed": f"failed: {trial.error}",
                "pruned": f"given up after epoch {trial.epochs}, {percent(trial.value)}",
            }
            self._say(
                f"trial {trial.number}: {words.get(trial.state, percent(trial.value))}; {' '.join(trial.overrides)}"
            )
            best = best_of(trials)
            self._task.advance(1, **({} if best is None else {"best": percent(best.value)}))

    def blame(self, pid: int, reason: str) -> bool:
        """Write down that the trial of a process failed with it.

        Raises:
            DataError: It had none: all others would end like it.
        """
        had_one = blame(self._study, self._search, pid, reason)
        self.look()
        if not had_one:
            raise DataError(f"{self._study.folder}: a trial could not be begun: {reason}")
        return True
