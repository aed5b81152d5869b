"""Devices of independent elements: measure the response curves and invert them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from blackprop.conversion._base import Programmed, Programmer, bound, corrected
from blackprop.core._declaration import Declaration
from blackprop.core._procedure import Procedure
from blackprop.errors import ArgumentError
from blackprop.surrogates import CalibratedResponse, Surrogate

GRID = 128  # points of a curve, between which its crossings are searched
HALVINGS = 20  # of the interval of a crossing
PRECISION = 1e-3  # of its range, to which an element is programmed: limits the gain
OCTAVE = 8  # gains tried in each factor of two


@dataclass(frozen=True)
class ByResponse(Programmer):
    """`θ_ij = R_ij⁻¹(W_ij / s)`, with the response curves R_ij that a `CalibratedResponse` measures.

    The gain s minimises the clipped part, `Σ (W_ij − s · nearest response of ij)²`, plus `(s · precision)²` for each
    element, so the weights use the range of the responses as far as possible. s may be negative if the range is not
    symmetric. The difference between the device's readings and the curves is then added to the curves as an offset, up
    to `corrections` times.

    **Costs** the calibration, and up to `corrections + 1` programmings and double readings of the matrix.

    **Arguments:**

    - `curves` (default `CalibratedResponse()`): pass the layer's own surrogate, so that training needs no further
      calibration.
    - `corrections` (default 3): at most.
    """

    curves: CalibratedResponse = field(default_factory=CalibratedResponse)
    corrections: int = 3

    def __post_init__(self) -> None:
        if self.corrections < 0:
            raise ArgumentError(f"`ByResponse(corrections=...)` must not be negative, got {self.corrections}")

    @property
    def surrogate(self) -> Surrogate:
        return self.curves

    def program(
        self, wanted: Tensor, theta: Tensor, spec: Declaration, generator: torch.Generator
    ) -> Procedure[Programmed]:
        bound(self.curves, spec)
        yield from self.curves.start(theta, generator)
        span = _span(spec, theta)

        def response(theta: Tensor) -> Procedure[Tensor]:
            yield from self.curves.track(theta, theta, generator)  # makes no queries so soon after the calibration
            return self.curves.A

        lowest, highest = yield from _range(response, span)
        gain = covering_gain(wanted, lowest, highest)

        def solve(off: Tensor, theta: Tensor) -> Procedure[tuple[Tensor, Tensor]]:
            del theta
            found = yield from _inverted(response, wanted / gain - off, span)
            found = spec.theta.clamp(found)
            return found, (yield from response(found))

        best = yield from corrected(solve, wanted, theta, spec, self.corrections)
        yield from response(best.theta)
        return best


def covering_gain(wanted: Tensor, lowest: Tensor, highest: Tensor) -> float:
    """Return the gain s with which elements of these ranges (d_out, d_in) come closest to the wanted ones."""
    width = float((highest - lowest).mean())
    reach = float(torch.maximum(highest.abs(), lowest.abs()).mean())
    largest = float(wanted.abs().max()) / (reach or 1.0)

    def left(gain: float) -> float:
        nearest = (wanted / gain).clamp(lowest, highest)
        return float((wanted - gain * nearest).square().mean()) + (gain * PRECISION * width) ** 2

    gains = [sign * largest * 2 ** (k / OCTAVE) for k in range(-5 * OCTAVE, 5 * OCTAVE + 1) for sign in (1, -1)]
    return min(gains, key=left)


def _span(spec: Declaration, theta: Tensor) -> tuple[Tensor, Tensor]:
    """The searched range of θ: one period, or the calibrated part of a range."""
    if spec.theta.period is not None and not spec.theta.limited:
        return theta.new_zeros(theta.shape), theta.new_full(theta.shape, spec.theta.period)
    low, high = spec.theta.range_around(theta)
    return low.expand(theta.shape), high.expand(theta.shape)


def _points(span: tuple[Tensor, Tensor]) -> list[Tensor]:
    return [torch.lerp(span[0], span[1], g / GRID) for g in range(GRID + 1)]


def _range(response, span: tuple[Tensor, Tensor]) -> Procedure[tuple[Tensor, Tensor]]:
    """The lowest and the highest response of each element."""
    low = high = yield from response(span[0])
    for theta in _points(span)[1:]:
        value = yield from response(theta)
        low, high = torch.minimum(low, value), torch.maximum(high, value)
    return low, high


def _inverted(response, values: Tensor, span: tuple[Tensor, Tensor]) -> Procedure[Tensor]:
    """Return the first θ (P,) at which each element responds with its value, or the nearest one."""
    left, right = span[0].clone(), span[0].clone()
    before = yield from response(span[0])
    rising = torch.zeros_like(values, dtype=torch.bool)
    crossed = before == values
    nearest = (before - values).abs()
    last = span[0]
    for theta in _points(span)[1:]:
        value = yield from response(theta)
        crossing = ((before < values) != (value < values)) & ~crossed
        closer = ((value - values).abs() < nearest) & ~crossed
        both, either = crossing.flatten(), (crossing | closer).flatten()
        left, right = torch.where(both, last, torch.where(either, theta, left)), torch.where(either, theta, right)
        rising = torch.where(crossing, value > before, rising)
        nearest = torch.where(closer, (value - values).abs(), nearest)
        crossed = crossed | crossing
        before, last = value, theta
    for _ in range(HALVINGS):
        middle = (left + right) / 2
        value = yield from response(middle)
        beyond = ((value > values) == rising).flatten()
        left, right = torch.where(beyond, left, middle), torch.where(beyond, middle, right)
    return (left + right) / 2
