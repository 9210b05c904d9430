"""Puts measured figures into docs/performance.md, between its markers, so that none is typed by hand.

    python benchmarks/write_performance.py build/bench [--page docs/performance.md] [--keep]

`<!-- bench: NAME -->` to `<!-- end -->` becomes the table of build/bench/NAME.json; `<!-- bench: machine -->` what they
were measured on; `<!-- bench: sequence_table -->` every size of sequence_length.py; `<!-- bench: flow_errors -->` the
errors of optical_flow.py; `<!-- bench: store_figures -->` and `<!-- bench: sequence_figures -->` what store_study.py
and sequence_length.py drew. What was not measured says so; with `--keep` it stays as it is.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from harness import REPOSITORY, is_met, number

FIGURES = {
    "store_figures": {
        "stores_disk": "Disk against the number of clips",
        "stores_memory": "Memory against the number of clips",
        "stores_load": "Time to read every clip once against the number of clips",
    },
    "sequence_figures": {"sequence_length": "Time per clip and parameters against frames per clip"},
}
"""Block of the page -> its figures and what they show."""
_TABLES = {"sequence_table": "sequence_length", "flow_errors": "optical_flow"}
"""Block of the page -> the benchmark whose figures are in it, where it has another name."""
_BLOCK = re.compile(r"(<!-- bench: (?P<name>\w+) -->\n)(?P<inside>.*?)(?P<end><!-- end -->)", flags=re.DOTALL)
_MEASURED = re.compile(r"(\w+) (\([^()]* rounds, load before: [^()]*\))")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="folder of the JSON files")
    parser.add_argument("--page", type=Path, default=REPOSITORY / "docs" / "performance.md")
    parser.add_argument("--keep", action="store_true", help="leave alone what the folder has no file of")
    given = parser.parse_args()
    results = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(given.results.glob("*.json"))}
    text = given.page.read_text(encoding="utf-8")
    given.page.write_text(written(text, results, given.page.parent, keep=given.keep), encoding="utf-8")


def written(page: str, results: dict[str, dict[str, Any]], folder: Path, *, keep: bool = False) -> str:
    """The page with its tables filled in.

    Args:
        page: Markdown with markers.
        results: Benchmark -> what it wrote.
        folder: Of the page; its figures are in `figures` there.
        keep: Benchmarks that are not in `results` keep what the page has of them.
    """

    def block(match: re.Match[str]) -> str:
        name = match["name"]
        if name in FIGURES:
            inside = figures(FIGURES[name], folder)
        elif name == "machine":
            inside = of_machine(results, match["inside"] if keep else "")
        elif keep and _TABLES.get(name, name) not in results:
            return match[0]
        elif name == "sequence_table":
            inside = of_sizes(results.get("sequence_length"))
        elif name == "flow_errors":
            inside = of_motions(results.get("optical_flow"))
        else:
            inside = of_benchmark(results.get(name))
        return f"{match[1]}{inside}\n{match['end']}"

    return _BLOCK.sub(block, page)


def figures(titles: dict[str, str], folder: Path) -> str:
    """As far as they were drawn."""
    found = [(name, title) for name, title in titles.items() if (folder / "figures" / f"{name}.svg").is_file()]
    return "\n".join(f"![{title}](figures/{name}.svg)" for name, title in found) or "Not drawn."


def of_benchmark(found: dict[str, Any] | None) -> str:
    """Table of rows, notes, and what else a benchmark found out."""
    if found is None:
        return "Not measured."
    lines = ["| job | kinema | against | | ratio | range | wanted |", "|---|---|---|---|---|---|---|"]
    for row in found["rows"]:
        limit, unit = row.get("limit", False), row["unit"]
        ratio = "" if row["ratio"] is None else f"{100 * row['ratio']:.0f} %" if limit else f"{number(row['ratio'])} x"
        span = row.get("ratio_range")
        around = "" if span is None or limit else f"{number(span[0])} to {number(span[1])}"
        cells = [row["job"], _with_unit(row["kinema"], unit), row["peer_name"], _with_unit(row["peer"], unit)]
        lines.append(f"| {' | '.join([*cells, ratio, around, _wanted(row)])} |")
    quick = ["**From a quick run, which says nothing about speed.**", ""] if found["quick"] else []
    notes = [f"- {note}" for note in found["notes"]]
    for name, facts in found["facts"].items():
        if isinstance(facts, dict):
            values = ", ".join(f"{key.replace('_', ' ')} {number(value)}" for key, value in facts.items())
            notes.append(f"- {name.replace('_', ' ')}: {values}")
        elif isinstance(facts, str):
            notes.append(f"- {name.upper() if name == 'gpu' else name.replace('_', ' ')}: {facts}")
    return "\n".join([*quick, *lines, *([""] if notes else []), *notes])


def of_sizes(found: dict[str, Any] | None, *, num_frames: int = 20) -> str:
    """Time per clip of so many frames and parameters: a row per module, a column per output size."""
    if found is None:
        return "not measured"
    points = [point for point in found["facts"]["series"] if point["frames"] == num_frames]
    sizes = sorted({point["size"] for point in points})
    lines = ["| | " + " | ".join(f"output {size}" for size in sizes) + " |", "|---|" + "---|" * len(sizes)]
    for module in dict.fromkeys(point["module"] for point in points):
        of_module = {point["size"]: point for point in points if point["module"] == module}
        cells = [
            f"{number(of_module[size]['ms'])} ms, {of_module[size]['parameters']:,}" if size in of_module else ""
            for size in sizes
        ]
        lines.append(f"| {module} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def of_motions(found: dict[str, Any] | None) -> str:
    """Mean end-point error in pixels: a row per method, a column per motion."""
    if found is None:
        return "Not measured."
    errors = {(one["method"], one["motion"]): one["px"] for one in found["facts"]["errors"]}
    motions = list(dict.fromkeys(motion for _, motion in errors))
    lines = ["| | " + " | ".join(motions) + " |", "|---|" + "---|" * len(motions)]
    lines += [
        f"| {method} | " + " | ".join(f"{errors[method, motion]:.3f} px" for motion in motions) + " |"
        for method in dict.fromkeys(method for method, _ in errors)
    ]
    return "\n".join(lines)


def _with_unit(value: float | None, unit: str) -> str:
    return "" if value is None else f"{number(value)} {unit}"


def _wanted(row: dict[str, Any]) -> str:
    met = is_met(row)
    if met is None:
        return ""
    return f"{'at most ' if row.get('at_most') else ''}{number(row['target'])} x: {'met' if met else '**missed**'}"


def of_machine(results: dict[str, dict[str, Any]], before: str = "") -> str:
    """What the figures were measured on, and when. Where benchmarks ran on different machines, each of them.

    Args:
        results: Benchmark -> what it wrote.
        before: What an earlier call returned, of which other benchmarks are kept.
    """
    measured: dict[str, tuple[str, str]] = {}
    for line in before.splitlines():
        machine_line, found, names = line.removeprefix("- ").partition(". Measured there: ")
        if found:
            measured |= {name: (machine_line, when) for name, when in _MEASURED.findall(names)}
    for name, found_there in results.items():
        machine, versions = found_there["machine"], found_there["versions"]
        gpu = machine["gpu"] or "no GPU"
        machine_line = (
            f"{machine['cpu']} ({machine['cpu_capability']}), {machine['cores']} cores, {machine['memory_gb']} GB, "
            f"{gpu}, {machine['system']}; " + ", ".join(f"{package} {version}" for package, version in versions.items())
        )
        load = machine["load_before"][0]
        when = f"({found_there['measured']}, {found_there['rounds']} rounds, load before: {load})"
        measured[name] = machine_line, when
    grouped: dict[str, list[str]] = {}
    for name, (machine_line, when) in sorted(measured.items()):
        grouped.setdefault(machine_line, []).append(f"{name} {when}")
    return (
        "\n".join(f"- {line}. Measured there: {', '.join(names)}." for line, names in grouped.items())
        or "Not measured."
    )


if __name__ == "__main__":
    main()
