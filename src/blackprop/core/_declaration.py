"""Declarations: the properties of a device that estimators and surrogates know."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import Tensor

from blackprop.core._theta import ThetaSpec, digits
from blackprop.core.capabilities._capability import C, Capability, Shape, declared, find
from blackprop.core.costs._cost import Cost, EnergyCost
from blackprop.errors import ArgumentError, LimitError

if TYPE_CHECKING:
    from blackprop.core._query import Count


# The units in which a cost is estimated: they travel together through ledgers, budgets, plans and records.
UNITS = ("seconds", "joules")
Costs = dict[str, float | None]  # by the names of `UNITS`; None where a device does not declare it


class Coupling(enum.Enum):
    """Which outputs a parameter can move.

    `ELEMENT`: the device is a matrix and parameter `i·d_in + j` moves the element `A[i, j]` alone (row-major, so
    `P = d_out·d_in`). `ROW`: the parameters come in d_out equal blocks, in order, and each moves one output alone.
    `NONE`: unknown; every estimator must then treat the device as opaque.
    """

    ELEMENT = "element"
    ROW = "row"
    NONE = "none"


@dataclass(frozen=True, eq=False)
class Declaration:
    """The declared properties of a device, the only ones that estimators and surrogates use.

    - `name`: for messages.
    - `in_shape`, `out_shape`: shapes of a row and of a reading.
    - `theta`: the `ThetaSpec`.
    - `linear`: whether `f(x; θ) = A(θ) x`.
    - `coupling`: the outputs that a parameter can move.
    - `cost`: the estimated lab time and energy.
    - `noise` (default 0, unknown): standard deviation of a reading relative to the root mean square of the outputs.
    - `oracle` (default None): the differentiable transfer `(x, theta) -> y` of a simulator. Only the two classes named
      `Oracle` may use it.
    - `x_low`, `x_high` (default None, no limit): the least and the greatest value of an input, inclusive.
    - `rows_each` (default 1): rows with which the device is driven for one row of a query.
    - `capabilities` (default none): actions beyond programming and reading.
    - `drawing` (default None, unknown): the device as designed, a simulator without the errors of its build.

    **Raises** `ArgumentError` for limits in the wrong order and for capabilities that are declared twice.
    """

    name: str
    in_shape: Shape
    out_shape: Shape
    theta: ThetaSpec
    linear: bool
    coupling: Coupling
    cost: Cost
    noise: float = 0.0
    oracle: Callable[[Tensor, Tensor], Tensor] | None = None
    x_low: float | None = None
    x_high: float | None = None
    rows_each: int = 1
    capabilities: tuple[Capability, ...] = ()
    drawing: Any | None = None  # a `Device`, which this layer does not know

    def __post_init__(self) -> None:
        object.__setattr__(self, "capabilities", declared("Declaration", self.capabilities))
        for name, limit in zip(("x_low", "x_high"), input_limits("Declaration", self.x_low, self.x_high), strict=True):
            object.__setattr__(self, name, limit)

    def capability(self, kind: type[C]) -> C:
        """Return the declared capability of this type; raise `IncompatibleError` if there is none."""
        return find(self.name, self.capabilities, kind)

    def row_shape(self, kind: type[Capability] | None) -> Shape:
        """Return the shape of one row that a query of this kind sends; None for an ordinary reading."""
        return self.in_shape if kind is None else self.capability(kind).row_shape(self)

    def reading_shape(self, kind: type[Capability] | None) -> Shape:
        """Return the shape of the reading of one row of a query of this kind; None for an ordinary reading."""
        return self.out_shape if kind is None else self.capability(kind).reading_shape(self)

    def has(self, kind: type[Capability]) -> bool:
        """Return whether a capability of this type is declared."""
        return any(isinstance(each, kind) for each in self.capabilities)

    def seconds(self, spent: Count) -> float:
        """Return the lab time (s) of a count by the declared cost."""
        return self.cost.of(spent, self.capabilities)

    def joules(self, spent: Count) -> float | None:
        """Return the energy (J) of a count by the declared cost; None where it is not declared."""
        energy = self.cost.energy
        if energy is None:
            return None if spent else 0.0
        return (
            energy.of(spent, self.capabilities) + energy.power * self.seconds(spent) + self._converters(energy, spent)
        )

    def _converters(self, energy: EnergyCost, spent: Count) -> float:
        """Return the energy (J) of the converters: of each row sent, with its reading, and of each setting."""
        rows, values = spent.rows.total(), [self.theta.size * spent.programmings.total(), 0]
        by_row = [each for each in self.capabilities if each.unit == "rows" and spent.actions[each.name]]
        for each in by_row:
            units = spent.actions[each.name]
            rows -= 0 if each.writes else units
            values[0] += units * math.prod(each.row_shape(self))
            values[1] += units * math.prod(each.reading_shape(self))
        return energy.dac * (values[0] + rows * self.d_in) + energy.adc * (values[1] + rows * self.d_out)

    def costs(self, spent: Count) -> Costs:
        """Return the estimate of a count in each unit of `UNITS`; None where the device does not declare it."""
        cost = self.cost  # no calls but those that a device with such a cost needs: every step comes here
        return {
            "seconds": cost.of(spent, self.capabilities),
            "joules": None if cost.energy is None and spent.rows else self.joules(spent),
        }

    def known_costs(self, spent: Count) -> dict[str, float]:
        """Return `costs` without those that the device does not declare."""
        return {name: cost for name, cost in self.costs(spent).items() if cost is not None}

    @cached_property
    def x_limited(self) -> bool:
        """Whether the inputs have limits."""
        return self.x_low is not None or self.x_high is not None

    @cached_property
    def x_range(self) -> tuple[float, float]:
        """The limits of the inputs, infinite where there is none."""
        return -math.inf if self.x_low is None else self.x_low, math.inf if self.x_high is None else self.x_high

    def check_rows(self, x: Tensor) -> None:
        """Raise `LimitError` unless every input of the rows x (rows, *in_shape) is within the limits."""
        if not self.x_limited or not x.numel():
            return
        low, high = self.x_range
        least, most = x.aminmax()
        if bool((least >= low) & (most <= high)):
            return
        if not bool(x.isfinite().all()):
            row = int((~x.isfinite()).flatten(1).any(1).nonzero()[0])
            raise LimitError(f"row {row} to {self.name} is not finite")
        row, column = (int(n) for n in ((x < low) | (x > high)).flatten(1).nonzero()[0])
        raise LimitError(
            f"row {row}, input {column} = {digits(x.flatten(1)[row, column])} is outside the limits of the inputs of "
            f"{self.name}, {limits_text(self.x_low, self.x_high)}; scale the rows before it, as with `torch.sigmoid` "
            "or a min-max scaling, or, for rows of either sign, wrap the device in `bp.devices.Differential`"
        )

    @cached_property
    def of_vectors(self) -> bool:
        """Whether rows and readings are vectors."""
        return len(self.in_shape) == len(self.out_shape) == 1

    @cached_property
    def d_in(self) -> int:
        return math.prod(self.in_shape)

    @cached_property
    def d_out(self) -> int:
        return math.prod(self.out_shape)


# The properties that a device and its declaration share, by the names of the keywords of `Device`.
PROPERTIES = ("linear", "coupling", "cost", "noise", "x_low", "x_high", "capabilities")


def properties(of: object) -> dict[str, Any]:
    """Return the properties of a device or of a declaration, as keywords of `Device`."""
    return {name: getattr(of, name) for name in PROPERTIES}


def input_limits(owner: str, low: float | None, high: float | None) -> tuple[float | None, float | None]:
    """Return the limits of a device's inputs, after a check, as floats; None for no limit."""
    found = []
    for name, limit, free in (("x_low", low, -math.inf), ("x_high", high, math.inf)):
        try:
            value = None if limit is None else float(limit)
        except (TypeError, ValueError) as error:
            raise ArgumentError(f"`{owner}({name}=...)` must be a number or None, got {limit!r}") from error
        if value is not None and (math.isnan(value) or value == -free):
            raise ArgumentError(f"`{owner}({name}=...)` must be a number or None for no limit, got {limit}")
        found.append(None if value == free else value)
    if None not in found and not found[0] < found[1]:
        raise ArgumentError(f"`{owner}(x_low=..., x_high=...)`: x_low must be under x_high, got {low} and {high}")
    return found[0], found[1]


def limits_text(low: float | None, high: float | None) -> str:
    """Return limits as the text of an interval."""
    left, right = "(-∞" if low is None else f"[{low:g}", "∞)" if high is None else f"{high:g}]"
    return f"{left}, {right}"
