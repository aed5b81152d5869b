"""The one schema of results: an entry of summary.json, a line of results.jsonl and the return value of `train`.

| name | value |
| --- | --- |
| `task`, `network` | names; `network` is None for a task with only one network |
| `method`, `device`, `seed` | the trial within its grid |
| `allowance` | `{rows, programmings}` that training could use; None if the steps of the task ended it |
| `metric` | the name of the score by which methods are compared; all scores are entries by their names |
| `gap_closed` | `(score − frozen) / (oracle − frozen)`; None if a reference is missing |
| `steps`, `planned_steps` | optimizer steps made; steps of the task without an allowance |
| `rows`, `programmings` | counts by purpose |
| `row_overhead`, `programming_overhead`, `lab_seconds`, `joules` | see `Bill`; `joules` where known |
| `actions` | units of capabilities, such as pulses, by name; missing where there are none |
| `found` | of devices that were asked first, their family and the chosen method; missing where there is none |

If the device or the allowance does not suit the method, the result has `refused`, the reason, and no scores.
results.jsonl adds `format`, `trial` (the configuration), `batches` and `rate`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

RESULT_FORMAT = "blackprop result 1"
PARTS = ("method", "device", "seed")


def tag(entry: Any) -> tuple[Any, ...]:
    """Return the method, device and seed of a result, a line of metrics or a key."""
    return tuple(entry.get(name) for name in PARTS)


def gap(score: float, ends: tuple[float, float] | None) -> float | None:
    """Return `(score − frozen) / (oracle − frozen)`; None if `ends` (frozen, oracle) are unknown or equal to 1e-9."""
    low, high = ends or (0.0, 0.0)
    return (score - low) / (high - low) if abs(high - low) > 1e-9 else None


def is_trial(entry: Any) -> bool:
    """Return whether the entry has a method, a device and a seed, which identify a trial of a grid."""
    if not isinstance(entry, Mapping):
        return False
    return all(isinstance(entry.get(name), str) for name in PARTS[:2]) and type(entry.get("seed")) is int


def is_number(value: Any) -> bool:
    """Return whether the value is a number. The score of a training that diverged may be NaN."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def number(value: Any) -> float | None:
    """Return the value as a finite number, or None."""
    if not is_number(value):
        return None
    try:
        return found if math.isfinite(found := float(value)) else None
    except OverflowError:  # integers in JSON may have any size
        return None


def is_result(entry: Any, metric: str) -> bool:
    """Return whether the entry identifies its trial and has a score."""
    return is_trial(entry) and number(entry.get(metric)) is not None
