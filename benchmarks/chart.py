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

from matplotlib.axes import Axes

from blackprop.experiments.report._look import DASHES, INK, over_decades, page, with_rows
from blackprop.experiments.report._means import mean_and_error

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
    mean, error = mean_and_error(100 * run["accuracy"] for run in runs) or (math.nan, None)
    overheads = {key: statistics.fmean(run[key] for run in runs) for key in AXES}
    return Mark(method, mean, error or 0.0, overheads)


def draw(folder: Path, file: Path) -> None:
    """The chart of all runs in `folder`, as `file` (.svg, .png or .pdf)."""
    places = read(folder)
    with page(file, (9, 0.7 + 2.6 * len(places))) as figure:
        grid = figure.subplots(len(places), len(AXES), sharex="col", sharey="row", squeeze=False)
        for axes, ((device, condition), marks) in zip(grid, places.items(), strict=True):
            for ax, key in zip(axes, AXES, strict=True):
                _panel(ax, key, marks)
            axes[0].set_title(f"{device}, {condition}", loc="left", fontweight="bold", fontsize=10)
            axes[0].set_ylabel("accuracy, %")
        for ax, label in zip(grid[-1], AXES.values(), strict=True):
            ax.set_xlabel(label)


def _panel(ax: Axes, key: str, marks: list[Mark]) -> None:
    """Marks at their overhead, with their names beneath; a line where it is zero, with its name at the right end."""
    over_decades(ax)
    with_rows(ax)
    ax.margins(x=0.14, y=0.16)
    for mark in sorted(marks, key=lambda mark: mark.overheads[key], reverse=True):  # lines last: they have no abscissa
        colour, shape = STYLES.get(mark.method, (INK, "o"))
        x = mark.overheads[key]
        if x <= 0:
            line = DASHES["oracle" if mark.method == "oracle" else "frozen"]
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
