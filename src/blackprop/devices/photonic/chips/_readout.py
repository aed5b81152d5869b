"""Detectors that read the light behind a chip."""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from typing import final

from torch import Tensor

from blackprop.errors import ArgumentError


@dataclass(frozen=True)
class Readout(abc.ABC):
    """Detectors behind a chip: `ports_each` output ports serve one output.

    Noise and converters are wrappers around the chip: `Noisy(read=, shot=)` for thermal and shot noise, `Quantised` for
    the bits.
    """

    ports_each = 1
    linear = False

    @abc.abstractmethod
    def detect(self, field: Tensor, responsivity: Tensor, dark: Tensor) -> Tensor:
        """The outputs (..., n_out, rows) of the complex field (..., ports, rows)."""


@final
@dataclass(frozen=True)
class Field(Readout):
    """The real part of each port's amplitude, as a homodyne detector reads it: `y = Re u`."""

    linear = True

    def detect(self, field: Tensor, responsivity: Tensor, dark: Tensor) -> Tensor:
        del responsivity, dark
        return field.real


@dataclass(frozen=True)
class _Photodiodes(Readout):
    responsivity: float = 0.0
    dark: float = 0.0

    def __post_init__(self) -> None:
        for name in ("responsivity", "dark"):
            if not 0 <= getattr(self, name) < math.inf:
                message = f"`{type(self).__name__}({name}=...)` must be finite and not negative"
                raise ArgumentError(f"{message}, got {getattr(self, name)}")


@final
@dataclass(frozen=True)
class Power(_Photodiodes):
    """A photodiode at each port: `y = (1 + r) |u|² + d`.

    **Arguments:** `responsivity`, the standard deviation of r; `dark`, the mean of the dark level d, in the units of
    power, which is drawn from U(0.5, 1.5) times that.
    """

    def detect(self, field: Tensor, responsivity: Tensor, dark: Tensor) -> Tensor:
        power = field.real.square() + field.imag.square()
        return responsivity.unsqueeze(-1) * power + dark.unsqueeze(-1)


@final
@dataclass(frozen=True)
class Balanced(_Photodiodes):
    """A pair of photodiodes at two neighbouring ports: `y = (1 + r₁) |u₁|² − (1 + r₂) |u₂|² + d₁ − d₂`.

    **Arguments:** those of `Power`. The shot noise of a pair is that of the sum of its powers. `Noisy(shot=)` sees the
    difference and cannot compute it from that: give `Noisy` the thermal noise alone.
    """

    ports_each = 2

    def detect(self, field: Tensor, responsivity: Tensor, dark: Tensor) -> Tensor:
        power = field.real.square() + field.imag.square()
        current = responsivity.unsqueeze(-1) * power + dark.unsqueeze(-1)
        first, second = current.unflatten(-2, (-1, 2)).unbind(-2)
        return first - second
