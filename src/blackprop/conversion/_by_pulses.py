"""Cells that are moved by pulses: write, read, and correct, until the weights are there."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from blackprop.conversion._base import Programmed, Programmer, read_matrix
from blackprop.core._declaration import Declaration
from blackprop.core._procedure import Procedure
from blackprop.core._query import Purpose, Query
from blackprop.core.capabilities._pulse import Pulse
from blackprop.errors import ArgumentError

FILLED = 0.8, 0.5, 0.3  # of the smaller bound: places of the largest weight
WORTH = 0.9  # of the error at one place, below which the next one is tried too
FOLLOW = 0.3  # part of a new step in the estimate of a cell's own
LEAST, WIDEST = 0.2, 5.0  # of the nominal step: the range of that estimate
STILL = 5  # rounds without an improvement after which a tile is left
BETTER = 0.98


@dataclass(frozen=True)
class ByPulses(Programmer):
    """In each round the matrix is read, and a cell that is off by e gets `round(e/Δ)` pulses, until |e| is at most the
    tolerance times the root mean square of the weights, or half of its own step Δ, which is learnt on the way.

    The gain places the largest weight at 0.8 of the smaller bound; if weights stay out of reach, since the bounds of
    cells differ, at 0.5 and at 0.3 of it, as long as that helps. Of several tiles the one with the largest gain is
    written first, and each finer one to the error that is left. Cells that are near enough are not touched,
    so that writing again after drift takes few pulses.

    **Costs** at most `rounds` readings of the matrix and as many groups of pulses for each tile and place.

    **Arguments:**

    - `tolerance` (default 0.02): relative to the root mean square of the weights.
    - `rounds` (default 60): at most, for each tile. A tile is left before, if 5 rounds make it no better.
    - `most` (default 31): pulses that a cell gets in a round.

    **Raises** `ArgumentError` for arguments that are not positive, and `IncompatibleError` for a device without pulses.
    """

    tolerance: float = 0.02
    rounds: int = 60
    most: int = 31

    def __post_init__(self) -> None:
        for name in ("tolerance", "rounds", "most"):
            if not getattr(self, name) > 0:
                raise ArgumentError(f"`ByPulses({name}=...)` must be positive, got {getattr(self, name)}")

    def program(
        self, wanted: Tensor, theta: Tensor, spec: Declaration, generator: torch.Generator
    ) -> Procedure[Programmed]:
        del generator
        pulse = spec.capability(Pulse)
        bound = min(pulse.high, -pulse.low) or max(pulse.high, -pulse.low)
        scale = bound / float(wanted.abs().max())
        best: Programmed | None = None
        at = FILLED[0]
        for filled in FILLED:
            found = yield from self._written(wanted, filled * scale, theta, spec)
            if best is not None and found.error > best.error:
                return (yield from self._written(wanted, at * scale, theta, spec))
            worth = best is None or found.error < WORTH * best.error
            best, at = found, filled
            if found.error <= 2 * self.tolerance or not worth:
                break
        assert best is not None
        return best

    def _written(self, wanted: Tensor, scale: float, theta: Tensor, spec: Declaration) -> Procedure[Programmed]:
        """Write `scale · wanted`, tile by tile, and read the result twice."""
        order = theta.abs().argsort(descending=True)
        for tile in order[: int((theta != 0).sum())].tolist():
            yield from self._write(scale * wanted, tile, theta, spec)
        readings = yield from read_matrix(spec, theta, readings=2)
        return Programmed.of(wanted, theta, readings)

    def _write(self, aim: Tensor, tile: int, theta: Tensor, spec: Declaration) -> Procedure[None]:
        pulse, gain = spec.capability(Pulse), float(theta[tile])
        alone = torch.zeros_like(theta)
        alone[tile] = 1
        near = self.tolerance * float(aim.square().mean().sqrt()) / abs(gain)
        own, least, still = torch.full_like(aim, pulse.granularity), float("inf"), 0
        before: Tensor | None = None
        counts = torch.zeros_like(aim)
        for _ in range(self.rounds):
            (read,) = yield from read_matrix(spec, theta)
            off = (aim - read) / gain
            if before is not None:
                seen = (before - off) / torch.where(counts != 0, counts, torch.inf)  # the change of a pulse
                low, high = LEAST * pulse.granularity, WIDEST * pulse.granularity
                own = torch.where(counts != 0, torch.lerp(own, seen.clamp(low, high), FOLLOW), own)
            size = float(off.square().mean())
            still = 0 if size < BETTER * least else still + 1
            least = min(least, size)
            counts = (off / own).round().clamp(-self.most, self.most)
            counts = torch.where(off.abs() <= (own / 2).clamp_min(near), 0.0, counts)
            if not bool(counts.any()) or still >= STILL:
                return
            before = off
            yield [Query(pulse.counted(counts), alone, Purpose.CALIBRATE, Pulse)]
