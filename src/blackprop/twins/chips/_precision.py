"""How many rows and programmings a calibration needs: a law of its errors, and the cheapest that keeps a wanted one."""

from __future__ import annotations

import math
from dataclasses import dataclass

from blackprop.core._declaration import Cost
from blackprop.errors import ArgumentError
from blackprop.twins.chips import _programme

GROWTH = 0.088  # of the exponent, a column: fitted to calibrations of 8 to 64 modes, benchmarks/as_built/chips.py
GAIN = 2.0  # by which the joint fit reduces the residual, at least
LEAST_ROWS, MOST_REPEATS = 16, 12
MANY_HELD_OUT = 16  # settings, where a single block may be missed
HELD_OUT, HELD_ROWS = 4, 8  # settings and rows that the fit does not see; each row is read twice, for the noise


@dataclass(frozen=True)
class Precision:
    """How precisely a chip of N modes is read.

    The laws below are those of plain phases. Heaters of unknown slopes leave more in the growth, and the joint fit does
    the rest, for which it needs settings from their whole range: `Precision.heated(N)`.

    **Arguments:** `rows`, sent at each programming; `repeats`, of each stage, each with the later columns drawn anew;
    `more`, programmings at random settings, for the joint fit alone; `iterations`, of that fit, at most.
    """

    rows: int
    repeats: int = 1
    more: int = 0
    iterations: int = 60

    def __post_init__(self) -> None:
        for name, least in (("rows", 1), ("repeats", 1), ("more", 0), ("iterations", 0)):
            if not getattr(self, name) >= least:
                raise ArgumentError(f"`Precision({name}=...)` must be at least {least}, got {getattr(self, name)}")

    def programmings(self, modes: int, outputs: int | None = None) -> int:
        """How many it takes on a chip of so many modes, of which so many outputs are read (None for all)."""
        return _programme.count(modes, modes if outputs is None else outputs, self.repeats) + self.more + HELD_OUT

    def total_rows(self, modes: int, outputs: int | None = None) -> int:
        """The rows of all of them."""
        return self.rows * (self.programmings(modes, outputs) - HELD_OUT) + 2 * HELD_OUT * HELD_ROWS

    def grown(self, modes: int, noise: float) -> float:
        """The residual to expect of the growth, before the joint fit:

        `σ √(2N / R r) · √((eˣ − 1) / x)` for R rows, r repeats and a relative read noise σ, `x = 0.088 N / r`.

        The first factor is the error from the noise of each column's own readings: σ²/(R r) of variance in each of its
        parameters. A suffix that errs is noise that is the same in all rows: it leaves a variance that only repeats
        average, in proportion to that of the suffix, so that errors grow by a constant factor from column to column.
        """
        x = GROWTH * modes / self.repeats
        return noise * math.sqrt(2 * modes / (self.rows * self.repeats) * math.expm1(x) / x)

    def fitted(self, modes: int, noise: float) -> float:
        """The residual that a fit of all 2N(N − 1) phases and splitters leaves at least, `σ √(parameters / numbers)`.

        As the settings of a growth share the columns before, two to four times as much is left.
        """
        numbers = self.rows * modes * (self.programmings(modes) - HELD_OUT)
        return noise * math.sqrt(2 * modes * (modes - 1) / numbers)

    @classmethod
    def heated(cls, modes: int) -> Precision:
        """For heaters whose slopes err by some per cent and that warm their neighbours: about 24N programmings."""
        return cls(rows=32, repeats=max(2, modes // 4), more=6 * modes, iterations=100)

    @classmethod
    def reaching(cls, residual: float, modes: int, noise: float, cost: Cost | None = None) -> Precision:
        """The cheapest that reaches a relative `residual` at fresh settings: in lab seconds, or rows without a cost.

        The growth may leave `GAIN` times that; the joint fit does the rest. A residual of 0.3 is enough where the
        chip is only to be trained: the online fit does better where training stands.
        """
        if not 0 < residual < math.inf:
            raise ArgumentError(f"`Precision.reaching(residual=...)` must be positive and finite, got {residual}")
        cost = cost if cost is not None and (cost.programming or cost.row) else Cost(row=1.0)

        def price(each: Precision) -> float:
            return cost.programming * each.programmings(modes) + cost.row * each.total_rows(modes)

        options = []
        for repeats in range(1, MOST_REPEATS + 1):
            rows = (cls(rows=1, repeats=repeats).grown(modes, noise) / (GAIN * residual)) ** 2
            options.append(cls(rows=max(LEAST_ROWS, math.ceil(rows)), repeats=repeats))
        return min(options, key=price)
