"""The costs of a programming, a row and a unit of a capability: seconds, and joules with their converters."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import InitVar, dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from blackprop.errors import ArgumentError

if TYPE_CHECKING:
    from blackprop.core._query import Count
    from blackprop.core.capabilities._capability import Capability


@dataclass(frozen=True)
class Rates:
    """The rates of a programming, a row and a unit of each capability, in one unit."""

    programming: float = 0.0
    row: float = 0.0
    actions: Mapping[str, float] = field(default_factory=dict)
    pulse: InitVar[float | None] = None

    UNIT: ClassVar[str]

    def __post_init__(self, pulse: float | None) -> None:
        if pulse is not None:
            object.__setattr__(self, "actions", {**self.actions, "pulse": pulse})
        if not all(0 <= rate < math.inf for rate in (*self._numbers().values(), *self.actions.values())):
            raise ArgumentError(
                f"`{type(self).__name__}` takes {self.UNIT} that are finite and not negative, got {self}"
            )

    __hash__: ClassVar[None] = None  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]  (its mapping has none)

    def of(self, spent: Count, capabilities: Iterable[Capability]) -> float:
        """Return the sum over a count: a capability whose unit is the row takes a row where its rate is not named."""
        rows, dearer = spent.rows.total(), 0.0
        for each in capabilities:
            units = spent.actions[each.name]
            if each.unit == "rows" and each.name in self.actions:
                rows -= units
            dearer += units * self.actions.get(each.name, 0.0)
        return rows * self.row + spent.programmings.total() * self.programming + dearer

    def plain(self) -> dict[str, Any]:
        """Return the rates as keywords of plain values, for the wire and for recordings."""
        return {**self._numbers(), "actions": {name: float(rate) for name, rate in self.actions.items()}}

    def _numbers(self) -> dict[str, float]:
        return {each.name: float(getattr(self, each.name)) for each in fields(self) if each.type == "float"}


@dataclass(frozen=True)
class EnergyCost(Rates):
    """Estimated energy of a device: that of its actions, that of its converters, and its power while it works.

    ```
    J(row) = row + dac · d_in + adc · d_out + power · seconds(row)
    J(programming) = programming + dac · P + power · seconds(programming)
    ```

    with the seconds of the `Cost` that holds it. A capability whose unit is the row has converters for its own shapes.

    - `programming` (J, default 0): to write one setting.
    - `row` (J, default 0): to send one row and read it.
    - `actions` (J, default none): by the name of a capability, for one of its units; one whose unit is the row takes
      `row` where it is not named.
    - `pulse` (J, default None): for a slot of the pulse trains, the same as `actions={"pulse": ...}`.
    - `dac`, `adc` (J, default 0): of a conversion to analog, one for each input and each parameter, and from analog,
      one for each output.
    - `power` (W, default 0): drawn during the declared seconds, as by lasers and heaters.

    **Raises** `ArgumentError` for a negative number.

    >>> import blackprop as bp
    >>> energy = bp.EnergyCost(dac=1e-12, adc=2e-12, power=0.5)
    >>> bp.Cost(programming=1e-4, row=1e-6, energy=energy).energy.power
    0.5
    """

    dac: float = 0.0  # J a conversion
    adc: float = 0.0  # J a conversion
    power: float = 0.0  # W

    UNIT: ClassVar[str] = "joules and watts"
    __hash__: ClassVar[None] = None  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]


@dataclass(frozen=True)
class Cost(Rates):
    """Estimated lab time of a device, and its energy.

    - `programming` (s, default 0): to write one setting.
    - `row` (s, default 0): to send one row and read it.
    - `actions` (s, default none): by the name of a capability, for one of its units; a capability whose unit is the row
      costs a row where it is not named.
    - `pulse` (s, default None): for a slot of the pulse trains of a device that declares `Pulse`, the same as
      `actions={"pulse": ...}`.
    - `energy` (default None, unknown): the `EnergyCost`, in joules.

    **Raises** `ArgumentError` for a negative number, and for a power without seconds to multiply it with.
    """

    energy: EnergyCost | None = None

    UNIT: ClassVar[str] = "seconds"
    __hash__: ClassVar[None] = None  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]

    def __post_init__(self, pulse: float | None) -> None:
        super().__post_init__(pulse)
        if self.energy is not None and self.energy.power and not self.timed:
            raise ArgumentError(
                "`Cost(energy=EnergyCost(power=...))` needs the seconds of a programming, row or action"
            )

    @cached_property
    def timed(self) -> bool:
        """Whether any time is declared."""
        return bool(self.programming or self.row or any(self.actions.values()))

    @classmethod
    def dearest(cls, costs: Sequence[Cost]) -> Cost:
        """Return the greatest of each of the costs; the energy is unknown where one of them is."""
        known = [cost.energy for cost in costs if cost.energy is not None]
        energy = EnergyCost(**_greatest(known)) if len(known) == len(costs) else None
        return cls(**_greatest(costs), energy=energy)


def _greatest(all_rates: Sequence[Rates]) -> dict[str, Any]:
    """Return the greatest of each of the rates, as keywords."""
    names = dict.fromkeys(name for rates in all_rates for name in rates.actions)
    actions = {name: max(rates.actions.get(name, 0.0) for rates in all_rates) for name in names}
    plain = [rates.plain() for rates in all_rates]
    return {**{name: max(each[name] for each in plain) for name in plain[0] if name != "actions"}, "actions": actions}
