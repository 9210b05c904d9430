"""What `kinema evaluate` prints of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kinema.cli.console import Output
from kinema.types import JOINT
from kinema.wording import percent, percent_range


def print_evaluation(record: Mapping[str, Any], output: Output) -> None:
    """All that a person wants to see of an evaluation."""
    from kinema.evaluation.asked import clips_words
    from kinema.evaluation.frequency import GROUPS
    from kinema.evaluation.metrics import top_ks
    from kinema.evaluation.subsets import SUBSETS

    rows = dict(record["tasks"])
    if JOINT in record:
        rows[JOINT] = record[JOINT]
    ks = top_ks(record)
    columns = [*(f"top{k}" for k in ks[1:]), "mean_class", "chance", "majority", "train_top1", "gap"]
    titles = [*(f"top-{k}" for k in ks[1:]), "mean class", "chance", "majority", "training clips", "gap"]
    output.table(
        ["task", "top-1", "95 % interval", *titles],
        [
            [
                task,
                percent(values.get("top1")),
                percent_range(values["interval"]),
                *(percent(values.get(column)) for column in columns),
            ]
            for task, values in rows.items()
        ],
        title=f"{clips_words(record)}: {record['num_clips']:,} clips, {record['num_skipped']:,} skipped",
    )
    _print_views(record, rows, output)
    if "with_prior" in record.get(JOINT, {}):
        found = record[JOINT]["with_prior"]
        said = ", ".join(f"top-{k} {percent(found[f'top{k}'])}" for k in ks)
        output.say(f"joint, with the prior of classes that came together in training: {said}")
    for task, values in rows.items():
        if values["above_majority"] is None:
            output.say(
                f"{task}: the clips are of too few groups to say whether more than chance puts it above always "
                "answering the commonest class"
            )
        elif values["above_majority"][0] <= 0:
            output.say(
                f"{task}: these clips do not show that it is better than always answering the commonest class "
                f"(the difference may be {percent_range(values['above_majority'])})"
            )
    others = ["precision_macro", "recall_macro", "f1_macro", "f1_weighted", "average_precision", "auroc"]
    output.table(
        ["task", "precision", "recall", "F1", "F1, by clips", "mean AP", "AUROC", "calibration error", "as predicted"],
        [
            [
                task,
                *(percent(values[name]) for name in others),
                *_calibration_errors(values["calibration"], fitted_here=record["temperature_fitted_here"]),
            ]
            for task, values in record["tasks"].items()
        ],
        title="means over classes that have clips (F1 also by clips), and calibration",
    )
    if record["gap_unknown"]:
        output.say(f"accuracy on training clips, and the gap to it, are unknown: {record['gap_unknown']}")
    if record["inputs_unknown"]:
        output.say(f"whether clips are prepared as in training could not be looked at: {record['inputs_unknown']}")
    by_frequency = [[task, *_groups(values)] for task, values in rows.items() if "frequency" in values]
    if by_frequency:
        output.table(
            ["task", *GROUPS],
            by_frequency,
            title="mean class accuracy, by how many training clips a class has",
        )
    if "subsets" in record:
        parts = [(name, task, values) for name, tasks in record["subsets"].items() for task, values in tasks.items()]
        output.table(
            ["clips", "task", "top-1", "number"],
            [[SUBSETS[name], task, percent(of["top1"]), f"{of['num_clips']:,}"] for name, task, of in parts],
            title="clips that this data set asks to be looked at apart",
        )
    if "pairs" in record:
        output.say(
            f"within pairs that show the same frames in opposite order: {percent(record['pairs'])} (chance 50 %)"
        )
    _print_time_test(record, output)
    _print_rejection(record, output)
    _print_findings(record, output)


def _print_findings(record: Mapping[str, Any], output: Output) -> None:
    """What is wrong with it, last, where it is seen."""
    for finding in record["findings"]:
        output.say(f"! {finding['fault']}: {finding['message']}")


def _print_views(record: Mapping[str, Any], rows: Mapping[str, Any], output: Output) -> None:
    if "views" not in record:
        return
    from kinema.evaluation.asked import views_words

    single = ", ".join(f"{task} {percent(values['single_view_top1'])}" for task, values in rows.items())
    output.say(f"of {record['views']['num']} views ({views_words(record)}); single views, each by itself: {single}")


def _print_time_test(record: Mapping[str, Any], output: Output) -> None:
    from kinema.evaluation.time_test import meaning, no_use, uses_time

    if "time" not in record:
        return
    moving = record.get("moving", ())
    output.table(
        ["frames", "task", "top-1", "drop", "95 % interval", "same answers", "largest drops"],
        [
            [
                order,
                task,
                percent(of["top1"]),
                percent(of["drop"]),
                percent_range(of["interval"]),
                percent(of["same"]),
                ", ".join(f"{one['name']} {percent(one['drop'])}" for one in _dropped(of)) or "-",
            ]
            for order, tasks in record["time"].items()
            for task, of in tasks.items()
        ],
        title="does it use time? " + "; ".join(f"{order}: {meaning(order, moving)}" for order in record["time"]),
    )
    for task in record["tasks"]:
        if uses_time({order: tasks[task] for order, tasks in record["time"].items()}) is False:
            output.say(f"{task}: no order of the frames costs it anything that is not chance; {no_use(moving)} here")


def _dropped(values: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [one for one in values.get("classes", ())[:2] if one["drop"] > 0]


def _print_rejection(record: Mapping[str, Any], output: Output) -> None:
    found = record.get("rejection")
    if not found:
        return
    if "methods" in found:
        output.table(
            ["score", "AUROC", "unknown let through with 95 % of the known"],
            [[name, percent(of["auroc"]), percent(of["fpr95"])] for name, of in found["methods"].items()],
            title=f"{record['num_clips']:,} clips of the classes against {found['num_unknown']:,} of none",
        )
    if "threshold" in found:
        said = [
            f"of these {percent(found['known_accepted'])} are answered, {percent(found['top1_accepted'])} of them "
            "rightly"
        ]
        if "unknown_accepted" in found:
            said.append(f"of the unknown ones {percent(found['unknown_accepted'])} are answered")
        threshold = f"{found['method']} of at least {found['threshold']:.4g}"
        output.say(f"with the threshold of the weights ({threshold}): {'; '.join(said)}")


def _calibration_errors(values: Mapping[str, Any], *, fitted_here: bool) -> tuple[str, str]:
    """Before and after the temperature of the weights."""
    after = percent(values["after"]["ece"]) if "after" in values else "-"
    return percent(values["ece"]), f"{after} (fitted on these)" if fitted_here else after


def _groups(values: Mapping[str, Any]) -> list[str]:
    said = []
    for group, facts in values["frequency"].items():
        few, many = facts["fewest_training_clips"], facts["most_training_clips"]
        clips = f"{few:,}" if few == many else f"{few:,} to {many:,}"
        share = percent(values[group])
        said.append(f"{share} ({facts['num_classes']:,} with {clips})" if facts["num_classes"] else share)
    return said
