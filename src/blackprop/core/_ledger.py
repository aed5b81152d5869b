"""The ledger: rows and programmings by purpose, and the lab time that they stand for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from blackprop.core._query import Count, Purpose


class Ledger:
    """Rows and programmings by purpose, units of capabilities by name, and the lab time that they stand for.

    - `rows[purpose]`, `programmings[purpose]`: zero for a purpose without queries.
    - `actions[name]`: units of a capability; if its unit is the row, they are included in the rows.
    - `lab_seconds` (s): estimated from the declared cost of each device.
    - `measured_seconds` (s): time by the clock, in this process, of measurements on devices that declare no cost. It
      differs between runs, so it is neither saved nor compared.
    """

    def __init__(self) -> None:
        self.rows: Counter[Purpose] = Counter()
        self.programmings: Counter[Purpose] = Counter()
        self.actions: Counter[str] = Counter()
        self.lab_seconds: float = 0.0
        self.measured_seconds: float = 0.0

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

    def add(self, spent: Count, seconds: float) -> None:
        self.rows.update(spent.rows)
        self.programmings.update(spent.programmings)
        self.actions.update(spent.actions)
        self.lab_seconds += seconds

    @classmethod
    def sum(cls, ledgers: Iterable[Ledger]) -> Ledger:
        total = cls()
        for ledger in ledgers:
            total.rows.update(ledger.rows)
            total.programmings.update(ledger.programmings)
            total.actions.update(ledger.actions)
            total.lab_seconds += ledger.lab_seconds
            total.measured_seconds += ledger.measured_seconds
        return total

    def times(self, count: int) -> Ledger:
        """Return the ledger of `count` repetitions of the runs counted here."""
        total = Ledger()
        total.rows.update({purpose: count * n for purpose, n in self.rows.items()})
        total.programmings.update({purpose: count * n for purpose, n in self.programmings.items()})
        total.actions.update({name: count * n for name, n in self.actions.items()})
        total.lab_seconds = count * self.lab_seconds
        total.measured_seconds = count * self.measured_seconds
        return total

    def state_dict(self) -> dict[str, Any]:
        actions = {name: n for name, n in self.actions.items() if n}
        return {
            "rows": {purpose.value: n for purpose, n in self.rows.items() if n},
            "programmings": {purpose.value: n for purpose, n in self.programmings.items() if n},
            "lab_seconds": self.lab_seconds,
            **({"actions": actions} if actions else {}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.rows = Counter({Purpose(name): n for name, n in state["rows"].items()})
        self.programmings = Counter({Purpose(name): n for name, n in state["programmings"].items()})
        self.actions = Counter(state.get("actions", {}))
        self.lab_seconds = float(state["lab_seconds"])

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
        if self.measured_seconds:
            lines += [f"measured lab time {_duration(self.measured_seconds)} (no cost is declared)"]
        return "\n".join(lines)


def _duration(seconds: float) -> str:
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.3g} s"
