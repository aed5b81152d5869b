"""The capability of a mesh with a power tap behind each phase shifter."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from blackprop.core.capabilities._capability import Capability, Shape
from blackprop.core.capabilities._drives import check_fields
from blackprop.errors import ArgumentError

if TYPE_CHECKING:
    from blackprop.core._declaration import Declaration


@dataclass(frozen=True)
class Taps(Capability):
    """Rows of complex fields at all N inputs (2, N), real and imaginary part; read are the powers (K,) at K taps.

    A tap sits behind a phase shifter and reads `P = |a|²` of the field a there. The device is linear, `y = Re(U x)`,
    and its real rows enter with the phase 0 at the first d_in of the N inputs. The device class has a method
    `tap_powers(x)`, which sends the rows at the setting that the device holds.

    Parameters and taps come in equal units, such as the interferometers of a mesh, in the order of θ. Each unit has the
    same `combination`: a parameter acts on the output as phases at the taps of its shifters do, with these weights. A
    push-pull shifter, which advances one arm and retards the other, has the weights 1 and −1.

    **Arguments:**

    - `modes`: N.
    - `units`: their number.
    - `combination` (parameters of a unit, taps of a unit): the weights.
    - `transmission` (default (), lossless): the nominal share of the input power that loss leaves at the taps, in runs
      of equal units: the number of units, then the share at each tap of a unit, in (0, 1].
    - `noise` (default 0): standard deviation of a reading, relative to the reading.
    - `law` (default (), the parameters are phases in rad): the coefficients c₀, c₁, … of the nominal phase `Σ c_n θⁿ`
      of a parameter, such as a heater's voltage.

    **Raises** `ArgumentError` for sizes that do not fit together.
    """

    name: ClassVar[str] = "taps"
    per_parameter: ClassVar[bool] = True

    modes: int
    units: int
    combination: tuple[tuple[float, ...], ...]
    transmission: tuple[tuple[float, ...], ...] = ()
    noise: float = 0.0
    law: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name in ("combination", "transmission"):  # lists where it comes from a wire
            object.__setattr__(self, name, tuple(tuple(row) for row in getattr(self, name)))
        object.__setattr__(self, "law", tuple(self.law))
        if not all(map(math.isfinite, self.law)):
            raise ArgumentError(f"`Taps(law=...)` has finite coefficients, got {self.law}")
        if self.modes < 1 or self.units < 1:
            raise ArgumentError(f"`Taps` needs at least one mode and one unit, got {self.modes} and {self.units}")
        widths = {len(row) for row in self.combination}
        if len(widths) != 1 or 0 in widths:
            raise ArgumentError(f"`Taps(combination=...)` has equal rows of weights, got {self.combination}")
        if not 0 <= self.noise < math.inf:
            raise ArgumentError(f"`Taps(noise=...)` must be finite and not negative, got {self.noise}")
        runs = self.transmission
        if runs and sum(run[0] for run in runs) != self.units:
            raise ArgumentError(f"`Taps(transmission=...)` describes all {self.units} units, got {runs}")
        if any(len(run) != 1 + self.per_unit or not all(0 < share <= 1 for share in run[1:]) for run in runs):
            raise ArgumentError(
                f"`Taps(transmission=...)` has runs of a number of units and {self.per_unit} shares in (0, 1], got "
                f"{runs}"
            )

    @property
    def per_unit(self) -> int:
        """Taps of a unit."""
        return len(self.combination[0])

    @property
    def parameters(self) -> int:
        """Parameters of all units, P."""
        return self.units * len(self.combination)

    def row_shape(self, spec: Declaration) -> Shape:
        del spec
        return (2, self.modes)

    def reading_shape(self, spec: Declaration) -> Shape:
        del spec
        return (self.units * self.per_unit,)

    def perform(self, device: Any, x: Tensor, /) -> Tensor:
        return device.tap_powers(x)

    def check_rows(self, x: Tensor, spec: Declaration) -> None:
        check_fields(self.name, x, spec)

    def combined(self, taps: Tensor) -> Tensor:
        """The derivatives (P,) for the parameters from those (K,) for a phase at each tap."""
        weights = taps.new_tensor(self.combination)
        return (taps.unflatten(0, (self.units, self.per_unit)) @ weights.mT).flatten()

    def slopes(self, theta: Tensor) -> Tensor | None:
        """The nominal `∂phase/∂θ` (P,) of each parameter; None where parameters are phases."""
        if not self.law:
            return None
        return sum((n * c * theta ** (n - 1) for n, c in enumerate(self.law) if n), torch.zeros_like(theta))

    def shares(self, like: Tensor) -> Tensor | None:
        """The nominal transmission at each tap (K,); None where the device is lossless."""
        if not self.transmission:
            return None
        counts = torch.tensor([int(run[0]) for run in self.transmission], device=like.device)
        return like.new_tensor([run[1:] for run in self.transmission]).repeat_interleave(counts, 0).flatten()
