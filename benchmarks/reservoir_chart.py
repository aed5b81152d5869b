"""Draw what `blackprop compare reservoir` found: the score of each method against what training might ask.

    python benchmarks/reservoir_chart.py runs/reservoir docs/reservoir-methods.svg

Reads results.jsonl in the run folder and runs nothing. Means over the seeds at the best rate, with standard errors.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections import defaultdict
from pathlib import Path

from blackprop.experiments.comparison._within import stored
from blackprop.experiments.report._look import FAINT, INK, over_decades, page
from blackprop.experiments.report._means import mean_and_error, told

STYLES = {
    "oracle": (INK, "o", "-"),
    "frozen": (FAINT, "o", (0, (4, 2))),
    "ridge": (FAINT, "x", (0, (1, 2))),
    "twin": ("#009e73", "s", "-"),
    "local-linear": ("#b37400", "D", "-"),
    "mixed": ("#0072b2", "^", "-"),
    "perturbative": ("#d55e00", "v", "-"),
    "multiplexed": ("#a8327e", "P", "-"),
    "homodyne": ("#56b4e9", "*", "-"),
}
LESS = ("nrmse", "ser")  # of these, less is better
Cell = tuple[str, str, str, str, int]  # task, network, score, method, batches


def best(folder: Path) -> dict[Cell, list[float]]:
    """The scores over the seeds of each cell, at the rate with the most seeds and, of those, the best."""
    runs: dict[Cell, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for entry in stored(folder):
        if (metric := entry["metric"]) in entry:
            cell = entry["task"], entry["network"], metric, entry["method"], entry["batches"]
            runs[cell][entry["rate"]].append(entry[metric])
    return {cell: max(rates.values(), key=lambda s, cell=cell: _order(s, cell[2])) for cell, rates in runs.items()}


def _order(scores: list[float], metric: str) -> tuple[int, float]:
    mean = statistics.fmean(scores)
    return len(scores), -mean if metric in LESS else mean


def table(found: dict[Cell, list[float]]) -> str:
    """Markdown: a row for each task, network and method, a column for each allowance."""
    allowances = sorted({cell[4] for cell in found})
    lines = [
        f"| task | network | method | {' | '.join(f'{n:,} batches' for n in allowances)} |",
        f"| --- | --- | --- |{' --- |' * len(allowances)}",
    ]
    places = sorted({cell[:3] for cell in found})
    for task, network, metric in places:
        for method in STYLES:
            cells = [found.get((task, network, metric, method, n)) for n in allowances]
            if any(cells):
                scores = [told(s or (), 3) for s in cells]
                lines.append(f"| {task} ({metric}) | {network} | {method} | {' | '.join(scores)} |")
    return "\n".join(lines)


def draw(found: dict[Cell, list[float]], file: Path) -> None:
    places = sorted({cell[:3] for cell in found})
    with page(file, (4.2 * len(places) + 1.2, 3.4)) as figure:
        panels = figure.subplots(1, len(places), squeeze=False)[0]
        for ax, (task, network, metric) in zip(panels, places, strict=True):
            for method, (color, marker, line) in STYLES.items():
                points = sorted((c[4], s) for c, s in found.items() if c[:4] == (task, network, metric, method))
                if points:
                    means = [mean_and_error(scores) or (math.nan, None) for _, scores in points]
                    ax.errorbar(
                        [n for n, _ in points],
                        [mean for mean, _ in means],
                        yerr=[error or 0.0 for _, error in means],
                        color=color,
                        marker=marker,
                        linestyle=line,
                        markersize=4,
                        label=method,
                    )
            over_decades(ax)
            ax.set_xticks(allowed := sorted({c[4] for c in found}), [f"{n:,}" for n in allowed])
            ax.set_xlabel("forward passes that training may ask")
            ax.set_ylabel(metric)
            ax.set_title(f"{task}, {network}", loc="left", fontweight="bold", fontsize=10)
        handles = {label: h for ax in panels for h, label in zip(*ax.get_legend_handles_labels(), strict=True)}
        figure.legend([*handles.values()], [*handles], loc="outside right center", frameon=False)


def main() -> None:
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    found = best(Path(sys.argv[1]))
    print(table(found))
    draw(found, Path(sys.argv[2]))


if __name__ == "__main__":
    main()
