"""Which evaluations of several runs can be put beside each other."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

from kinema.report.record import Evaluation, RunRecord
from kinema.types import ConfigError


def choose(
    runs: Mapping[str, RunRecord], *, split: str | None = None, named: Sequence[str] = ()
) -> dict[str, Evaluation]:
    """One evaluation of each run: of the same list of clips, looked at in the same way. Of several such the plain ones
    of the runs' own split come first, then those of their own clips with views, then those of other lists; and of
    several of the same the newest.

    Where the runs have none of the same list, as after another validation split was cut, their own plain ones are
    taken; those of other lists never are, unless they are named.

    Args:
        runs: Name -> run.
        split: Which split; by default test, or validation where not all have one on test.
        named: Name of an evaluation of the first run, whose like is looked for in the others; or one for each run.

    Raises:
        ConfigError: There is no such evaluation, or not of all runs.
    """
    if len(named) not in (0, 1, len(runs)):
        raise ConfigError(
            f"--evaluation: give it once, for the first run, or once for each of the {len(runs)} runs; "
            f"there are {len(named)}"
        )
    if len(named) == len(runs):
        return {name: _named(name, run, wanted) for (name, run), wanted in zip(runs.items(), named, strict=True)}
    if named:
        first = next(iter(runs))
        like = _named(first, runs[first], named[0])
        others = {name: run.evaluations for name, run in runs.items() if name != first}
        return {first: like} | {name: _like(name, some, like) for name, some in others.items()}
    by_run = _of_split(runs, split)
    for alike in (_list_and_views, _list):
        common = set.intersection(*({alike(one) for one in some} for some in by_run.values()))
        if common:
            best = max(common, key=lambda key: sorted(_rank(one) for one in _newest(by_run, alike, key).values()))
            return _newest(by_run, alike, best)
    found = {}
    for name, some in by_run.items():
        plain = [one for one in some if one.is_plain]
        if not plain:
            raise ConfigError(
                f"{name}: was evaluated on no list of clips that all of these runs were evaluated on; run kinema "
                f"evaluate {name} --split {some[-1].split}, or name what to compare by --evaluation"
            )
        found[name] = plain[-1]
    return found


def _of_split(runs: Mapping[str, RunRecord], split: str | None) -> dict[str, list[Evaluation]]:
    def of(wanted: str) -> dict[str, list[Evaluation]]:
        return {name: [one for one in run.evaluations if one.split == wanted] for name, run in runs.items()}

    wanted = split or ("test" if all(of("test").values()) else "validation")
    found = of(wanted)
    for name, some in found.items():
        if not some:
            raise ConfigError(
                f"{name}: not evaluated on the {wanted} split; run kinema evaluate {name} --split {wanted}"
            )
    return found


def _newest(
    by_run: Mapping[str, Sequence[Evaluation]], alike: Callable[[Evaluation], str], key: str
) -> dict[str, Evaluation]:
    """Of those that are alike; a plain one rather than a newer one that is not."""
    return {
        name: max((one for one in some if alike(one) == key), key=lambda one: (*_rank(one), one.order))
        for name, some in by_run.items()
    }


def _rank(evaluation: Evaluation) -> tuple[bool, bool]:
    return evaluation.is_plain, evaluation.is_own


def _list(evaluation: Evaluation) -> str:
    return str(evaluation.record["list"]["fingerprint"])


def _list_and_views(evaluation: Evaluation) -> str:
    return _list(evaluation) + json.dumps(evaluation.record.get("views"), sort_keys=True)


def _named(name: str, run: RunRecord, wanted: str) -> Evaluation:
    for evaluation in run.evaluations:
        if evaluation.name == wanted:
            return evaluation
    there = ", ".join(evaluation.name for evaluation in run.evaluations) or "none"
    raise ConfigError(f"--evaluation: {name} has no evaluation {wanted!r}; it has {there}")


def _like(name: str, evaluations: Sequence[Evaluation], like: Evaluation) -> Evaluation:
    for alike in (_list_and_views, _list):
        found = [one for one in evaluations if alike(one) == alike(like)]
        if found:
            return max(found, key=lambda one: one.order)
    there = ", ".join(evaluation.name for evaluation in evaluations) or "none"
    raise ConfigError(
        f"{name}: not evaluated on the clips of {like.folder}; evaluate it on the same, or give --evaluation once for "
        f"each run (it has {there})"
    )
