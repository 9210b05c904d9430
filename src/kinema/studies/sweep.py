"""Searching settings with Optuna: TPE proposes (Bergstra et al., "Algorithms for hyper-parameter optimization", NeurIPS
2011), and a trial that is below the median of the others at the same epoch is given up.

Trials are kept in a file in the sweep's folder that any number of processes append to. Each trial is an ordinary run in
the folder of the study, found again by its recipe, so that one that was killed goes on from its checkpoint.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kinema.config import resolve
from kinema.data.load_dataset import load_dataset
from kinema.files import locked, parse_yaml
from kinema.progress import SILENT, Reporter
from kinema.recipes import varied
from kinema.sections import Recipe
from kinema.studies.jobs import Job, Place, find_run, recipe_fingerprint
from kinema.studies.study import Range, Study, flow, nested, written
from kinema.types import ConfigError, UserError, fingerprint

log = logging.getLogger(__name__)

_STORAGE = "trials.log"
_AGAIN, _PRINT, _ERROR = "again", "fingerprint", "error"
_STARTUP_TRIALS = 5
"""That are drawn at random, and never given up."""
_STARTUP_EPOCHS = 2


def load_optuna() -> Any:
    """The library.

    Raises:
        UserError: It is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise UserError('kinema sweep needs Optuna: pip install "kinema[sweep]"') from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One setting that was tried.

    Attributes:
        number: From 0.
        params: `section.key` -> value, as YAML.
        state: `complete`, `pruned`, `failed`, `running` or `waiting`.
        value: Validation accuracy: of the kept epoch where it is complete, else of the last one.
        epochs: How many were trained.
        fingerprint: Of its recipe.
        error: Why it failed.
    """

    number: int
    params: Mapping[str, str]
    state: str
    value: float | None
    epochs: int
    fingerprint: str | None
    error: str | None

    @property
    def overrides(self) -> tuple[str, ...]:
        return tuple(f"{key}={value}" for key, value in self.params.items())


def check_sweep(study: Study, *, reporter: Reporter = SILENT) -> None:
    """See that a study can be searched.

    Raises:
        ConfigError: It has no space, seeds or folds, or its data have no validation split.
    """
    file = study.file
    if not file.space:
        raise ConfigError(
            f"{study.path}: space: missing; say what to search, as in space: {{optim.lr: {{low: 1e-5, high: 1e-2}}}}"
        )
    for key in ("seeds", "repeat", "folds", "source"):
        if getattr(file, key) is not None:
            raise ConfigError(
                f"{study.path}: {key}: a sweep trains each setting once; compare the best of it in a study with {key}"
            )
    if file.split == "test":
        raise ConfigError(f"{study.path}: split: test: the test split never selects anything; a sweep is on validation")
    recipe = _recipe(study, {})
    dataset = load_dataset(recipe.data, seed=recipe.trainer.seed, reporter=reporter)
    if not dataset.splits.get("validation"):
        raise ConfigError(
            f"{study.path}: a sweep chooses by the validation split, and this data set has none (it has "
            f"{', '.join(dataset.splits)}); cut one out, overrides: {{data.validation: 0.2}}"
        )


def open_storage(study: Study, *, create: bool = False) -> Any:
    """Optuna's study.

    Raises:
        ConfigError: Nothing was tried yet, and nothing is to be.
        UserError: The library is missing.
    """
    optuna = load_optuna()
    path = study.folder / _STORAGE
    if not create and not path.is_file():
        raise ConfigError(f"{study.folder}: nothing was tried yet; begin with kinema sweep {study.path}")
    study.folder.mkdir(parents=True, exist_ok=True)
    backend = optuna.storages.journal.JournalFileBackend(str(path))
    storage = optuna.storages.JournalStorage(backend)
    return optuna.create_study(
        study_name=study.file.name,
        storage=storage,
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=_STARTUP_TRIALS, n_warmup_steps=_STARTUP_EPOCHS),
    )


def trials_of(search: Any) -> list[Trial]:
    """All that was tried, without those that were begun again as another one."""
    return [_trial(trial) for trial in search.get_trials(deepcopy=False) if _AGAIN not in trial.user_attrs]


def _trial(trial: Any) -> Trial:
    states = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "WAITING": "waiting"}
    steps = trial.intermediate_values
    value = trial.value if trial.state.name == "COMPLETE" else steps[max(steps)] if steps else None
    return Trial(
        number=trial.number,
        params={key: flow(parse_yaml(str(item), source=key)) for key, item in trial.params.items()},
        state=states.get(trial.state.name, "running"),
        value=value,
        epochs=max(steps, default=-1) + 1,
        fingerprint=trial.user_attrs.get(_PRINT),
        error=trial.user_attrs.get(_ERROR),
    )


def take_up(study: Study, search: Any) -> None:
    """Put trials whose process is gone at the head of the queue; they go on from their checkpoints."""
    optuna = load_optuna()
    place = Place(study.folder)
    for trial in search.get_trials(deepcopy=False):
        if trial.state.name != "RUNNING":
            continue
        print_ = trial.user_attrs.get(_PRINT)
        with locked(place.folder / "claims" / (print_ or "none"), wait=False) as free:
            if not free:
                continue
        search._storage.set_trial_user_attr(trial._trial_id, _AGAIN, True)
        search.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        search.enqueue_trial(trial.params)


def blame(study: Study, search: Any, pid: int, reason: str) -> bool:
    """Write down that a process's trial failed with it; whether it had one."""
    optuna = load_optuna()
    for trial in search.get_trials(deepcopy=False):
        path = study.folder / "claims" / str(trial.user_attrs.get(_PRINT))
        with contextlib.suppress(OSError, ValueError):
            if trial.state.name == "RUNNING" and int(path.read_text()) == pid:
                search._storage.set_trial_user_attr(trial._trial_id, _ERROR, reason)
                search.tell(trial.number, state=optuna.trial.TrialState.FAIL)
                return True
    return False


def search_on(study: Study, *, num_trials: int) -> None:
    """Try settings until there are so many, together with whoever else does.

    Raises:
        StoppedBySignal: SIGINT or SIGTERM came; the trial goes on when the sweep does.
    """
    optuna = load_optuna()
    search = open_storage(study, create=True)
    while (trial := _next(study, search, num_trials)) is not None:
        try:
            recipe = _recipe(study, _values(study, trial))
        except ConfigError as impossible:  # as some settings of a space may be: an optimiser without momentum
            trial.set_user_attr(_ERROR, str(impossible).partition("\n")[0])
            search.tell(trial, state=optuna.trial.TrialState.FAIL)
            continue
        print_ = recipe_fingerprint(recipe)
        trial.set_user_attr(_PRINT, print_)
        folder = find_run(study.folder, print_) or study.folder / "runs" / f"trial{trial.number}.{print_}"
        recipe = recipe.model_copy(update={"output": folder.absolute()})
        job = Job(
            setting=f"trial {trial.number}", seed=recipe.trainer.seed, fold=None, recipe=recipe, split="validation"
        )
        state, value, error = _tried(job, Place(study.folder), trial)
        if error is not None:
            trial.set_user_attr(_ERROR, error)
        search.tell(trial, value, state=optuna.trial.TrialState[state])


def _next(study: Study, search: Any, num_trials: int) -> Any:
    """The next trial, whose number no other process has; None where there are enough."""
    optuna = load_optuna()
    with locked(study.folder / "claims" / "next", wait=True):
        trials = trials_of(search)
        waiting = sum(trial.state == "waiting" for trial in trials)
        if len(trials) - waiting >= num_trials and not waiting:
            return None
        # A seed for each trial: a sweep that was interrupted proposes what it would have proposed.
        seed = fingerprint([study.file.name, _recipe(study, {}).trainer.seed, len(trials)])
        search.sampler = optuna.samplers.TPESampler(
            seed=int(seed, 16) % 2**32, n_startup_trials=_STARTUP_TRIALS, constant_liar=True
        )
        return search.ask()


def _tried(job: Job, place: Place, trial: Any) -> tuple[str, float | None, str | None]:
    """State, value and error of a trial."""
    from kinema.studies.pruning import GivenUp, MedianStop
    from kinema.studies.work import do

    with place.claim(job) as mine:
        if not mine:
            return "FAIL", None, "another process is at work on the same setting"
        record = place.result(job)
        try:
            stop = MedianStop(trial, job.folder / "metrics.csv")
            record = record or do(job, place, callbacks=[stop])
        except GivenUp:
            shutil.rmtree(job.folder / "checkpoints", ignore_errors=True)
            return "PRUNED", None, None
    if record is None:
        return "FAIL", None, place.failure(job)
    return "COMPLETE", float(record["measured"]["validation"]["top1"]), None


def _values(study: Study, trial: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, space in study.file.space.items():
        if not isinstance(space, Range):
            found[key] = parse_yaml(trial.suggest_categorical(key, [flow(value) for value in space]), source=key)
        elif space.whole:
            found[key] = trial.suggest_int(key, int(space.low), int(space.high), log=space.log)
        else:
            found[key] = trial.suggest_float(key, space.low, space.high, log=space.log)
    return found


def _recipe(study: Study, values: Mapping[str, Any]) -> Recipe:
    (setting,) = study.settings
    try:
        return resolve(varied(dict(setting.values), nested(values, key="space")))
    except ConfigError as error:
        at = ", ".join(written(key, value) for key, value in values.items())
        raise ConfigError(f"{study.path}: {at}: {error}") from None


def importances(search: Any) -> dict[str, float]:
    """Parameter -> share of the differences between trials that it explains (fANOVA where scikit-learn is there, else
    PED-ANOVA); empty where too few are complete, or all of them alike."""
    optuna = load_optuna()
    for name in ("FanovaImportanceEvaluator", "PedAnovaImportanceEvaluator"):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that few trials say little; the page says so too
                evaluator = getattr(optuna.importance, name)()
                found: Mapping[str, float] = optuna.importance.get_param_importances(search, evaluator=evaluator)
        except ImportError:
            continue
        except (RuntimeError, ValueError) as error:
            log.info("importances cannot be computed: %s", error)
            return {}
        return dict(found)
    return {}


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """The complete trial with the highest validation accuracy, of equals the first."""
    complete = [trial for trial in trials if trial.state == "complete" and trial.value is not None]
    return max(complete, key=lambda trial: trial.value or 0.0, default=None)
