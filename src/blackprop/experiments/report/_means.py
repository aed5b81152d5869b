"""Means over seeds, with their standard errors."""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import fmean, stdev

Mean = tuple[float, float | None]


def mean_and_error(values: Iterable[float | None]) -> Mean | None:
    """Return the mean and its standard error `s/√n`, None for one value. Return None if a value is missing."""
    values = list(values)
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    return fmean(known), stdev(known) / math.sqrt(len(known)) if len(known) > 1 else None


def told(values: Iterable[float], digits: int) -> str:
    """Format the mean and its standard error, for example "0.912 ± 0.004". A single value has no error."""
    mean = mean_and_error(values)
    if mean is None:
        return ""
    error = f" ± {mean[1]:.{digits}f}" if mean[1] is not None else ""
    return f"{mean[0]:.{digits}f}{error}"
