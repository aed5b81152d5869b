"""The chart of what benchmarks/field/bench.py found."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import product, zip_longest
from pathlib import Path

from bench_table import Result, in_order
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from blackprop.experiments.report._look import DASHES, FAINT, INK, bare, page, with_rows

ACROSS = 3
STYLES = (("#0072b2", "o", -0.16), ("#d55e00", "D", 0.16))  # of the allowances in turn, and where in a method's strip


def draw(results: Sequence[Result], methods: Sequence[str], kinds: Sequence[str], file: Path) -> None:
    """A panel for each task and device, as `file` (.svg, .png or .pdf)."""
    factors = sorted({r["factor"] for r in results})[: len(STYLES)]
    names = [m for m in in_order({r["method"] for r in results}, methods) if m not in DASHES]
    panels = [
        (task, kind)
        for task in sorted({r["task"] for r in results})
        for kind in in_order({r["device"] for r in results if r["task"] == task}, kinds)
    ]
    down = -(-len(panels) // ACROSS)
    with page(file, (9, 0.9 + down * (0.6 + 0.21 * len(names)))) as figure:
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


def _panel(ax: Axes, names: Sequence[str], factors: Sequence[int], results: list[Result]) -> None:
    """Methods one below the other, means and standard deviations at each allowance; references as lines."""
    bare(ax)
    with_rows(ax)
    ax.set_xlim(0, 103)
    ax.set_ylim(-0.6, len(names) - 0.4)
    for (reference, dashes), (factor, (colour, *_)) in product(DASHES.items(), zip(factors, STYLES, strict=False)):
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
    lines = [Line2D([], [], color=INK, linewidth=1, linestyle=dashes, label=name) for name, dashes in DASHES.items()]
    return [*marks, *lines, Line2D([], [], color=FAINT, marker="x", linestyle="none", label="cannot serve the device")]
