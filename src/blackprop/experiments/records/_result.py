"""The one schema of results: an entry of summary.json, a line of results.jsonl and the return value of `train`.

| name | value |
| --- | --- |
| `task`, `network` | names; `network` is None for a task that has one network alone |
| `method`, `device`, `seed` | which trial of its grid |
| `allowance` | `{rows, programmings}` that training might ask, None where the task's steps decided |
| `metric` | the score that methods are compared by; beside it stand all scores by their names |
| `gap_closed` | `(score − frozen) / (oracle − frozen)`; None where a reference is missing |
| `steps`, `planned_steps` | optimizer steps made; those of the task when no allowance ends it |
| `rows`, `programmings` | counts by purpose |
| `row_overhead`, `programming_overhead`, `lab_seconds` | see `Bill` |

A trial that its device or allowance refuses has `refused`, the reason, and no scores. results.jsonl adds `format`,
`trial` (all that decides the result), `batches` and `rate`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

RESULT_FORMAT = "blackprop result 1"
PARTS = ("method", "device", "seed")


def tag(entry: Any) -> tuple[Any, ...]:
    """The method, device and seed of a result, a line of metrics or a key."""
    return tuple(entry.get(name) for name in PARTS)


def gap(score: float, ends: tuple[float, float] | None) -> float | None:
    """`(score − frozen) / (oracle − frozen)`; None where `ends`, the two, are not known, or do not differ by 1e-9."""
    low, high = ends or (0.0, 0.0)
    return (score - low) / (high - low) if abs(high - low) > 1e-9 else None


def is_trial(entry: Any) -> bool:
    """Whether the entry names a method, a device and a seed, which tell a trial of a grid from the others."""
    if not isinstance(entry, Mapping):
        return False
    return all(isinstance(entry.get(name), str) for name in PARTS[:2]) and type(entry.get("seed")) is int


def is_number(value: Any) -> bool:
    """Whether the value is a number; a score of a training that ran away may be NaN."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def number(value: Any) -> float | None:
    """A finite number, or None."""
    if not is_number(value):
        return None
    try:
        return found if math.isfinite(found := float(value)) else None
    except OverflowError:  # JSON's integers have no end
        return None


def is_result(entry: Any, metric: str) -> bool:
    """Whether the entry names its trial and has a score."""
    return is_trial(entry) and number(entry.get(metric)) is not None
