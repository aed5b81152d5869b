"""Which run of several is at work, and how long the rest of them will take."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from blackprop.experiments.records._result import tag
from blackprop.experiments.report._table import duration

_SURE = 0.02  # the share of a run's steps from which its length is told


class TimeLeft:
    """Told of every step and result. A run takes as long as others of its method have taken, on the same device where
    there are any; nothing is told until each method that is left has been timed.
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
        self._seconds: dict[tuple[Any, ...], float] = {}  # that finished runs took
        self._clock, self._last = clock, clock()
        self._at: tuple[Any, ...] | None = None
        self._began, self._first, self._step, self._steps = 0.0, 0, 0, 0

    def step(self, progress: Mapping[str, Any]) -> None:
        if (key := tag(progress)) != self._at:
            self._at, self._began, self._first = key, self._clock(), progress["step"]
        self._step, self._steps = progress["step"], progress["steps"]

    def finished(self, result: Mapping[str, Any]) -> None:
        key, now = tag(result), self._clock()
        self._seconds[key] = now - self._last  # side by side, runs end that much apart
        self._last, self._at = now, None
        self._waiting = [each for each in self._waiting if each != key]

    def place(self) -> str:
        """Such as "run 5 of 16  "; of a single run, nothing."""
        return f"run {self._total - len(self._waiting) + 1} of {self._total}  " if self._total > 1 else ""

    def left(self) -> str:
        """Such as "about 3.2 min left  ", or nothing."""
        current, others = self._of_current(), [key for key in self._waiting if key != self._at]
        known = [self._of(key) for key in others]
        if current is None or any(seconds is None for seconds in known):
            return ""
        total = current + sum(seconds or 0.0 for seconds in known)
        return f"  about {duration(max(1.0, round(total)))} left  " if self._waiting else ""

    def _of_current(self) -> float | None:
        """The seconds left of the run at work; 0 where there is none."""
        if self._at is None:
            return 0.0
        done = self._step - self._first
        if done < max(1, _SURE * self._steps):
            return None
        return (self._clock() - self._began) / done * (self._steps - self._step)

    def _of(self, key: tuple[Any, ...]) -> float | None:
        """The seconds that a whole run is expected to take, None where they are not known yet."""
        method, device, _ = key
        alike = [took for (m, d, _), took in self._seconds.items() if (m, d) == (method, device)]
        alike = alike or [took for (m, *_), took in self._seconds.items() if m == method]
        if not alike and self._at is not None and self._at[0] == method and self._of_current() is not None:
            alike = [(self._clock() - self._began) / (self._step - self._first) * self._steps]
        return fmean(alike) if alike else None
