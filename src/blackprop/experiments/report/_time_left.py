"""The number of the current run of several, and the time until all are finished."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from blackprop.experiments.records._result import tag
from blackprop.experiments.report._table import duration

_SURE = 0.02  # share of a run's steps after which its length is estimated


class TimeLeft:
    """Estimate the time left from steps and results. The estimate for a run is the mean time of runs of its method, if
    possible on the same device. There is no estimate until each remaining method has been timed.
    """

    def __init__(
        self,
        trials: Sequence[Mapping[str, Any]],
        finished: Sequence[Mapping[str, Any]] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        done = {tag(result) for result in finished}
        self._total = len(trials)
        self._waiting = [key for trial in trials if (key := tag(trial)) not in done]
        self._seconds: dict[tuple[Any, ...], float] = {}  # times of finished runs
        self._clock, self._last = clock, clock()
        self._at: tuple[Any, ...] | None = None
        self._began, self._first, self._step, self._steps = 0.0, 0, 0, 0

    def step(self, progress: Mapping[str, Any]) -> None:
        if (key := tag(progress)) != self._at:
            self._at, self._began, self._first = key, self._clock(), progress["step"]
        self._step, self._steps = progress["step"], progress["steps"]

    def finished(self, result: Mapping[str, Any]) -> None:
        key, now = tag(result), self._clock()
        self._seconds[key] = now - self._last  # for parallel runs, the time between two ends
        self._last, self._at = now, None
        self._waiting = [each for each in self._waiting if each != key]

    def place(self) -> str:
        """Return for example "run 5 of 16  ", or an empty string for a single run."""
        return f"run {self._total - len(self._waiting) + 1} of {self._total}  " if self._total > 1 else ""

    def left(self) -> str:
        """Return for example "  about 3.2 min left  ", or an empty string if unknown."""
        current, others = self._of_current(), [key for key in self._waiting if key != self._at]
        known = [self._of(key) for key in others]
        if current is None or any(seconds is None for seconds in known):
            return ""
        total = current + sum(seconds or 0.0 for seconds in known)
        return f"  about {duration(max(1.0, round(total)))} left  " if self._waiting else ""

    def _of_current(self) -> float | None:
        """Return the seconds left of the current run: 0 without a current run, None if unknown."""
        if self._at is None:
            return 0.0
        done = self._step - self._first
        if done < max(1, _SURE * self._steps):
            return None
        return (self._clock() - self._began) / done * (self._steps - self._step)

    def _of(self, key: tuple[Any, ...]) -> float | None:
        """Return the expected seconds of a whole run, or None if unknown."""
        method, device, _ = key
        alike = [took for (m, d, _), took in self._seconds.items() if (m, d) == (method, device)]
        alike = alike or [took for (m, *_), took in self._seconds.items() if m == method]
        if not alike and self._at is not None and self._at[0] == method and self._of_current() is not None:
            alike = [(self._clock() - self._began) / (self._step - self._first) * self._steps]
        return fmean(alike) if alike else None
