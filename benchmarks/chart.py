"""Draw what benchmarks/queries.py ran: accuracy against rows and programmings beyond the forward passes.

    python benchmarks/chart.py runs/queries/mnist docs/queries.svg

Reads the run folders, `condition/device/method/setting/seed/summary.json`, and runs nothing. A method is drawn at the
setting that was run on most seeds, the best of those; one that asks nothing beyond the forward passes is a line.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

# Colours that the colour-blind tell apart, on paper of their own: the chart reads the same in print and in the dark.
PAPER, INK, FAINT = "#ffffff", "#222222", "#8a8a8a"
STYLES = {
    "default": ("#0072b2", "o"),
    "twin": ("#009e73", "s"),
    "row": ("#b37400", "D"),
    "paper-10": ("#d55e00", "^"),
    "paper-100": ("#a8327e", "v"),
}
AXES = {
    "row_overhead": "rows beyond the forward passes, relative to those",
    "programming_overhead": "programmings beyond one a step, relative to those",
}
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


@dataclass(frozen=True)
class Mark:
    """A method on one device under one condition: means over its seeds."""

    method: str
    accuracy: float  # %
    error: float  # standard, %
    overheads: dict[str, float]


def read(folder: Path) -> dict[tuple[str, str], list[Mark]]:
    """The marks of each device and condition."""
    found: dict[tuple[str, str], dict[str, dict[str, list[dict]]]] = defaultdict(lambda: defaultdict(dict))
    for path in sorted(folder.glob("*/*/*/*/*/summary.json")):
        condition, device, method, setting, _, _ = path.relative_to(folder).parts
        if results := json.loads(path.read_text())["results"]:  # none where the run is still at work
            found[device, condition][method].setdefault(setting, []).extend(results)
    if not found:
        raise SystemExit(f"{folder} holds no run of benchmarks/queries.py")
    return {place: [_mark(name, settings) for name, settings in sorted(by.items())] for place, by in found.items()}


def _mark(method: str, settings: dict[str, list[dict]]) -> Mark:
    runs = max(settings.values(), key=lambda some: (len(some), statistics.fmean(run["accuracy"] for run in some)))
    values = [100 * run["accuracy"] for run in runs]
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    overheads = {key: statistics.fmean(run[key] for run in runs) for key in AXES}
    return Mark(method, statistics.fmean(values), error, overheads)


def draw(folder: Path, file: Path) -> None:
    """The chart of all runs in `folder`, as `file` (.svg, .png or .pdf)."""
    places = read(folder)
    with mpl.rc_context(LOOK):
        figure = Figure(figsize=(9, 0.7 + 2.6 * len(places)), layout="constrained", facecolor=PAPER)
        grid = figure.subplots(len(places), len(AXES), sharex="col", sharey="row", squeeze=False)
        for axes, ((device, condition), marks) in zip(grid, places.items(), strict=True):
            for ax, key in zip(axes, AXES, strict=True):
                _panel(ax, key, marks)
            axes[0].set_title(f"{device}, {condition}", loc="left", fontweight="bold", fontsize=10)
            axes[0].set_ylabel("accuracy, %")
        for ax, label in zip(grid[-1], AXES.values(), strict=True):
            ax.set_xlabel(label)
        figure.savefig(file, dpi=120, metadata={"Date": None} if file.suffix == ".svg" else None)


def over_decades(ax: Axes) -> None:
    """A bare panel whose abscissa is logarithmic, its ticks plain numbers."""
    ax.set_facecolor(PAPER)
    ax.set_xscale("log")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.spines[["top", "right"]].set_visible(False)


def _panel(ax: Axes, key: str, marks: list[Mark]) -> None:
    """Marks at their overhead, with their names beneath; a line where it is zero, with its name at the right end."""
    over_decades(ax)
    ax.grid(axis="y", color="#e6e6e6", linewidth=0.7)
    ax.set_axisbelow(True)
    ax.margins(x=0.14, y=0.16)
    for mark in sorted(marks, key=lambda mark: mark.overheads[key], reverse=True):  # lines last: they have no abscissa
        colour, shape = STYLES.get(mark.method, (INK, "o"))
        x = mark.overheads[key]
        if x <= 0:
            line = (0, (5, 3)) if mark.method == "oracle" else (0, (1, 2))
            ax.axhline(mark.accuracy, color=INK, linewidth=1, linestyle=line)
            ax.annotate(
                f"{mark.method} {mark.accuracy:.1f}",
                (1, mark.accuracy),
                xycoords=("axes fraction", "data"),
                xytext=(0, 3),
                textcoords="offset points",
                ha="right",
                fontsize=8,
            )
            continue
        ax.errorbar(
            x, mark.accuracy, mark.error or None, color=colour, marker=shape, markersize=6, capsize=3, linewidth=1.2
        )
        ax.annotate(
            f"{mark.method} {mark.accuracy:.1f}",
            (x, mark.accuracy - mark.error),
            xytext=(0, -7),
            textcoords="offset points",
            ha="center",
            va="top",
            color=colour,
            fontsize=8,
        )


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
