"""The device under test: rows, settings, and the separation of differences from noise and drift."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from blackprop.core._probes import within
from blackprop.core._procedure import ROUND_BYTES, Procedure
from blackprop.core._query import Purpose, Query
from blackprop.devices import Device

TOLERANCE = 1e-4  # of the largest output: allowed difference, of single precision and table look-ups
ROWS = 8
NOISELESS = 1e-6  # of the output: the effect of rounding alone


@dataclass(frozen=True)
class Comparison:
    """Changes against controls: the differences of answers, with a change of the setting and without."""

    size: float  # root mean square of the changes
    allowed: float
    worst: float  # largest change
    worst_allowed: float

    @property
    def alike(self) -> bool:
        return self.size <= self.allowed and self.worst <= self.worst_allowed


class DeviceUnderTest:
    """A device under test: its earlier setting, and the knowledge about it so far.

    Declared shapes, limits and initial values are trusted; a declared period is one candidate; other declarations are
    not used.
    """

    def __init__(self, device: Device, scale: float, generator: torch.Generator) -> None:
        self.device, self.scale, self.generator = device, scale, generator
        self.spec = device.declaration
        held = device.programmed
        self.home = self.spec.theta.draw(generator).to(generator.device) if held is None else held.clone()
        self.base = self.home
        self.rows = within(self.spec, self.normal(ROWS, self.spec.d_in) * scale)  # (rows, d_in)
        self.size = 0.0  # root mean square of the outputs at `base`
        self.noise = 0.0  # standard deviation of a reading there
        self.variance = 0.0, 0.0  # of a reading: a, and b times the squared output
        self.quantum = 0.0  # the step to whose multiples readings are rounded, 0 for none
        self.dark = torch.zeros(self.spec.d_out).to(self.home)  # (d_out,): the reading without input
        self.drifts = False
        self.linear = False
        self.period: float | None = None

    # Drawing

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, device=self.generator.device).to(self.home)

    def factors(self, rows: Tensor, most: float) -> tuple[float, float]:
        """Return the range of multiples of the rows, at most `most` to either side, within the limits of the inputs."""
        low, high = self.spec.x_range
        sizes = rows[rows != 0]
        ends = torch.stack((low / sizes, high / sizes)) if sizes.numel() else torch.tensor([[-most], [most]])
        return max(-most, float(ends.amin(0).max())), min(most, float(ends.amax(0).min()))

    def some(self, *shape: int) -> Tensor:
        """Draw numbers from U(0, 1)."""
        return torch.rand(*shape, generator=self.generator, device=self.generator.device).to(self.home)

    def half(self, size: int) -> Tensor:
        """Draw a random half as a mask, neither empty nor full if possible."""
        which = self.some(size) < 0.5
        if size > 1 and bool(which.all() == which.any()):
            which[int(which[0])] = ~which[0]
        return which if size > 1 else torch.ones_like(which)

    def chosen(self, count: int) -> list[int]:
        """Draw distinct parameters."""
        size = self.spec.theta.size
        return torch.randperm(size, generator=self.generator, device=self.generator.device)[:count].tolist()

    def span(self) -> tuple[Tensor, Tensor]:
        """The range of random settings, each limit a number or (P,)."""
        low, high = self.spec.theta.range_around(self.home)
        if self.period is not None and not self.spec.theta.limited:
            return self.home, self.home + self.period
        return low, high

    def anywhere(self) -> Tensor:
        """Draw a setting within the range (P,)."""
        low, high = self.span()
        return self.spec.theta.clamp(low + (high - low) * self.some(self.spec.theta.size))

    @property
    def noisy(self) -> bool:
        return self.noise > NOISELESS * self.size

    @property
    def rounding(self) -> float:
        """The standard deviation of the rounding of a reading, `q/√12`; 0 if noise dithers it."""
        return self.quantum / math.sqrt(12) if 2 * self.noise < self.quantum else 0.0

    @property
    def blur(self) -> float:
        """The standard deviation of a reading by noise and rounding."""
        return math.hypot(self.noise, self.rounding)

    @property
    def checks(self) -> float:
        """The number of checks of moving half of the parameters: a quarter of their number, at most 20."""
        return min(20.0, self.spec.theta.size / 4)

    def shifted(self, theta: Tensor, step: Tensor | float) -> Tensor:
        """Return θ moved by `step`; moves that would leave the limits are reversed, or shortened."""
        low, high = self.spec.theta.bounds(theta)
        there = theta + step
        there = torch.where((there < low) | (there > high), theta - step, there)
        return self.spec.theta.clamp(there)

    @property
    def reach(self) -> Tensor:
        """A large step: a quarter of the period, or else of the range."""
        low, high = self.span()
        return (high - low).max() / 4 if self.period is not None else (high - low) / 4

    # Asking

    def read(self, x: Tensor, theta: Tensor) -> Procedure[Tensor]:
        """Read rows (n, d_in) at θ: (n, d_out)."""
        (y,) = yield [self.query(x, theta)]
        return y.flatten(1)

    def readings(self, x: Tensor, settings: Sequence[Tensor]) -> Procedure[Tensor]:
        """Read the same rows at many settings, in order: (settings, rows, d_out)."""
        found: list[Tensor] = []
        held = 4 * (2 * self.spec.theta.size + x.numel() + len(x) * self.spec.d_out)
        most = max(1, ROUND_BYTES // held)
        rows = x.unflatten(1, self.spec.in_shape)
        for start in range(0, len(settings), most):
            round_ = [Query(rows, theta, Purpose.CALIBRATE) for theta in settings[start : start + most]]
            found += [y.flatten(1) for y in (yield round_)]
        return torch.stack(found)

    def interleaved(
        self, x: Tensor, theta: Tensor, others: Sequence[Tensor], repeats: int = 1
    ) -> Procedure[tuple[Tensor, Tensor]]:
        """Read θ, other, θ, other, …, θ; return the changes and the controls.

        Changes are against the mean of the neighbours at θ; controls are changes of θ against itself, equally noisy.
        Both are (others, rows, d_out), means over the repeats.
        """
        settings = [theta]
        for other in others:
            settings += [other, theta]
        found = yield from self.readings(x.repeat(repeats, 1), settings)
        at, away = found[::2], found[1::2]
        louder = self._louder(away, at)
        at, away = (each.unflatten(1, (repeats, len(x))).mean(1) for each in (at, away))
        return away - (at[1:] + at[:-1]) / 2, louder * (at[1:] - at[:-1])

    def _louder(self, away: Tensor, at: Tensor) -> float:
        """How much noisier larger answers are, by the kind of the noise."""
        a, b = self.variance
        expected = [a + b * rms(y) ** 2 for y in (away, at)]
        return math.sqrt(max(1.0, expected[0] / expected[1])) if expected[1] > 0 else 1.0

    def query(self, x: Tensor, theta: Tensor) -> Query:
        return Query(x.unflatten(1, self.spec.in_shape), theta, Purpose.CALIBRATE)

    def compare(self, changes: Tensor, controls: Tensor, size: float | None = None, scale: float = 1.0) -> Comparison:
        """Compare changes with controls.

        Both include the noise and the drift of the device, the controls slightly more; `size` is the largest output, a
        part of which is always allowed. The effect of rounding on a change, which controls may lack, is allowed too; it
        is `scale` times that of a reading.
        """
        little = TOLERANCE * (size if size is not None else 3 * self.size)
        rounded = math.sqrt(2) * scale * self.rounding * (1 + 2 / math.sqrt(max(1, changes.numel())))
        usual, most = rms(controls), float(controls.abs().max())
        # How many parts are independent: fewer where some scatter more than others, and a drift has few ways to go.
        tails = float(controls.double().pow(4).mean()) / max(usual**4, 1e-300)
        parts = changes.numel() * min(1.0, 3 / max(tails, 1e-300))
        if self.drifts:
            parts = max(1.0, min(parts, len(changes) * min(changes[0].numel(), self.spec.theta.size) / 4))
        # The noise of a change has 3/2 of the variance of a reading and that of a control 2; of drift it is 1/2 to 2.
        allowed = math.sqrt(3 / 4) * usual * (1 + 4 / math.sqrt(parts)) + little / 3
        worst = max(1.5 * most, 5.5 * usual) * (1 + 1 / math.sqrt(parts)) + little
        # A change of one step of the rounding, for a reading at its edge.
        return Comparison(
            rms(changes), math.hypot(allowed, rounded), float(changes.abs().max()), worst + 3.5 * scale * self.rounding
        )


def rms(value: Tensor) -> float:
    return float(value.double().square().mean().sqrt()) if value.numel() else 0.0
