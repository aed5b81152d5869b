"""The control parameters of a device: their number, limits, period and initial values."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from blackprop.errors import ArgumentError, IncompatibleError, LimitError, ShapeError

EDGE = 0.01  # of the limits, from which no initial value is drawn
SPREAD = 0.2  # of initial values, where the range of θ is not declared


@dataclass(frozen=True, eq=False)
class ThetaSpec:
    """The control parameters of a device.

    **Arguments:**

    - `size`: the number P of parameters, at least 1.
    - `initial` (default None): a function of a generator that draws the initial values `(P,)`. By default they are
      uniform in the middle 98 % of the limits, so that none starts on a limit; without two limits, in one period;
      without limits and period, in (−0.1, 0.1), because many devices have zero slope at 0; with one limit alone, 0 to
      0.2 inside it.
    - `low`, `high` (default None, no limit): the limits, inclusive, a number or `(P,)`.
    - `period` (default None, unknown): the device gives equal answers at θ and θ + period.
    - `harmonics` (default None, unknown): H, if each output is a constant and H harmonics of that period in each
      single parameter. 1 for a sinusoid, as of a phase shifter that light passes once, or of a rotation of a qubit.

    **Raises** `ArgumentError` for arguments outside these ranges.
    """

    size: int
    initial: Callable[[torch.Generator], Tensor] | None = None
    low: float | Tensor | None = None
    high: float | Tensor | None = None
    period: float | None = None
    harmonics: int | None = None

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ArgumentError(f"`ThetaSpec(size=...)` must be at least 1, got {self.size}")
        if self.period is not None and not self.period > 0:
            raise ArgumentError(f"`ThetaSpec(period=...)` must be positive, got {self.period}")
        if self.harmonics is not None and (self.harmonics < 1 or self.period is None):
            raise ArgumentError(
                f"`ThetaSpec(harmonics=...)` must be at least 1, beside a period, got {self.harmonics} and a period of "
                f"{self.period}"
            )
        for name in ("low", "high"):
            limit = getattr(self, name)
            if isinstance(limit, Tensor) and limit.shape != (self.size,):
                raise ArgumentError(f"`ThetaSpec({name}=...)` must be a number or ({self.size},), got {limit.shape}")
            if limit is not None and bool(torch.as_tensor(limit).isnan().any()):
                raise ArgumentError(f"`ThetaSpec({name}=...)` must not be NaN")
        if self.low is not None and self.high is not None and not bool(torch.as_tensor(self.high > self.low).all()):
            raise ArgumentError("`ThetaSpec(low=..., high=...)`: every low must be under its high")

    @cached_property
    def limited(self) -> bool:
        return self.low is not None or self.high is not None

    def draw(self, generator: torch.Generator) -> Tensor:  # (P,)
        """Draw initial values and check them."""
        if self.initial is None:
            return self._drawn_inside(generator)
        theta = torch.as_tensor(self.initial(generator)).detach().to(torch.get_default_dtype(), copy=True)
        self.check(theta)
        return theta

    def _drawn_inside(self, generator: torch.Generator) -> Tensor:
        u = torch.rand(self.size, generator=generator, device=generator.device)
        low, high = self.bounds(u)
        width = self.period if self.period is not None else SPREAD
        # With one limit, the range begins there; with none, a period begins at 0 and the spread lies about it.
        start = torch.where(low.isfinite(), low, torch.where(high.isfinite(), high - width, 0.0))
        if not self.limited and self.period is None:
            start = start - width / 2
        span = torch.where(low.isfinite() & high.isfinite(), high - low, width)
        return self.clamp(start + span * (EDGE + (1 - 2 * EDGE) * u))

    def bounds(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return the limits as tensors of the dtype and device of `like`, infinite for no limit."""
        low = -math.inf if self.low is None else self.low
        high = math.inf if self.high is None else self.high
        place = {"dtype": like.dtype, "device": like.device}
        return torch.as_tensor(low, **place), torch.as_tensor(high, **place)

    def range_around(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return the limits; for no limit, the range of theta, extended by its width to either side."""
        low, high = self.bounds(theta)
        width = theta.max() - theta.min()
        if not bool(width > 0):
            width = theta.abs().max() + 1
        return low.where(low.isfinite(), theta.min() - width), high.where(high.isfinite(), theta.max() + width)

    def clamp(self, theta: Tensor) -> Tensor:
        """Return the nearest setting within the limits; `theta` itself if it is within them already."""
        return theta.clamp(*self.bounds(theta)) if self.limited else theta

    def interior(self, theta: Tensor, margin: float) -> Tensor:
        """Return the nearest setting at least `margin` inside the limits; a shift of that size stays within them."""
        if not self.limited:
            return theta
        low, high = self.bounds(theta)
        return theta.clamp(low + margin, high - margin)

    def check_reach(self, margin: float) -> None:
        """Raise unless a shift of `margin` to either side fits between the limits."""
        low, high = self.bounds(torch.zeros(()))
        if self.limited and bool((high - low < 2 * margin).any()):
            raise IncompatibleError(
                f"a step that reaches {margin:g} to either side does not fit into the limits; use a smaller step"
            )

    def check_shape(self, theta: Tensor) -> None:
        if theta.shape != (self.size,):
            raise ShapeError(f"a setting of this device has shape ({self.size},), got {tuple(theta.shape)}")

    def check_all(self, settings: Tensor) -> None:
        """Raise unless each of the settings (S, P) may be written to the device."""
        low, high = self.bounds(settings)
        if low.dim() == high.dim() == 0:
            least, most = settings.aminmax() if settings.numel() else (low, high)  # NaN where one is
            inside = (least >= low) & (most <= high)
        else:
            inside = ((settings >= low) & (settings <= high)).all()
        if bool(inside & settings.sum().isfinite()):
            return  # a sum is finite only if every term is
        wrong = (~(settings.isfinite() & (settings >= low) & (settings <= high)).all(1)).nonzero()
        if len(wrong):  # none where the sum of finite numbers overflows
            self.check(settings[int(wrong[0])])

    def check(self, theta: Tensor) -> None:
        """Raise unless `theta` may be written to the device."""
        self.check_shape(theta)
        if bool(theta.sum().isfinite()) and torch.equal(self.clamp(theta), theta):
            return  # a sum is finite only if every term is
        if not bool(theta.isfinite().all()):
            index = int((~theta.isfinite()).nonzero()[0])
            raise LimitError(f"theta[{index}] is {float(theta[index])}: a setting must be finite")
        if not self.limited:
            return
        low, high = self.bounds(theta)
        outside = ((theta < low) | (theta > high)).nonzero()
        if len(outside):
            index = int(outside[0])
            low, high = (digits(limit.expand(self.size)[index]) for limit in (low, high))
            raise LimitError(
                f"theta[{index}] = {digits(theta[index])} is outside the device's limits [{low}, {high}]; "
                f"{len(outside)} of {self.size} parameters are"
            )


def digits(value: Tensor) -> str:
    """A number with as many digits as tell it from its neighbours in its dtype."""
    return str(value.detach().cpu().numpy()[()]).removesuffix(".0")
