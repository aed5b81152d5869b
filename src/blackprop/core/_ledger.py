"""The ledger: rows and programmings by purpose, and the lab time and energy that they stand for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from blackprop.core._declaration import UNITS, Costs
from blackprop.core._query import Count, Purpose

STATE = {"seconds": "lab_seconds"}  # the names in saved states and records that differ from those of the units
SAVED = tuple(STATE.get(name, name) for name in UNITS)


class Ledger:
    """Rows and programmings by purpose, units of capabilities by name, and the lab time and energy that they stand for.

    - `rows[purpose]`, `programmings[purpose]`: zero for a purpose without queries.
    - `actions[name]`: units of a capability; if its unit is the row, they are included in the rows.
    - `lab_seconds` (s): estimated from the declared cost of each device.
    - `joules` (J): the energy, estimated from the declared cost of each device; None if one of them declares none.
    - `costs`: both estimates by unit, `"seconds"` and `"joules"`.
    - `measured_seconds` (s): time by the clock, in this process, of measurements on devices that declare no cost. It
      differs between runs, so it is neither saved nor compared.
    """

    def __init__(self) -> None:
        self.rows: Counter[Purpose] = Counter()
        self.programmings: Counter[Purpose] = Counter()
        self.actions: Counter[str] = Counter()
        self.costs: Costs = dict.fromkeys(UNITS, 0.0)
        self.measured_seconds: float = 0.0

    @property
    def lab_seconds(self) -> float:
        return self.costs["seconds"] or 0.0

    @property
    def joules(self) -> float | None:
        return self.costs["joules"]

    @property
    def total_rows(self) -> int:
        return sum(self.rows.values())

    @property
    def total_programmings(self) -> int:
        return sum(self.programmings.values())

    @property
    def spent(self) -> Count:
        """Return everything counted so far as a new `Count`."""
        return Count(Counter(self.rows), Counter(self.programmings), Counter(self.actions))

    def add(self, spent: Count, costs: Mapping[str, float | None]) -> None:
        """Book a count and its costs, as `Declaration.costs` returns them."""
        self.rows.update(spent.rows)
        self.programmings.update(spent.programmings)
        self.actions.update(spent.actions)
        for name, before in self.costs.items():
            more = costs.get(name, 0.0)
            self.costs[name] = None if before is None or more is None else before + more

    @classmethod
    def sum(cls, ledgers: Iterable[Ledger]) -> Ledger:
        total = cls()
        for ledger in ledgers:
            total.add(ledger.spent, ledger.costs)
            total.measured_seconds += ledger.measured_seconds
        return total

    def times(self, count: int) -> Ledger:
        """Return the ledger of `count` repetitions of the runs counted here."""
        total = Ledger()
        total.rows.update({purpose: count * n for purpose, n in self.rows.items()})
        total.programmings.update({purpose: count * n for purpose, n in self.programmings.items()})
        total.actions.update({name: count * n for name, n in self.actions.items()})
        total.costs = {name: None if cost is None else count * cost for name, cost in self.costs.items()}
        total.measured_seconds = count * self.measured_seconds
        return total

    def state_dict(self) -> dict[str, Any]:
        actions = {name: n for name, n in self.actions.items() if n}
        return {
            "rows": {purpose.value: n for purpose, n in self.rows.items() if n},
            "programmings": {purpose.value: n for purpose, n in self.programmings.items() if n},
            **saved(self.costs),
            **({"actions": actions} if actions else {}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.rows = Counter({Purpose(name): n for name, n in state["rows"].items()})
        self.programmings = Counter({Purpose(name): n for name, n in state["programmings"].items()})
        self.actions = Counter(state.get("actions", {}))
        nothing = None if self.spent else 0.0  # for a unit that an older version did not save
        self.costs = {name: state.get(STATE.get(name, name), nothing) for name in self.costs}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ledger) and self.state_dict() == other.state_dict()

    __hash__: ClassVar[None] = None  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]  (it changes as it counts)

    def __repr__(self) -> str:
        asked = [p for p in Purpose if self.rows[p] or self.programmings[p]]
        lines = [f"{'':12}{'rows':>14}{'programmings':>16}"]
        lines += [f"{p.value:12}{self.rows[p]:>14,}{self.programmings[p]:>16,}" for p in asked]
        lines += [f"{'total':12}{self.total_rows:>14,}{self.total_programmings:>16,}"]
        lines += [f"{name:12}{n:>14,}" for name, n in self.actions.items() if n]
        if self.lab_seconds or not self.measured_seconds:
            lines += [f"estimated lab time {_duration(self.lab_seconds)}"]
        if self.joules:
            lines += [f"estimated energy {in_joules(self.joules)}"]
        if self.measured_seconds:
            lines += [f"measured lab time {_duration(self.measured_seconds)} (no cost is declared)"]
        return "\n".join(lines)


def added(costs: Mapping[str, float | None], more: Mapping[str, float | None]) -> Costs:
    """Return the sum of two costs, unit by unit: unknown where one of them is."""
    pairs = ((name, cost, more.get(name, 0.0)) for name, cost in costs.items())
    return {name: None if a is None or b is None else a + b for name, a, b in pairs}


def less(costs: Mapping[str, float | None], other: Mapping[str, float | None]) -> Costs:
    """Return the difference of two costs, unit by unit: unknown where one of them is."""
    return added(costs, {name: None if cost is None else -cost for name, cost in other.items()})


def saved(costs: Mapping[str, float | None]) -> dict[str, float]:
    """Return costs as states and records have them: the lab time, and other units where they are known and not 0."""
    return {STATE.get(name, name): cost for name, cost in costs.items() if cost or (cost == 0 and name in STATE)}


def in_joules(joules: float) -> str:
    """Return an energy in a suitable unit."""
    for unit, size in (("kWh", 3.6e6), ("kJ", 1e3), ("J", 1.0), ("mJ", 1e-3), ("µJ", 1e-6), ("nJ", 1e-9)):
        if joules >= size:
            return f"{joules / size:.3g} {unit}"
    return f"{joules / 1e-12:.3g} pJ"


def _duration(seconds: float) -> str:
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.3g} s"
