"""Declarations: the properties of a device that estimators and surrogates know."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from blackprop.core._theta import ThetaSpec, digits
from blackprop.core.capabilities._capability import C, Capability, Shape, declared, find
from blackprop.errors import ArgumentError, LimitError

if TYPE_CHECKING:
    from blackprop.core._query import Count


class Coupling(enum.Enum):
    """Which outputs a parameter can move.

    `ELEMENT`: the device is a matrix and parameter `i·d_in + j` moves the element `A[i, j]` alone (row-major, so
    `P = d_out·d_in`). `ROW`: the parameters come in d_out equal blocks, in order, and each moves one output alone.
    `NONE`: unknown; every estimator must then treat the device as opaque.
    """

    ELEMENT = "element"
    ROW = "row"
    NONE = "none"


@dataclass(frozen=True)
class Cost:
    """Estimated lab time of a device.

    - `programming` (s, default 0): to write one setting.
    - `row` (s, default 0): to send one row and read it.
    - `actions` (s, default none): by the name of a capability, for one of its units; a capability whose unit is the row
      costs a row where it is not named.
    - `pulse` (s, default None): for a slot of the pulse trains of a device that declares `Pulse`, the same as
      `actions={"pulse": ...}`.
    """

    programming: float = 0.0  # s
    row: float = 0.0  # s
    actions: Mapping[str, float] = field(default_factory=dict)  # s a unit
    pulse: InitVar[float | None] = None

    def __post_init__(self, pulse: float | None) -> None:
        if pulse is not None:
            object.__setattr__(self, "actions", {**self.actions, "pulse": pulse})
        if not all(seconds >= 0 for seconds in (self.programming, self.row, *self.actions.values())):
            raise ArgumentError(f"`Cost` takes seconds that are not negative, got {self}")

    __hash__: ClassVar[None] = None  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]  (its mapping has none)

    @classmethod
    def dearest(cls, costs: Sequence[Cost]) -> Cost:
        """The greatest of each of the costs."""
        names = dict.fromkeys(name for cost in costs for name in cost.actions)
        actions = {name: max(cost.actions.get(name, 0.0) for cost in costs) for name in names}
        return cls(max(cost.programming for cost in costs), max(cost.row for cost in costs), actions)


@dataclass(frozen=True, eq=False)
class Declaration:
    """The declared properties of a device, the only ones that estimators and surrogates use.

    - `name`: for messages.
    - `in_shape`, `out_shape`: shapes of a row and of a reading.
    - `theta`: the `ThetaSpec`.
    - `linear`: whether `f(x; θ) = A(θ) x`.
    - `coupling`: the outputs that a parameter can move.
    - `cost`: the estimated lab time.
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
        cost = self.cost
        rows, dearer = spent.rows.total(), 0.0
        for each in self.capabilities:
            units = spent.actions[each.name]
            if each.unit == "rows" and each.name in cost.actions:
                rows -= units
            dearer += units * cost.actions.get(each.name, 0.0)
        return rows * cost.row + spent.programmings.total() * cost.programming + dearer

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
