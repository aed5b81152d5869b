"""The range of θ that response curves are known over."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration

EDGE = 0.15  # rad of the angle that spans a range, kept clear of its ends, where dθ/du vanishes


@dataclass(frozen=True)
class Range:
    """The range of θ that curves are known over, as turns of it: a period is gone through once; limits, or their
    substitutes, there and back, `middle + half · cos(2π turn)`.
    """

    periodic: bool
    low: Tensor  # (1,) or (P,)
    high: Tensor

    @classmethod
    def of(cls, spec: Declaration, theta: Tensor, per_element: bool) -> Range:
        """The range of a calibration that starts at `theta` (P,)."""
        size = theta.numel() if per_element else 1
        if periodic(spec):
            return cls(True, theta.new_zeros(size), theta.new_full((size,), float(spec.theta.period or 0)))
        return cls(False, *(limit.expand(size) for limit in spec.theta.range_around(theta)))

    def setting(self, turns: Tensor) -> Tensor:
        """θ at `turns` (..., P)."""
        if self.periodic:
            return self.low + (self.high - self.low) * turns
        return (self.low + self.high) / 2 + (self.high - self.low) / 2 * (2 * math.pi * turns).cos()

    @cached_property
    def _width(self) -> float | None:
        """The period, where curves are known over one."""
        return float(self.high - self.low) if self.periodic and self.low.numel() == 1 else None

    def places(self, theta: Tensor, points: int) -> tuple[Tensor, Tensor | float, Tensor | None]:
        """Of θ (P,): the places on a turn of so many points, `d turns / dθ`, and how far θ is beyond its place; None
        where it is never beyond.
        """
        if self._width is not None:
            return theta * (points / self._width), 1 / self._width, None  # a period begins at 0
        turns, per_theta, beyond = self.turns(theta)
        return turns * points, per_theta, None if self.periodic else beyond

    def turns(self, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of θ (P,): the turns, `d turns / dθ`, and how far θ is beyond the place of reading, near the ends."""
        if self.periodic:
            width = self.high - self.low
            return (theta - self.low) / width, 1 / width, torch.zeros_like(theta)
        half = (self.high - self.low) / 2
        clear = half * (1 - math.cos(EDGE))
        inside = theta.clamp(self.low + clear, self.high - clear)
        angle = ((inside - self.low - half) / half).clamp(-1, 1).acos()
        return angle / (2 * math.pi), -1 / (2 * math.pi * half * angle.sin()), theta - inside


def periodic(spec: Declaration) -> bool:
    """Whether θ has a period, and no limits within it."""
    return spec.theta.period is not None and not spec.theta.limited
