"""The chart of what benchmarks/field/bench.py found."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import product, zip_longest
from pathlib import Path
from typing import Any

import matplotlib as mpl
from bench_table import Result, in_order
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

ACROSS = 3
# Colours that the colour-blind tell apart, on paper of their own: the chart reads the same in print and in the dark.
PAPER, INK, FAINT = "#ffffff", "#222222", "#8a8a8a"
STYLES = (("#0072b2", "o", -0.16), ("#d55e00", "D", 0.16))  # of the allowances in turn, and where in a method's strip
LINES = {"oracle": (0, (5, 3)), "frozen": (0, (1, 2))}
LOOK: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "blackprop",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def draw(results: Sequence[Result], methods: Sequence[str], kinds: Sequence[str], file: Path) -> None:
    """A panel for each task and device, as `file` (.svg, .png or .pdf)."""
    factors = sorted({r["factor"] for r in results})[: len(STYLES)]
    names = [m for m in in_order({r["method"] for r in results}, methods) if m not in LINES]
    panels = [
        (task, kind)
        for task in sorted({r["task"] for r in results})
        for kind in in_order({r["device"] for r in results if r["task"] == task}, kinds)
    ]
    down = -(-len(panels) // ACROSS)
    with mpl.rc_context(LOOK):
        figure = Figure(figsize=(9, 0.9 + down * (0.6 + 0.21 * len(names))), layout="constrained", facecolor=PAPER)
        grid = figure.subplots(down, ACROSS, sharex=True, sharey=True, squeeze=False)
        for ax, panel in zip_longest(grid.flat, panels):
            if panel is None:
                ax.set_visible(False)
                continue
            here = [r for r in results if (r["task"], r["device"]) == panel]
            _panel(ax, names, factors, here)
            ax.set_title(", ".join(panel), loc="left", fontsize=9, fontweight="bold")
        for ax in grid[:, 0]:
            ax.set_yticks(range(len(names)), names)
        for ax in list(grid.flat)[: len(panels)][-ACROSS:]:  # of which none has one below it
            ax.tick_params(labelbottom=True)
            ax.set_xlabel("test accuracy, %")
        grid[0, 0].invert_yaxis()  # shared
        figure.legend(handles=_legend(factors), loc="outside upper center", ncols=len(factors) + 3, frameon=False)
        figure.savefig(file, dpi=120, metadata={"Date": None} if file.suffix == ".svg" else None)


def _panel(ax: Axes, names: Sequence[str], factors: Sequence[int], results: list[Result]) -> None:
    """Methods one below the other, means and standard deviations at each allowance; references as lines."""
    ax.set_facecolor(PAPER)
    ax.set_xlim(0, 103)
    ax.set_ylim(-0.6, len(names) - 0.4)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", color="#e6e6e6", linewidth=0.7)
    ax.set_axisbelow(True)
    for (reference, dashes), (factor, (colour, *_)) in product(LINES.items(), zip(factors, STYLES, strict=False)):
        known = [r["accuracy"] for r in results if (r["method"], r["factor"]) == (reference, factor)]
        if known:
            ax.axvline(100 * statistics.fmean(known), color=colour, linewidth=1, linestyle=dashes)
    for factor, (colour, shape, shift) in zip(factors, STYLES, strict=False):
        for place, name in enumerate(names):
            some = [r for r in results if (r["method"], r["factor"]) == (name, factor)]
            values = [100 * r["accuracy"] for r in some if "accuracy" in r]
            if values:
                error = statistics.stdev(values) if values[1:] else None
                y = place + shift if factors[1:] else place
                ax.errorbar(statistics.fmean(values), y, xerr=error, color=colour, marker=shape, markersize=5)
            elif some:
                ax.plot(1.5, place + shift, color=colour, marker="x", markersize=4, clip_on=False)


def _legend(factors: Sequence[int]) -> list[Line2D]:
    marks = [
        Line2D([], [], color=colour, marker=shape, linestyle="none", label=f"allowance ×{factor}")
        for factor, (colour, shape, _) in zip(factors, STYLES, strict=False)
    ]
    lines = [Line2D([], [], color=INK, linewidth=1, linestyle=dashes, label=name) for name, dashes in LINES.items()]
    return [*marks, *lines, Line2D([], [], color=FAINT, marker="x", linestyle="none", label="cannot serve the device")]
