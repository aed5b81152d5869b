"""Tables for the terminal, from the content of summary.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from rich import box
from rich.table import Table

from blackprop.core._ledger import in_joules
from blackprop.experiments.report._means import told

_SCORES = {"accuracy": ("accuracy\n%", 100.0, 1), "validation_loss": ("loss\nnats", 1.0, 3)}  # header, unit, digits
_RIGHT = ("gap\nclosed", "row\noverhead", "program.\noverhead", "lab\ntime")


def results_table(summary: Mapping[str, Any]) -> Table:
    """Make a table of method × device: the score as mean ± standard error over the seeds, and the mean costs.

    `summary` is the content of summary.json in a run folder.
    """
    task = " ".join(str(summary[name]) for name in ("task", "network") if summary.get(name))
    table = Table(title=task, title_justify="left", box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for name in ("device", "method", "seeds"):
        table.add_column(name, justify="right" if name == "seeds" else "left", no_wrap=True)
    metric = summary.get("metric", "accuracy")
    energy = ["energy"] if any("joules" in result for result in summary["results"]) else []
    for name in (_SCORES[metric][0], *_RIGHT, *energy):
        table.add_column(name, justify="right", no_wrap=True)
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for result in sorted(summary["results"], key=lambda r: _first_of(summary, "device", r["device"])):
        groups.setdefault((result["device"], result["method"]), []).append(result)
    previous = None
    for (device, method), results in groups.items():
        if previous not in {None, device}:
            table.add_section()
        row = "" if device == previous else device, method, str(len(results)), *_figures(results, metric)
        table.add_row(*row, *([_energy(results)] if energy else []))
        previous = device
    return table


def reservoir_table(results: Sequence[Mapping[str, Any]]) -> Table:
    """Make a table of task and method × allowance: the score as mean ± standard error over the seeds."""
    allowances = sorted({result["batches"] for result in results})
    table = Table(
        title="reservoirs, by allowance: programmings, each with the rows of a batch",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for name in ("task", "network", "device", "method", "score"):
        table.add_column(name, no_wrap=True)
    for batches in allowances:
        table.add_column(f"{batches} batches", justify="right", no_wrap=True)
    groups: dict[tuple[str, ...], dict[int, list[Mapping[str, Any]]]] = {}
    for result in results:
        key = tuple(result[name] for name in ("task", "network", "device", "method", "metric"))
        groups.setdefault(key, {}).setdefault(result["batches"], []).append(result)
    previous: tuple[str, ...] = ()
    for (*place, method, metric), by in groups.items():
        if previous and previous != (*place,):
            table.add_section()
        first = ("", "", "", method, "") if previous == (*place,) else (*place, method, metric)
        table.add_row(*first, *(_score(by.get(batches, ()), metric) for batches in allowances))
        previous = (*place,)
    return table


def _score(results: Sequence[Mapping[str, Any]], metric: str) -> str:
    """Return mean ± standard error, or a dash if the allowance does not cover one step."""
    found = [result[metric] for result in results if metric in result]
    if not found:
        return "–"
    return told(found, 3)


def price_table(title: str, bills: Mapping[tuple[str, str], Mapping[str, Any]]) -> Table:
    """Make a table of the cost of runs: a row for each (device, method) and purpose with queries, then the totals.

    A bill has `rows` and `programmings` by purpose, `row_overhead`, `programming_overhead`, `lab_seconds` and, where
    known, `joules`.
    """
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for name in ("device", "method", "purpose"):
        table.add_column(name, no_wrap=True)
    energy = ["energy"] if any("joules" in bill for bill in bills.values()) else []
    for name in ("rows", "programmings", "lab time", *energy):
        table.add_column(name, justify="right", no_wrap=True)
    for (device, method), bill in bills.items():
        table.add_section()
        first = (device, method)
        for purpose, rows in bill["rows"].items():
            programmings = bill["programmings"][purpose]
            if rows or programmings:
                table.add_row(*first, purpose, f"{rows:,}", f"{programmings:,}")
                first = ("", "")
        rows, programmings = (sum(bill[count].values()) for count in ("rows", "programmings"))
        costs = [duration(bill["lab_seconds"]), *(_energy([bill]) for _ in energy)]
        table.add_row("", "", "total", f"{rows:,}", f"{programmings:,}", *costs)
        table.add_row("", "", "overhead", _ratio(bill["row_overhead"]), _ratio(bill["programming_overhead"]))
    return table


def duration(seconds: float) -> str:
    """Format seconds in a suitable unit."""
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.3g} s"


def _figures(results: Sequence[Mapping[str, Any]], metric: str) -> tuple[str, ...]:
    _, unit, digits = _SCORES[metric]
    scores = [unit * result[metric] for result in results]
    gaps = [result["gap_closed"] for result in results]
    gap = "" if None in gaps else f"{fmean(gaps):.2f}"
    means = [fmean(result[name] for result in results) for name in ("row_overhead", "programming_overhead")]
    lab = fmean(result["lab_seconds"] for result in results)
    return told(scores, digits), gap, *map(_ratio, means), duration(lab)


def _energy(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the mean energy, or a dash if a device declares none."""
    found = [result["joules"] for result in results if "joules" in result]
    return in_joules(fmean(found)) if len(found) == len(results) else "–"


def _ratio(value: float) -> str:
    return f"{value:.3g}"


def _first_of(summary: Mapping[str, Any], name: str, value: str) -> int:
    """Return the position of a device in a summary, so that sorting keeps the order."""
    return list(dict.fromkeys(result[name] for result in summary["results"])).index(value)
