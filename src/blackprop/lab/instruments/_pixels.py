"""From wanted values to grey levels: curves that were measured, and the pixels that carry them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from blackprop.errors import ArgumentError

LEVELS = 256  # of a modulator's grey, uint8


@dataclass(frozen=True)
class Gamma:
    """The measured effect of a modulator at its grey levels: a phase in rad, an intensity, a transmission.

    `Gamma([0, 64, 128, 255], [0.0, 1.2, 2.9, 6.3])` maps a value to the nearest grey level, by linear interpolation.

    - `greys`: grey levels, rising, within 0 to 255.
    - `values`: the effect at each of them, rising or falling all the way.
    - `period` (default None): 2π for a phase. Values are then taken modulo the period, which the curve must cover
      except for one grey level, so that every value can be reached.

    **Raises** `ArgumentError` for points outside these ranges.

    >>> Gamma([0, 255], [0.0, 1.0]).levels(np.array([0.0, 0.5, 1.0]))
    array([  0, 128, 255], dtype=uint8)
    """

    greys: Sequence[float]
    values: Sequence[float]
    period: float | None = None

    def __post_init__(self) -> None:
        greys, values = np.asarray(self.greys, dtype=float), np.asarray(self.values, dtype=float)
        if greys.ndim != 1 or greys.shape != values.shape or len(greys) < 2:
            raise ArgumentError("`Gamma(greys, values)` takes two lists, equally long, of at least 2 points")
        if greys.min() < 0 or greys.max() > LEVELS - 1 or not bool((np.diff(greys) > 0).all()):
            raise ArgumentError(f"`Gamma(greys=...)` must rise, within 0 to {LEVELS - 1}")
        steps = np.diff(values)
        if not (bool((steps > 0).all()) or bool((steps < 0).all())):
            raise ArgumentError("`Gamma(values=...)` must rise all the way, or fall: only then is a grey level known")
        if self.period is not None and not 0 < self.period * (1 - 1.01 / LEVELS) <= self.high - self.low:
            raise ArgumentError(
                f"`Gamma(period=...)`: the values cover {self.high - self.low:.4g}, less than one period of "
                f"{self.period:.4g}; leave the period out, and the ends of the curve are limits"
            )

    @cached_property
    def low(self) -> float:
        return float(min(self.values))

    @cached_property
    def high(self) -> float:
        return float(max(self.values))

    @property
    def limits(self) -> tuple[float, float]:
        """The values that can be shown."""
        return (self.low, self.high) if self.period is None else (-math.inf, math.inf)

    def levels(self, values: NDArray[np.float64]) -> NDArray[np.uint8]:
        """The grey levels that come nearest."""
        if self.period is not None:
            values = self.low + np.mod(values - self.low, self.period)
        order = np.argsort(self.values)
        greys = np.interp(values, np.asarray(self.values)[order], np.asarray(self.greys)[order])
        return np.rint(greys).astype(np.uint8)


@dataclass(frozen=True)
class Region:
    """A rectangle of a modulator's pixels, in blocks of equal size that show one value each.

    **Arguments:**

    - `rows`, `columns`: the pixels, as slices.
    - `blocks`: the number of blocks, (down, across), or n for one row of n.
    - `gamma`: the grey levels of a block's values.
    """

    rows: slice
    columns: slice
    blocks: int | tuple[int, int]
    gamma: Gamma

    @property
    def grid(self) -> tuple[int, int]:
        return (1, self.blocks) if isinstance(self.blocks, int) else self.blocks

    @property
    def size(self) -> int:
        return math.prod(self.grid)

    def check(self, name: str, shape: tuple[int, int]) -> None:
        """Raise unless the blocks fill the region, and the region fits on a modulator of that `shape`."""
        down, across = self._extent(shape)
        inside = all(s.step in {None, 1} and (s.start or 0) >= 0 for s in (self.rows, self.columns)) and all(
            s.stop is None or 0 < s.stop <= n for s, n in zip((self.rows, self.columns), shape, strict=True)
        )
        if not inside:
            raise ArgumentError(f"`{name}`: rows {self.rows}, columns {self.columns} are not on the {shape} modulator")
        if min(self.grid) < 1 or down < 1 or across < 1 or down % self.grid[0] or across % self.grid[1]:
            raise ArgumentError(f"`{name}`: {down} × {across} pixels do not divide into {self.grid} blocks")

    def paint(self, pattern: NDArray[np.uint8], values: Sequence[float]) -> None:
        """Show one value (down · across, row-major) in each block of the `pattern`."""
        down, across = (n // blocks for n, blocks in zip(self._extent(pattern.shape), self.grid, strict=True))
        levels = self.gamma.levels(np.asarray(values)).reshape(self.grid)
        pattern[self.rows, self.columns] = levels.repeat(down, axis=0).repeat(across, axis=1)

    def _extent(self, shape: tuple[int, ...]) -> tuple[int, int]:
        down, across = (len(range(n)[s]) for n, s in zip(shape, (self.rows, self.columns), strict=True))
        return down, across
