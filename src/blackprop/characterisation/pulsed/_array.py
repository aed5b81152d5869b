"""The cells of one tile, read and moved all at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from blackprop.conversion._base import spanning_probes
from blackprop.core._declaration import Declaration
from blackprop.core._probes import Probes
from blackprop.core._procedure import Procedure, in_rounds
from blackprop.core._query import Purpose, Query
from blackprop.core.capabilities._pulse import Pulse

AT_ONCE = 256  # trains of a query
END = 0.05  # of the way so far: a doubling of the pulses that moves less has reached a bound
MOST = 2**14  # pulses in one direction


@dataclass(eq=False)
class Array:
    """The cells of a tile, at the setting with its gain alone."""

    spec: Declaration
    theta: Tensor
    pulse: Pulse
    probes: Probes

    @classmethod
    def of(cls, spec: Declaration, tile: int) -> Array:
        theta = torch.zeros_like(spec.theta.draw(torch.Generator()))
        theta[tile] = 1
        return cls(spec, theta, spec.capability(Pulse), spanning_probes(spec, theta))

    def read(self, readings: int = 1) -> Procedure[Tensor]:
        """Read the weights (readings, d_out, d_in)."""
        query = Query(self.probes.rows, self.theta, Purpose.CALIBRATE)
        answers = yield from in_rounds([query] * readings, self.spec.d_out)
        return torch.stack([self.probes.matrix(y) for y in answers])

    def send(self, sign: float, count: int) -> Procedure[None]:
        """Send so many pulses of one direction to every cell."""
        for first in range(0, count, AT_ONCE):
            size = min(AT_ONCE, count - first)
            yield [self._query(torch.full((size,), sign))]

    def shake(self, pairs: int) -> Procedure[None]:
        """Send pulses up and down in turn."""
        for first in range(0, pairs, AT_ONCE // 2):
            size = min(AT_ONCE // 2, pairs - first)
            yield [self._query(torch.tensor([1.0, -1.0]).repeat(size))]

    def wait(self, count: int) -> Procedure[None]:
        """Send queries without a pulse."""
        empty = torch.zeros(1, self.spec.d_in + self.spec.d_out + 1).to(self.theta)
        yield [Query(empty, self.theta, Purpose.CALIBRATE, Pulse)] * count

    def drive(self, sign: float) -> Procedure[tuple[Tensor, int]]:
        """Send pulses of one direction until the cells stay, each time as many as before: the weights there, and the
        number of pulses.
        """
        (start,) = yield from self.read()
        sent, here, span = 4, start, 0.0
        yield from self.send(sign, sent)
        while True:
            (now,) = yield from self.read()
            moved = sign * float((now - here).mean())
            span = max(span, sign * float((now - start).mean()))
            if (moved < END * span and sent > 4) or sent >= MOST or (sent >= 64 and moved <= 0):
                return now, sent
            here = now
            yield from self.send(sign, sent)
            sent *= 2

    def _query(self, signs: Tensor) -> Query:
        lines = torch.ones(len(signs), self.spec.d_in).to(self.theta)
        rows = signs.to(self.theta)[:, None].expand(-1, self.spec.d_out)
        return Query(self.pulse.single(lines, rows), self.theta, Purpose.CALIBRATE, Pulse)


@dataclass(frozen=True, eq=False)
class CellSweep:
    """One way up or down: the weights (readings, d_out, d_in) between equal numbers of pulses."""

    weights: Tensor
    pulses: int  # between two readings

    @property
    def places(self) -> Tensor:
        return (self.weights[1:] + self.weights[:-1]) / 2

    @property
    def steps(self) -> Tensor:
        """The size of a step (readings − 1, d_out, d_in), positive in the direction of the sweep."""
        change = (self.weights[1:] - self.weights[:-1]) / self.pulses
        return change if float(change.mean()) > 0 else -change


def swept(array: Array, sign: float, pulses: int, parts: int) -> Procedure[CellSweep]:
    """Move all cells in one direction by so many pulses, and read after each part of them."""
    each = max(1, math.ceil(pulses / parts))
    (here,) = yield from array.read()
    weights = [here]
    for _ in range(min(parts, pulses)):
        yield from array.send(sign, each)
        (now,) = yield from array.read()
        weights.append(now)
    return CellSweep(torch.stack(weights).double(), each)
