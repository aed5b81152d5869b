"""The tables of docs/as-built.md and its chart, from the results of benchmarks/as_built/bench.py."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from built_devices import FAMILIES, Told
from matplotlib.lines import Line2D

from blackprop.experiments.report._look import DASHES, INK, bare, page, with_rows

Result = dict[str, Any]
TUNING = 100  # the seed that rates are chosen on, which is not reported
BEGIN, END = "<!-- tables -->", "<!-- end of the tables -->"
STATES = ("as built", "as designed")
DECLARED, LINEAR, NOTHING = (told.value for told in (Told.ALL, Told.LINEAR, Told.NOTHING))
# A column: its heading, the method, and the declaration that its device keeps.
COLUMNS = (
    ("oracle", "oracle", DECLARED),
    ("frozen", "frozen", DECLARED),
    ("default, declared", "default", DECLARED),
    ("default, linear alone", "default", LINEAR),
    ("default, undeclared", "default", NOTHING),
    ("memory, linear alone", "memory", LINEAR),
    ("published, declared", "paper", DECLARED),
    ("published, undeclared", "paper", NOTHING),
    ("SPSA", "spsa", DECLARED),
    ("SNES", "snes", DECLARED),
    ("sep-CMA", "sep-cma", DECLARED),
)
SHOWN = ((DECLARED, "#0072b2", "o"), (NOTHING, "#d55e00", "D"))
OTHERS = {"spsa": ("SPSA", "v"), "snes": ("SNES", "^"), "sep-cma": ("sep-CMA", "s"), "paper": ("published", "x")}
GREY = "#8a8a8a"


def chosen(results: Sequence[Result]) -> list[Result]:
    """The results at the rate and the variant that are best on the seed of the choice; all where there was none."""
    cells: dict[tuple[Any, ...], list[Result]] = {}
    for each in results:
        place = each["device"], each["method"], each["batches"], each["trial"]["settings"]["size"]
        cells.setdefault(place, []).append(each)
    kept = []
    for some in cells.values():
        tried = [each for each in some if each["seed"] == TUNING]
        best = max(tried, key=lambda each: each.get("accuracy", 0.0), default=None)
        kept += [each for each in some if best is None or variant(each) == variant(best)]
    return kept


def variant(result: Result) -> tuple[float, str]:
    """The rate, and the configuration of the method."""
    return result["rate"], repr(result["trial"].get("method"))


def scores(results: Sequence[Result], factor: int, size: int, state: str, family: str, method: str, told: str):
    """The accuracies in % of the seeds that are reported."""
    device = f"{family}, {state}, {told}"
    return [
        100 * each["accuracy"]
        for each in results
        if each["device"] == device
        and each["method"] == method
        and each["seed"] != TUNING
        and each["batches"] == factor * 220
        and each["trial"]["settings"]["size"] == size
        and "accuracy" in each
    ]


def groups(results: Sequence[Result]) -> list[tuple[int, int, str]]:
    """The allowances, sizes and states that there are."""
    found = {
        (each["batches"] // 220, each["trial"]["settings"]["size"], each["device"].split(", ")[1]) for each in results
    }
    return sorted(found, key=lambda group: (group[0], group[1] != 64, group[1], STATES.index(group[2])))


def error(values: Sequence[float]) -> float:
    """The standard error of the mean, of two values or more."""
    return statistics.stdev(values) / math.sqrt(len(values))


def entry(values: Sequence[float]) -> str:
    if not values:
        return ""
    return f"{statistics.fmean(values):.1f} ± {error(values):.1f}" if values[1:] else f"{values[0]:.1f}*"


def gap(oracle: Sequence[float], frozen: Sequence[float], found: Sequence[float]) -> str:
    """The gap that is closed; empty where the references are within 5 points."""
    if not (oracle and frozen and found):
        return ""
    high, low = statistics.fmean(oracle), statistics.fmean(frozen)
    return f"{(statistics.fmean(found) - low) / (high - low):.2f}" if high - low > 5 else ""


def tables(results: Sequence[Result]) -> str:
    """Markdown: a table for each allowance, size and state, a row for each family of devices."""
    parts, results = [], chosen(results)
    for factor, size, state in groups(results):
        rows = []
        for family in FAMILIES:
            cells = [scores(results, factor, size, state, family, method, told) for _, method, told in COLUMNS]
            if any(cells):
                rows.append((family, cells))
        used = [n for n in range(len(COLUMNS)) if any(cells[n] for _, cells in rows)]
        heads = [COLUMNS[n][0] for n in used]
        lines = [
            f"**{state}, ×{factor}, 64 → {size} → 10**",
            "",
            f"| device | {' | '.join(heads)} | gap, declared | gap, undeclared |",
            "|" + " --- |" * (len(used) + 3),
        ]
        for family, cells in rows:
            oracle, frozen, declared, _, nothing, *_ = cells
            ends = gap(oracle, frozen, declared), gap(oracle, frozen, nothing)
            lines.append(f"| {family} | {' | '.join([*(entry(cells[n]) for n in used), *ends])} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def write(results: Sequence[Result], file: Path) -> None:
    """Write the tables between the two marks of a document."""
    text = file.read_text()
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    assert pattern.search(text), f"{file} has no place for the tables"
    file.write_text(pattern.sub(lambda _: f"{BEGIN}\n\n{tables(results)}\n\n{END}", text))


def draw(results: Sequence[Result], file: Path) -> None:
    """A panel for each allowance, size and state; a row for each family, references as lines across it."""
    results = chosen(results)
    shown = groups(results)
    families = [name for name in FAMILIES if any(each["device"].startswith(f"{name},") for each in results)]
    across = min(2, len(shown))
    down = -(-len(shown) // across)
    with page(file, (4.6 * across, 0.9 + down * (0.7 + 0.26 * len(families)))) as figure:
        axes = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
        for ax, (factor, size, state) in zip(axes.flat, shown, strict=False):
            bare(ax)
            with_rows(ax)
            ax.set_title(f"{state}, ×{factor}, 64 → {size} → 10", loc="left", fontsize=9, fontweight="bold")
            ax.set_xlim(0, 103)
            ax.set_xlabel("test accuracy, %")
            for place, family in enumerate(families):

                def at(method: str, told: str, family: str = family) -> list[float]:
                    return scores(results, factor, size, state, family, method, told)  # noqa: B023

                for reference, dashes in DASHES.items():
                    if values := at(reference, DECLARED):
                        mean = statistics.fmean(values)
                        ax.plot([mean, mean], [place - 0.4, place + 0.4], color=INK, linewidth=1, linestyle=dashes)
                for method, (_, shape) in OTHERS.items():
                    if values := at(method, DECLARED):
                        ax.plot(statistics.fmean(values), place, color=GREY, marker=shape, markersize=4)
                for shift, (told, colour, shape) in zip((-0.15, 0.15), SHOWN, strict=True):
                    if values := at("default", told):
                        mean, spread = statistics.fmean(values), error(values) if values[1:] else None
                        ax.errorbar(mean, place + shift, xerr=spread, color=colour, marker=shape, markersize=5)
        for ax in list(axes.flat)[len(shown) :]:
            ax.set_visible(False)
        for ax in axes[:, 0]:
            ax.set_yticks(range(len(families)), families)
        axes[0, 0].invert_yaxis()
        handles = [
            *(Line2D([], [], color=c, marker=m, linestyle="none", label=f"default, {told}") for told, c, m in SHOWN),
            *(
                Line2D([], [], color=GREY, marker=shape, linestyle="none", label=name)
                for method, (name, shape) in OTHERS.items()
                if any(each["method"] == method for each in results)
            ),
            *(Line2D([], [], color=INK, linewidth=1, linestyle=dashes, label=n) for n, dashes in DASHES.items()),
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=4, frameon=False)
