"""What benchmarks/field/bench.py found, as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

Result = dict[str, Any]


def with_factors(results: Sequence[Result]) -> list[Result]:
    """The results with their allowance as a factor of a plain run's."""
    return [{**result, "factor": result["batches"] // result["planned_steps"]} for result in results]


def chosen(known: Sequence[Result]) -> list[Result]:
    """Of all that is kept, the results at the rate that was chosen, also where the grid is not finished."""
    groups: dict[tuple[Any, ...], list[Result]] = {}
    for result in known:
        groups.setdefault(tuple(result[name] for name in ("task", "factor", "device", "method", "batches")), []).append(
            result
        )
    found = []
    for results in groups.values():
        best = max((r for r in results if r["seed"] == 0), key=lambda result: result.get("accuracy", 0.0))
        found += [result for result in results if result["rate"] == best["rate"]]
    return found


def table(results: Sequence[Result], methods: Sequence[str], kinds: Sequence[str]) -> str:
    """Markdown: for each task and factor the accuracies in %, mean ± standard deviation over the seeds, and below all
    of them why a method could not serve a device; empty is what was not run.
    """
    parts, reasons = [], {}
    for task, factor in sorted({(r["task"], r["factor"]) for r in results}):
        some = [r for r in results if (r["task"], r["factor"]) == (task, factor)]
        devices = in_order((r["device"] for r in some), kinds)
        lines = [
            f"**{task}, ×{factor}**",
            "",
            f"| method | {' | '.join(devices)} |",
            "|" + " --- |" * (len(devices) + 1),
        ]
        for method in in_order((r["method"] for r in some), methods):
            cells = [[r for r in some if (r["device"], r["method"]) == (device, method)] for device in devices]
            lines.append(f"| {method} | {' | '.join(map(entry, cells))} |")
            for result in (r for cell in cells for r in cell if "refused" in r):
                devices_of = reasons.setdefault((method, result["refused"]), {})
                devices_of[f"{result['device']} ({task})"] = None
        parts.append("\n".join(lines))
    told = [f"- {method}, {', '.join(where)}: {reason}" for (method, reason), where in reasons.items()]
    return "\n\n".join([*parts, "\n".join(told)] if told else parts)


def in_order(names: Iterable[str], order: Sequence[str]) -> list[str]:
    return sorted(set(names), key=order.index)


def entry(results: list[Result]) -> str:
    """One cell of the table; with a star where there is one seed alone."""
    if not results:
        return ""
    if "refused" in results[0]:
        return "–"
    values = [100 * result["accuracy"] for result in results]
    return f"{statistics.fmean(values):.1f} ± {statistics.stdev(values):.1f}" if values[1:] else f"{values[0]:.1f}*"
