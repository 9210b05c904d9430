"""Time per clip and parameters of temporal modules against the number of frames, at output sizes 50 to 300.

    python benchmarks/sequence_length.py [--json FILE] [--rounds N] [--quick]

The figure of the egocentric-vision report (LSTM and ConvLSTM), with all modules that see the order of frames and whose
output has a size to choose. What is timed is the module alone, in evaluation, fp32, one clip: on features of
MobileNetV2, 1280 per frame, or on its maps of frames of 256 px, 8 x 8 x 1280. Output size is what the report called so,
the length of what the heads are given; what argument of a recipe's model that is, `MODULES` says.

The ConvLSTM has the 4 x 4 filters of the report's example. Attention has 5 heads, which divide all four sizes. The
figure goes to docs/figures.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness import AS_KINEMA, MADE, REPOSITORY, Report, Run, in_turn, options, row

os.environ.update(AS_KINEMA)

import torch
from torch import nn

from kinema.models.layers.bert import BertPool
from kinema.models.layers.conv_lstm import ConvLSTMPool
from kinema.models.layers.lsta import LSTAPool
from kinema.models.layers.perceiver import PerceiverPool
from kinema.models.layers.recurrent import RecurrentPool
from kinema.models.layers.temporal import ConvNet1D, ConvStack1D, HybridPool, Projected
from kinema.models.layers.transformer import MultiScalePool, TransformerPool

NUM_INPUTS = 1280
SIZES = (50, 100, 200, 300)
LENGTHS = (5, 10, 20, 40)
SHOWN = 20
"""Frames per clip in the table: the report's."""
HEADS = 5
LEAST_S = 0.02
"""So long a clip is computed again and again for one figure."""


@dataclass(frozen=True)
class Module:
    """A temporal module to build in several sizes.

    Attributes:
        argument: Of the recipe's model, that is the output size.
        build: Output size and frames per clip -> the module, its other arguments as the model's defaults are.
        style: Of its line.
        maps: It takes maps.
        positions: It learns one for each frame.
    """

    argument: str
    build: Callable[[int, int], nn.Module]
    style: dict[str, Any]
    maps: bool = False
    positions: bool = False


def _recurrent(kind: str, size: int, _: int) -> nn.Module:
    return RecurrentPool(kind, NUM_INPUTS, hidden_size=size)


def _both_ways(size: int, _: int) -> nn.Module:
    return RecurrentPool("lstm", NUM_INPUTS, hidden_size=size // 2, bidirectional=True)


def _conv_lstm(size: int, _: int) -> nn.Module:
    return ConvLSTMPool(NUM_INPUTS, channels=size, kernel_size=4)


def _lsta(size: int, _: int) -> nn.Module:
    return LSTAPool(NUM_INPUTS, channels=size, bank=100)


def _stack(size: int, _: int) -> nn.Module:
    return ConvStack1D(NUM_INPUTS, num_steps=20, channels=10, num_blocks=4, kernel_size=3, out_channels=size)


def _residual(size: int, _: int) -> nn.Module:
    return ConvNet1D(NUM_INPUTS, channels=size, num_blocks=2, kernel_size=3)


def _transformer(size: int, num_frames: int) -> nn.Module:
    return TransformerPool(
        NUM_INPUTS, num_frames=num_frames, width=size, num_layers=4, num_heads=HEADS, feed_forward=None
    )


def _multi_scale(size: int, num_frames: int) -> nn.Module:
    return MultiScalePool(
        NUM_INPUTS,
        num_frames=num_frames,
        windows=(4, 8, 16),
        shared=False,
        width=size,
        num_layers=2,
        num_heads=HEADS,
        feed_forward=None,
        dropout=0.1,
        drop_path=0.1,
    )


def _hybrid(size: int, num_frames: int) -> nn.Module:
    lstm = RecurrentPool("lstm", size, hidden_size=size // 2, num_layers=2, bidirectional=True)
    transformer = TransformerPool(
        size, num_frames=num_frames, width=None, num_layers=2, num_heads=HEADS, feed_forward=2 * size, pool="mean"
    )
    return HybridPool(NUM_INPUTS, lstm=lstm, transformer=transformer, width=size)


def _bert(size: int, num_frames: int) -> nn.Module:
    return Projected(NUM_INPUTS, BertPool(size, num_tokens=num_frames, num_heads=HEADS), width=size)


def _perceiver(size: int, _: int) -> nn.Module:
    return PerceiverPool(NUM_INPUTS, num_self=2, num_queries=64, size=size)


MODULES = {
    "RNN": Module("cnn_rnn: hidden_size", functools.partial(_recurrent, "rnn"), {"color": "C0", "linestyle": ":"}),
    "GRU": Module("cnn_gru: hidden_size", functools.partial(_recurrent, "gru"), {"color": "C0", "linestyle": "--"}),
    "LSTM": Module("cnn_lstm: hidden_size", functools.partial(_recurrent, "lstm"), {"color": "C0", "linewidth": 2.5}),
    "BiLSTM": Module("cnn_lstm: hidden_size, both directions", _both_ways, {"color": "C9"}),
    "ConvLSTM": Module("cnn_conv_lstm: channels", _conv_lstm, {"color": "C3", "linewidth": 2.5}, maps=True),
    "LSTA": Module("cnn_lsta: channels", _lsta, {"color": "C1"}, maps=True),
    "ConvNet1D": Module("cnn_conv1d_stack: out_channels", _stack, {"color": "C2", "linewidth": 2.5}),
    "ConvNet1D, residual": Module("cnn_conv1d: channels", _residual, {"color": "C2", "linestyle": "--"}),
    "Transformer": Module("cnn_transformer: width", _transformer, {"color": "C4"}, positions=True),
    "Transformers, 3 scales": Module(
        "cnn_multi_scale_transformer: width", _multi_scale, {"color": "C4", "linestyle": "--"}, positions=True
    ),
    "BiLSTM + Transformer": Module("cnn_hybrid: width", _hybrid, {"color": "C6"}, positions=True),
    "BERT": Module("cnn_bert: width", _bert, {"color": "C5"}, positions=True),
    "Perceiver": Module("cnn_perceiver: size", _perceiver, {"color": "C7"}),
}


def main() -> None:
    given = options(__doc__, rounds=5)
    # What a quick run measures is not to be shown.
    figures = MADE / "quick_figures" if given.quick else REPOSITORY / "docs" / "figures"
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    report = Report(name="sequence_length", options=given)
    sizes, lengths = (SIZES[:2], LENGTHS[::2]) if given.quick else (SIZES, LENGTHS)
    points = [(size, num) for size in sizes for num in lengths]
    grid = 2 if given.quick else 8
    parameters: dict[str, list[int]] = {}
    contenders: dict[str, Run] = {}
    for name, module in MODULES.items():
        # Those without positions are the same for clips of any length, and large.
        build = functools.cache(module.build)
        built = [(build(size, num if module.positions else 0).eval(), num) for size, num in points]
        parameters[name] = [sum(parameter.numel() for parameter in one.parameters()) for one, _ in built]
        contenders[name] = _run(built, grid if module.maps else None, 0.0 if given.quick else LEAST_S)
    seconds = in_turn(contenders, given.rounds, limit_s=120.0)
    series = []
    for name, found in seconds.items():
        for part, (size, num) in enumerate(points):
            facts: dict[str, Any] = {"module": name, "size": size, "frames": num}
            facts |= {"ms": 1e3 * float(np.median(found[:, part])), "parameters": parameters[name][part]}
            series.append(facts)
            if (size, num) == (SIZES[0], SHOWN):
                what = f"{name} ({MODULES[name].argument}), output {size}, {num} frames"
                job = f"{what}: {facts['parameters']:,} parameters"
                report.rows.append(row(job, found[:, [part]], None, "", amount=1))
    report.facts["series"] = series
    report.notes.append("one clip at a time, from features or maps that are there already")
    report.notes.append("in brackets: the model, and its argument that is the output size")
    if importlib.util.find_spec("matplotlib") is None:
        report.notes.append("matplotlib is not installed: no figure")
    else:
        draw(series, figures)
    report.finish()


def _run(modules: Sequence[tuple[nn.Module, int]], grid: int | None, least_s: float) -> Run:
    """Seconds per clip of each."""

    def run() -> list[float]:
        found = []
        with torch.inference_mode():
            for module, num in modules:
                clips = torch.randn(1, num, NUM_INPUTS, *(() if grid is None else (grid, grid)))
                began_s, done = time.perf_counter(), 0
                while not done or time.perf_counter() - began_s < least_s:
                    module(clips)
                    done += 1
                found.append((time.perf_counter() - began_s) / done)
        return found

    return run


def draw(series: list[dict[str, Any]], folder: Path) -> None:
    """One figure, SVG: a column for each output size, time above parameters."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "kinema"  # the same figures give the same file
    folder.mkdir(parents=True, exist_ok=True)
    sizes = sorted({facts["size"] for facts in series})
    lengths = sorted({facts["frames"] for facts in series})
    figure, axes = plt.subplots(2, len(sizes), figsize=(13, 7), sharex=True, sharey="row", layout="constrained")
    for column, size in enumerate(sizes):
        for axis, key in zip(axes[:, column], ("ms", "parameters"), strict=True):
            for name, module in MODULES.items():
                chosen = [facts for facts in series if (facts["module"], facts["size"]) == (name, size)]
                values = [facts[key] / (1 if key == "ms" else 1e6) for facts in chosen]
                frames = [facts["frames"] for facts in chosen]
                axis.plot(frames, values, marker="o", markersize=3, label=name, **{"linewidth": 1.3, **module.style})
            axis.set(xscale="log", yscale="log")
            axis.set_xticks(lengths, [str(length) for length in lengths])
            axis.minorticks_off()
            axis.yaxis.set_major_formatter("{x:g}")
            axis.grid(alpha=0.3)
        axes[0, column].set_title(f"output size {size}")
        axes[1, column].set_xlabel("frames per clip")
    axes[0, 0].set_ylabel("time per clip, ms")
    axes[1, 0].set_ylabel("parameters, millions")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=9)
    figure.savefig(folder / "sequence_length.svg", metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
