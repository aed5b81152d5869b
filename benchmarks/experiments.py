"""The table and the chart of what `blackprop compare` found, over several run folders.

    python benchmarks/experiments.py runs/vision runs/audio runs/language [--chart docs/experiments.svg]

Reads summary.json of each folder and runs nothing. Prints a Markdown table, mean ± standard error over the seeds;
draws the gap closed against the rows beyond the forward passes, a panel for each experiment and device. A method that
stands in several folders for one device is taken from the one with most seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from blackprop.experiments.report._look import DASHES, INK, over_decades, page
from blackprop.experiments.report._means import mean_and_error

STYLES = {
    "default": ("#0072b2", "o"),
    "twin": ("#009e73", "s"),
    "row": ("#b37400", "D"),
    "memory-row": ("#d55e00", "P"),
    "memory": ("#56b4e9", "X"),
    "paper": ("#a8327e", "v"),
}
UNITS = {"accuracy": (100, 1, " %"), "validation_loss": (1, 3, " nats")}  # factor, digits, unit


@dataclass(frozen=True)
class Row:
    """A method on a device in one experiment: means and standard errors over its seeds."""

    experiment: str
    device: str
    method: str
    seeds: int
    score: tuple[float, float]
    unit: str
    digits: int
    gap: tuple[float, float]
    rows: float
    programmings: float

    def __str__(self) -> str:
        score = f"{self.score[0]:.{self.digits}f} ± {self.score[1]:.{self.digits}f}{self.unit}"
        gap = "" if math.isnan(self.gap[0]) else f"{self.gap[0]:.3f} ± {self.gap[1]:.3f}"
        cells = (self.experiment, self.device, self.method, str(self.seeds), score, gap)
        return f"| {' | '.join(cells)} | {self.rows:.3g} | {self.programmings:.3g} |"


def read(folders: Iterable[Path]) -> list[Row]:
    """A row for each experiment, device and method."""
    found: dict[tuple[str, str, str], Row] = {}
    for folder in folders:
        summary = json.loads((folder / "summary.json").read_text())
        for row in _rows(summary):
            key = row.experiment, row.device, row.method
            if key not in found or found[key].seeds < row.seeds:
                found[key] = row
    return [found[key] for key in sorted(found, key=lambda key: (key[:2], _rank(key[2])))]


def _rows(summary: dict[str, Any]) -> Iterable[Row]:
    metric = summary["metric"]
    factor, digits, unit = UNITS[metric]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for result in summary["results"]:
        groups.setdefault((result["device"], result["method"]), []).append(result)
    for (device, method), results in groups.items():
        gaps = [result["gap_closed"] for result in results if result["gap_closed"] is not None]
        yield Row(
            summary["task"],
            device,
            method,
            len(results),
            _mean([factor * result[metric] for result in results]),
            unit,
            digits,
            _mean(gaps),
            statistics.fmean(result["row_overhead"] for result in results),
            statistics.fmean(result["programming_overhead"] for result in results),
        )


def _mean(values: Iterable[float]) -> tuple[float, float]:
    mean, error = mean_and_error(values) or (math.nan, math.nan)
    return mean, error or 0.0


def _rank(method: str) -> tuple[int, str]:
    order = ["oracle", "frozen", "default", "twin", "row", "memory", "paper"]
    return (order.index(method) if method in order else len(order), method)


def draw(table: list[Row], file: Path) -> None:
    """The chart, as `file` (.svg, .png or .pdf)."""
    experiments = list(dict.fromkeys(row.experiment for row in table))
    devices = sorted({row.device for row in table}, key=lambda name: ("mesh" in name or "splitter" in name, name))
    with page(file, (0.6 + 2.9 * len(experiments), 0.5 + 2.0 * len(devices))) as figure:
        grid = figure.subplots(len(devices), len(experiments), sharex=True, sharey=True, squeeze=False)
        for axes, device in zip(grid, devices, strict=True):
            for ax, experiment in zip(axes, experiments, strict=True):
                _panel(ax, [row for row in table if (row.experiment, row.device) == (experiment, device)])
                ax.set_title(f"{experiment}, {device}", loc="left", fontsize=9, fontweight="bold")
            axes[0].set_ylabel("gap closed")
        for ax in grid[-1]:
            ax.set_xlabel("rows beyond the forward passes")
        marks = {text: mark for ax in grid.flat for mark, text in zip(*ax.get_legend_handles_labels(), strict=True)}
        figure.legend(marks.values(), marks.keys(), loc="outside upper center", ncols=len(marks), frameon=False)


def _panel(ax: Axes, rows: list[Row]) -> None:
    over_decades(ax)
    ax.margins(x=0.2)
    ax.set_ylim(-0.05, 1.15)
    ax.axhline(1, color=INK, linewidth=1, linestyle=DASHES["oracle"], label="oracle")
    ax.axhline(0, color=INK, linewidth=1, linestyle=DASHES["frozen"], label="frozen")
    for row in rows:
        if row.rows <= 0 or math.isnan(row.gap[0]):
            continue
        colour, shape = STYLES.get(row.method, (INK, "o"))
        ax.errorbar(
            row.rows,
            row.gap[0],
            row.gap[1] or None,
            color=colour,
            marker=shape,
            markersize=6,
            capsize=3,
            linestyle="none",
            label=row.method,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--chart", type=Path)
    options = parser.parse_args()
    table = read(options.runs)
    print("| experiment | device | method | seeds | score | gap closed | row overhead | programming overhead |")
    print("|" + " --- |" * 8)
    print("\n".join(map(str, table)))
    if options.chart is not None:
        draw(table, options.chart)


if __name__ == "__main__":
    main()
