"""Faults of readings: values that are not finite, outputs at their rails, stuck outputs, outliers."""

from __future__ import annotations

import abc
import enum
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

FALSE_ALARM = 1e-12  # how probable a run of equal values of a healthy output may be, for it to count as stuck
FAR = 30.0  # robust standard deviations from the median, beyond which a row is suspected
ENOUGH = 8  # rows that a median needs
SAMPLE = 128  # rows that it is content with


class ReadingFault(enum.Enum):
    """The faults of a row."""

    NOT_FINITE = "not finite"
    SATURATED = "saturated"
    STUCK = "stuck"
    OUTLIER = "an outlier"


class Detector(abc.ABC):
    """Looks at the joined rows y (rows, d_out) of a round, and again at those that were measured again."""

    finding: ReadingFault
    convicts_at_once = True  # whether the findings of `look` are certain

    @abc.abstractmethod
    def look(self, y: Tensor, differing: Tensor | None) -> Tensor:
        """Return a mask of faults (rows, d_out). `differing` (rows,): whether a row sent differs from the last."""

    @abc.abstractmethod
    def judge(self, old: Tensor, new: Tensor, marked: Tensor) -> Tensor:
        """Return the faults that remain after rows were measured again; `marked`: the faults of the old readings."""


class NotFinite(Detector):
    finding = ReadingFault.NOT_FINITE

    def look(self, y: Tensor, differing: Tensor | None) -> Tensor:
        del differing
        return ~y.isfinite()

    def judge(self, old: Tensor, new: Tensor, marked: Tensor) -> Tensor:
        del old, marked
        return ~new.isfinite()


class Saturated(Detector):
    finding = ReadingFault.SATURATED

    def __init__(self, low: float | None, high: float | None) -> None:
        self._low = -math.inf if low is None else low
        self._high = math.inf if high is None else high

    def look(self, y: Tensor, differing: Tensor | None) -> Tensor:
        del differing
        return (y <= self._low) | (y >= self._high)

    def judge(self, old: Tensor, new: Tensor, marked: Tensor) -> Tensor:
        del old, marked
        return self.look(new, None)


class Outlier(Detector):
    """Suspected where `|y − median| > 30 s`, convicted where measuring again does not confirm it.

    The median, of each output, is over rows of the round, evenly spaced, and `s = max(1.48 MAD, 0.1 |median|)`, at
    least its median over the outputs. A suspect whose repeat agrees with it, within half its distance
    from the median, is healthy however far out: a healthy device is never found guilty, at any scale, it only reads a
    few rows twice (a noisy one, too, unless its noise alone reaches that far).
    Rounds below 8 rows are not judged.
    """

    finding = ReadingFault.OUTLIER
    convicts_at_once = False

    def __init__(self) -> None:
        self._median = self._scale = torch.zeros(())

    def look(self, y: Tensor, differing: Tensor | None) -> Tensor:
        del differing
        sample = y[:: max(1, len(y) // SAMPLE)].T.contiguous()
        self._median = sample.nanmedian(1).values
        spread = (sample - self._median[:, None]).abs().nanmedian(1).values
        scale = torch.maximum(1.4826 * spread, 0.1 * self._median.abs())
        self._scale = torch.maximum(scale, scale.nanmedian())
        if len(y) < ENOUGH:
            self._scale = torch.full_like(scale, math.inf)
        return self._far(y)

    def judge(self, old: Tensor, new: Tensor, marked: Tensor) -> Tensor:
        del marked
        return self._far(new) & ~self._agree(old, new)

    def convicted(self, old: Tensor, new: Tensor, marked: Tensor) -> Tensor:
        return marked & ~self._agree(old, new)

    def _far(self, y: Tensor) -> Tensor:
        # Where most of all is zero there is no scale to judge by.
        return ((y - self._median).abs() > FAR * self._scale) & (self._scale > 0)

    def _agree(self, old: Tensor, new: Tensor) -> Tensor:
        return (new - old).abs() <= (old - self._median).abs() / 2


class Stuck(Detector):
    """An output that keeps one value, not zero, over so many rows in a row, sent differently from each other, that

    `share^run < 10⁻¹²`, `share = (equal + 9) / (pairs + 10)`: how often the output was equal from row to row so far, in
    `pairs` pairs outside the run. A converter of few levels is thereby allowed longer runs than a
    fine one. Runs below 6 rows, and rows that are sent in separate queries, are not judged. A run goes on from round to
    round; the rows of earlier rounds are out of reach. An output at exactly zero may be dark, and is not judged.
    """

    finding = ReadingFault.STUCK

    def __init__(self, d_out: int) -> None:
        self._counts = {name: torch.zeros(d_out, dtype=torch.int64) for name in ("equal", "pairs", "run")}
        self._last: Tensor | None = None  # (d_out,)

    def look(self, y: Tensor, differing: Tensor | None) -> Tensor:
        assert differing is not None
        self._counts = {name: count.to(y.device) for name, count in self._counts.items()}
        equal, pairs, before = (self._counts[name] for name in ("equal", "pairs", "run"))
        last = y[0] if self._last is None else self._last.to(y)
        shifted = torch.cat((last[None], y[:-1]))
        same = y == shifted
        told = differing[:, None] & ((y != 0) | (shifted != 0))  # a pair that tells something
        grown = (same & told).cumsum(0)
        run = grown - grown.where(~same, -before).cummax(0).values
        share = (equal + 9).double() / (pairs + 10)
        need = (math.log(FALSE_ALARM) / share.log()).ceil()
        hit = run.amax(0) >= need
        ended = before - run[-1]
        self._counts = {
            "equal": torch.where(hit, equal, equal + grown[-1] + ended),
            "pairs": torch.where(hit, pairs, pairs + told.sum(0) + ended),
            "run": torch.where(hit, 0, run[-1]),
        }
        found = torch.zeros_like(same)
        for channel in hit.nonzero().flatten().tolist():
            stretch = (~same[:, channel]).cumsum(0)
            length = torch.zeros_like(run[:, 0]).scatter_reduce(
                0, stretch.clamp(max=len(y) - 1), run[:, channel], "amax"
            )
            found[:, channel] = same[:, channel] & (length[stretch.clamp(max=len(y) - 1)] >= need[channel])
        return found

    def judge(self, old: Tensor, new: Tensor, marked: Tensor) -> Tensor:
        dead = ((new == old) | ~marked).all(0)  # one output that moves again clears it for all its rows
        return marked & dead

    def settle(self, y: Tensor) -> None:
        """Take note of the round as it is handed out."""
        self._last = y[-1].clone()

    def state(self) -> dict[str, Any]:
        return {**self._counts, "last": self._last}

    def load(self, state: Mapping[str, Any]) -> None:
        counts = {name: state[name].clone() for name in self._counts}
        self._counts, self._last = counts, state["last"]
