"""What shipped configurations come to, written down: measuring takes minutes, reading them does not even load torch.

    python -m kinema.models.shipped [--page docs/models.md]

measures them, and writes measured.json in this folder and the page.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kinema.registry import Entry, entries

_FILE = Path(__file__).with_name("measured.json")

Record = dict[str, Any]
"""Of a configuration: see `kinema.models.configurations.record`."""


def written_down() -> dict[str, list[Record]]:
    """Model of kinema -> what its configurations are and come to, the one called `default` first."""
    found: dict[str, list[Record]] = json.loads(_FILE.read_text(encoding="utf-8"))
    return found


def records(name: str) -> list[Record]:
    """What a model's configurations are and come to: written down for those of kinema, measured for others."""
    known = written_down()
    if name in known:
        return known[name]
    from kinema.models.configurations import configurations, record

    return [record(name, configuration) for configuration in configurations()[name]]


def about(model: Entry) -> str:
    """Where a model comes from, and how it deviates from that: what its file says on top, behind the title."""
    spec = importlib.util.find_spec(model.module)
    assert spec is not None, model.module  # it was found before
    assert spec.origin is not None, model.module
    doc = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
    _, _, behind_title = doc.partition("\n\n")
    return " ".join(behind_title.split())


FIGURES = ("clip", "parameters", "trainable", "GFLOPs", "stored", "streams")


def figures(one: Record) -> list[str | int | float]:
    """What people are shown of a configuration, in the order of `FIGURES`."""
    num_frames, _, height_px, _ = next(iter(one["input"].values()))
    return [
        f"{num_frames} x {height_px}",
        one["parameters"]["total"],
        one["parameters"]["trainable"],
        round(one["gflops"], 2),
        "yes" if one["feature_store"] else "-",
        one["streams"] or "-",
    ]


_HEAD = """# Models

`make models` writes this page: every model that is registered, with the configurations that are shipped with it. What
they come to is measured, not typed; a test compares it with the code.

- **Configuration**: `default` is what the arguments' defaults give, or the network that weights are published for; the
  others rebuild networks of the projects that kinema follows, or of a paper. `kinema models NAME` prints their
  arguments, and all keys of the recipe's `model:` section.
- **Clip**: frames x pixels, three channels; of several streams the first.
- **Parameters**: trainable and frozen ones, without buffers such as running statistics. **Trainable**: those that the
  configuration does not freeze (`init.freeze`).
- **GFLOPs**: 1e9 multiplications, each with the addition behind it, for one clip, in evaluation, counted operator by
  operator by PyTorch's `FlopCounterMode`. Convolutions, matrix products and attention count; norms, activations and
  pooling do not. Where others count the addition too, their figure is twice as large.
- **Stored**: the features of its backbone, if it is frozen, can be kept in the feature store, so that epochs read them
  instead of computing them.
- **Streams**: how the structure lets it follow a stream of frames. `state`: it sees every frame once and goes on from a
  state of constant size. `window`: every frame passes the backbone once, what is behind it sees the features of the
  last frames again. `-`: it sees whole clips, so that frames are computed again for every answer.
"""

_KINDS = {
    "frames": (
        "Frame by frame",
        "A backbone, which may be any image network of torchvision or timm, sees each frame alone; a temporal module "
        "sees the frames' features, or their maps; heads classify what it makes of them, one per task.",
    ),
    "clips": ("Networks on whole clips", "The network itself is over time."),
    "other": ("Others", "Networks on frames that are not alone in the network, and compositions of models."),
}
_COLUMNS = ("model", "what it is", "configuration", *FIGURES)


def page() -> str:
    """docs/models.md: from what is written down and the files of the models."""
    written = written_down()
    lines = [_HEAD]
    for kind, (title, words) in _KINDS.items():
        models = [model for name, model in entries("model").items() if written.get(name, [{}])[0].get("kind") == kind]
        if not models:
            continue
        lines += [f"## {title}", "", words, "", f"| {' | '.join(_COLUMNS)} |", "|---|---|---|---|--:|--:|--:|---|---|"]
        lines += [f"| {' | '.join(row)} |" for model in models for row in _rows(model, written[model.name])]
        lines.append("")
    return "\n".join(lines)


def _rows(model: Entry, found: list[Record]) -> Iterator[list[str]]:
    """A row for each configuration; what the model is stands in the first."""
    source = about(model)
    source = re.sub(r" (?=Deviations?\b)", "<br>", source, count=1)
    cells = [f"`{model.name}`", f"{model.summary}<br>{source}" if source else model.summary]
    for one in found:
        shown = [f"{value:.2f}" if isinstance(value, float) else _with_commas(value) for value in figures(one)]
        yield [*cells, f"`{one['name']}`: {one['summary']}", *shown]
        cells = ["", ""]


def _with_commas(value: str | int) -> str:
    return value if isinstance(value, str) else f"{value:,}"


def _is_ours(name: str) -> bool:
    return entries("model")[name].module.startswith("kinema.models.")


def main() -> None:
    """Measure everything, and write both files."""
    from kinema.models.configurations import configurations, record

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", type=Path, default=Path("docs", "models.md"))
    given = parser.parse_args()
    ours = {name: some for name, some in configurations().items() if _is_ours(name)}
    found = {name: [record(name, one) for one in some] for name, some in ours.items()}
    _FILE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    given.page.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
