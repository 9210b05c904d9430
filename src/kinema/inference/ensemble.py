"""Several weights folders, made into one that answers with their average."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from torch import Tensor, nn

from kinema.evaluation.leakage import is_same_source
from kinema.evaluation.metrics import accuracy
from kinema.evaluation.training_clips import predict_common_training_clips
from kinema.models.build import Normalisation, build_model
from kinema.models.load import load_model
from kinema.models.weights import TrainingFacts, WeightsConfig, read_training, save, weights_folder
from kinema.progress import SILENT, Reporter
from kinema.training.model_card import model_card
from kinema.types import DataError, Heads, Preprocessing, UserError

log = logging.getLogger(__name__)

Numbers: TypeAlias = tuple[float, ...]

_PIXELS_AS_THEY_ARE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


def make_ensemble(
    paths: Sequence[Path],
    out: Path,
    *,
    shares: Sequence[float] = (),
    average: str = "probabilities",
    measure: bool = True,
    reading: Mapping[str, Any] | None = None,
    reporter: Reporter = SILENT,
) -> WeightsConfig:
    """Write a weights folder whose model is the weighted average of others.

    Args:
        paths: Weights folders, or runs. Same tasks and classes. Each sees a clip as it was trained to: so many frames,
            cut, scaled and normalised so; what several see in the same way is read once.
        out: The new folder.
        shares: How much each one counts; they need not sum to 1. Empty: all the same.
        average: `probabilities` or `logits`.
        measure: Measure its accuracy on clips that all members were trained on, from which later evaluations take the
            gap. Where that is not possible, the folder says why.
        reading: `clips:` settings of reading these: workers, batch_size.
        reporter: Where to show progress.

    Returns:
        What was written.

    Raises:
        DataError: A folder is no weights folder, or differs in what members have to share.
        ConfigError: The shares are impossible.
    """
    if len(paths) < 2:
        raise UserError(f"an ensemble is made of two models at least, got {len(paths)}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out}: is there already; name a new folder with --out")
    folders = [weights_folder(path) for path in paths]
    members, configs = zip(*(load_model(folder) for folder in folders), strict=True)
    for folder, config in zip(folders[1:], configs[1:], strict=True):
        _check_classes(folder, config.heads, folders[0], configs[0].heads)
    config = _config(configs, shares, average)
    model = build_model(config.model, config.arguments, heads=config.heads, inputs=config.inputs)
    model.load_state_dict(_tensors(members))
    of_members = [read_training(folder) for folder in folders]
    facts = _facts(of_members, folders, _said(config))
    if measure:
        facts = _measured(model.eval(), config, of_members, facts, reading=reading, reporter=reporter)
    save(out, model.state_dict(), config, facts, card=model_card(config, facts))
    return config


def _config(configs: Sequence[WeightsConfig], shares: Sequence[float], average: str) -> WeightsConfig:
    """How the ensemble is built, and fed."""
    normalised = [_normalisation(config) for config in configs]
    of_frames = set(normalised) - {None}
    differ = len(of_frames) > 1
    frames = _PIXELS_AS_THEY_ARE if differ else next(iter(of_frames), None)
    preprocessing, streams = _streams(configs, frames)
    each = [one or _PIXELS_AS_THEY_ARE for one in normalised]
    return WeightsConfig(
        model="ensemble",
        arguments={
            "members": [{"name": config.model, **config.arguments} for config in configs],
            "shares": list(shares),
            "average": average,
            "means": [list(mean) for mean, _ in each] if differ else [],
            "stds": [list(std) for _, std in each] if differ else [],
            "streams": streams if len(preprocessing) > 1 else [],
        },
        heads=configs[0].heads,
        preprocessing=preprocessing,
    )


def _normalisation(config: WeightsConfig) -> Normalisation | None:
    """Of all frames that a member sees: a model has one for all its streams of these, and so has an ensemble. Fields of
    motion are of a stream of their own for each normalisation; None where a member sees nothing else."""
    found = {(each.mean, each.std) for each in config.preprocessing.values() if each.motion is None}
    return next(iter(found), None)


def _streams(
    configs: Sequence[WeightsConfig], of_frames: Normalisation | None
) -> tuple[dict[str, Preprocessing], list[dict[str, str]]]:
    """The streams of an ensemble, and for each member, stream of its own -> stream of the ensemble. Streams that are
    read in the same way are one, `rgb`; others are `rgb_2` and so on."""
    found: dict[str, Preprocessing] = {}
    placed = []
    for config in configs:
        names = {}
        for stream, each in config.preprocessing.items():
            wanted = each
            if each.motion is None and of_frames is not None:
                wanted = replace(each, mean=of_frames[0], std=of_frames[1])
            known = [name for name, other in found.items() if other == wanted]
            number = 1 + sum(other.modality == wanted.modality for other in found.values())
            names[stream] = known[0] if known else f"{wanted.modality}_{number}" if number > 1 else wanted.modality
            found[names[stream]] = wanted
        placed.append(names)
    return found, placed


def _check_classes(folder: Path, heads: Heads, first_folder: Path, first: Heads) -> None:
    if tuple(heads) != tuple(first):
        raise DataError(f"{folder}: its tasks are {', '.join(heads)}, those of {first_folder} are {', '.join(first)}")
    for task, names in heads.items():
        expected = tuple(first[task])
        if tuple(names) == expected:
            continue
        unknown = [name for name in names if name not in expected]
        if unknown:
            what = f"has the class {unknown[0]!r}, which {first_folder} has not"
        elif len(names) != len(expected):
            missing = next(name for name in expected if name not in names)
            what = f"lacks the class {missing!r} of {first_folder}"
        else:
            what = f"has its classes in another order than {first_folder}"
        raise DataError(f"{folder}: its task {task!r} {what}; members have the same classes")


def _tensors(members: Sequence[nn.Module]) -> dict[str, Tensor]:
    return {
        f"members.{number}.{name}": tensor
        for number, member in enumerate(members)
        for name, tensor in member.state_dict().items()
    }


def _said(config: WeightsConfig) -> str:
    names = [str(member["name"]) for member in config.arguments["members"]]
    shares = config.arguments["shares"]
    if not shares:
        return f"taking the mean {config.arguments['average']} of {', '.join(names)}"
    each = ", ".join(f"{name} ({share / sum(shares):.3g})" for name, share in zip(names, shares, strict=True))
    return f"averaging the {config.arguments['average']} of {each}"


def _facts(facts: Sequence[TrainingFacts], folders: Sequence[Path], said: str) -> TrainingFacts:
    """What all members were trained on together, as far as it can be told.

    What an evaluation looks for among clips that were trained on is all that any member was trained on. Which data it
    takes by default, and the classes that it compares with, are those of the member that was trained on the most clips.
    """
    most = max(range(len(facts)), key=lambda number: facts[number].num_clips)
    chosen = facts[most]
    for folder, other in zip(folders, facts, strict=True):
        what = _difference(other, chosen)
        if what:
            log.warning(
                "%s was trained on %s than %s; an evaluation takes the data, and the baseline, of the latter",
                folder,
                what,
                folders[most],
            )
    of_same_source = [each for each in facts if is_same_source(each.data, chosen.data)]
    return replace(
        chosen,
        accuracy={},  # that of one member is not that of all together
        num_accuracy_clips=0,
        unmeasured="left out when it was made",
        epoch=0,
        selected_by=said,
        groups=sorted({group for each in of_same_source for group in each.groups}),
        contents=sorted({content for each in facts for content in each.contents}),
        preprocessing={},  # each member's streams are called otherwise here
        inputs={},  # and may be normalised in other ways
        warnings=[
            f"{folder}: {warning}" for folder, each in zip(folders, facts, strict=True) for warning in each.warnings
        ],
    )


def _measured(
    model: nn.Module,
    config: WeightsConfig,
    members: Sequence[TrainingFacts],
    facts: TrainingFacts,
    *,
    reading: Mapping[str, Any] | None,
    reporter: Reporter,
) -> TrainingFacts:
    """The facts with the accuracy on clips that all members were trained on, or with why it is unknown."""
    try:
        found = predict_common_training_clips(model, config, members, facts, reading=reading, reporter=reporter)
    except UserError as error:
        log.warning("its accuracy on training clips stays unknown: %s", error)
        return replace(facts, unmeasured=str(error))
    return replace(
        facts,
        accuracy=accuracy(found),
        num_accuracy_clips=len(found.clips),
        unmeasured="",
        inputs={name: list(of) for name, of in found.inputs.items()},
    )


def _difference(one: TrainingFacts, other: TrainingFacts) -> str:
    if not is_same_source(one.data, other.data):
        return "other data"
    return "other clips" if one.contents != other.contents or one.class_counts != other.class_counts else ""
