"""Rows whose sums and multiples tell linear devices, quadratic ones and others apart."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.planning.inquiry._bounds import factor, rms

COPIES = 4  # how often each row is read
SUMMED = 16  # inputs and outputs, at least, that each sum is judged by: where there are few, more rows are sent
BENT = 0.01  # of the readings: the largest deviation from linear that is tolerated, since it costs gradients little
SEEN = 0.03  # a deviation that must be seen for the answer to be sure
EXACT = 1e-4  # of the readings: a dark level that is not rounding


def rows_needed(spec: Declaration) -> int:
    """Return how many rows `Sums` has."""
    return 1 + 6 * _pairs(spec)


def _pairs(spec: Declaration) -> int:
    return math.ceil(SUMMED / min(SUMMED, spec.d_in, spec.d_out))


@dataclass
class Sums:
    """The row 0, and for each of some pairs the rows a, b, a + b, 2a, a/2 and −a; and the conclusions.

    - `even`: whether −a is within the limits; 0 is sent in its place where it is not.
    - `power`: 1 where the device is linear in x up to a constant, 2 where it is quadratic, else 0.
    - `spread`: standard deviation of a reading; `noise`, relative to the root mean square of those of a and b.
    - `dark` (d_out,): the readings of the row 0 where they exceed the noise, else None.
    - `sure`: whether a deviation of 3 % would have been seen.
    """

    rows: Tensor
    even: bool
    power: int = 0
    spread: float = 0.0
    noise: float = 0.0
    dark: Tensor | None = None
    sure: bool = False

    @classmethod
    def drawn(cls, spec: Declaration, amplitude: float, generator: torch.Generator, like: Tensor) -> Sums:
        """Draw the pairs; 2a is about twice as large as the rows of training where the limits allow it."""
        low, high = spec.x_range
        drawn = torch.rand(2, _pairs(spec), spec.d_in, generator=generator, device=generator.device).to(like)
        room = max(0.0, min(high, 2 * math.sqrt(3) * amplitude))
        even = low <= -room
        a, b = (room / 2 * (2 * drawn - 1 if even else drawn)).unbind()
        sent = torch.stack((a, b, a + b, 2 * a, a / 2, -a if even else 0 * a)).flatten(0, 1)
        return cls(torch.cat((torch.zeros_like(sent[:1]), sent)).clamp(low, high), even)

    def take(self, readings: list[Tensor]) -> None:
        """Conclude from the readings (rows, d_out), one tensor for each time that the rows were read."""
        y = torch.stack(readings)
        mean = y.mean(0)
        degrees = (len(y) - 1) * mean.numel()
        self.spread = math.sqrt(float((y - mean).square().sum()) / degrees)
        zero, lit = mean[0], mean[1:].unflatten(0, (6, -1))
        unit = self.spread / math.sqrt(len(y))  # of the mean of one row
        bound = factor(lit[0].numel(), degrees) * unit
        dark = rms(zero) > factor(len(zero), degrees) * unit + EXACT * rms(lit[3])
        self.power = self._power(lit - zero if dark else lit, bound, int(dark))
        if not self.power and not dark:  # a dark level below the noise of one row may show in sums of several
            self.power, dark = self._power(lit - zero, bound, 1), True
        self.dark = zero if dark else None
        _, b, _, twice, _, _ = lit = lit - zero if dark else lit
        self.noise = self.spread / (rms(torch.stack((lit[0], b))) or 1.0)
        self.sure = rms(lit[0]) > bound and math.sqrt(5 + int(dark)) * bound < (SEEN - BENT) * rms(twice)

    def _power(self, lit: Tensor, bound: float, constant: int) -> int:
        """1 where sums and multiples of the readings (6, pairs, d_out) are those of a linear device, 2 of a quadratic
        one, else 0. `bound` is the largest noise of a mean, `constant` whether that of the dark level comes on top.
        """
        a, b, both, twice, half, minus = lit
        # Each error, the variance of its noise in that of a mean, and the readings that it is relative to.
        linear = [
            (both - a - b, 3 + constant, both),
            (twice - 2 * a, 5 + constant, twice),
            (half - a / 2, 1.25 + constant, a),
            *([(minus + a, 2 + 4 * constant, a)] if self.even else []),
        ]
        quadratic = [
            (twice - 4 * a, 17 + 9 * constant, twice),
            (half - a / 4, 1.07 + constant, a),
            *([(minus - a, 2, a)] if self.even else []),
        ]
        passes = [
            all(rms(error) <= math.sqrt(power) * bound + BENT * rms(of) for error, power, of in errors)
            for errors in (linear, quadratic)
        ]
        return 1 if passes[0] else 2 if passes[1] and rms(a) > bound else 0
