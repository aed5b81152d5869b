"""The budget: the most that may be spent on a device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from blackprop.core._query import Count
from blackprop.errors import ArgumentError, BudgetExhausted, IncompatibleError

ROUNDING = 1e-12  # of a limit: the tolerance for sums of seconds, since 3 · 0.1 s is not 0.3 s in floating point


class Budget:
    """The most that may be spent: rows, programmings, lab seconds, joules, units of capabilities; None for no limit.

    Lab seconds are those that the devices' `Cost` lets expect. For a device that declares no cost they are measured by
    the clock and booked after each round, so the round that passes the limit is the last.
    Joules are those of `Cost(energy=...)`; a device that declares none is refused under such a limit.

    One budget given to several layers is shared by them. A round that would exceed it raises `BudgetExhausted` before
    any of it is measured.

    - `rows`, `programmings` (default None): the most of each.
    - `seconds` (s, default None): the most lab time.
    - `joules` (J, default None): the most energy.
    - further keywords: the most units of a capability, by its name, as `Budget(pulses=10_000)`.
    """

    def __init__(
        self,
        rows: int | None = None,
        programmings: int | None = None,
        seconds: float | None = None,
        joules: float | None = None,
        **actions: int | None,
    ) -> None:
        self.limits: dict[str, int | float | None] = {
            "rows": rows,
            "programmings": programmings,
            "seconds": seconds,
            "joules": joules,
            **actions,
        }
        whole = dict.fromkeys(("rows", "programmings", *actions), 0)
        self.spent: dict[str, float] = {name: whole.get(name, 0.0) for name in self.limits}
        for name, limit in self.limits.items():
            if limit is not None and not limit >= 0:
                raise ArgumentError(f"`Budget({name}=...)` must not be negative, got {limit}")

    def reserve(self, spent: Count, costs: Mapping[str, float | None]) -> None:
        """Book a round before it is measured: its count, and its costs as `Declaration.costs` returns them.

        **Raises** `BudgetExhausted` if it exceeds a limit, `IncompatibleError` if a limited cost is not declared; the
        budget is then unchanged.
        """
        wanted = self._entries(spent, costs)
        for name, limit in self.limits.items():
            if limit is not None and self.spent[name] + wanted[name] > limit * (1 + ROUNDING):
                raise BudgetExhausted(
                    f"{self.spent[name]:,} of {limit:,} {name} are spent and the next round of queries wants "
                    f"{wanted[name]:,}; the round was not measured"
                )
        self.spend(spent, costs)

    def spend(self, spent: Count, costs: Mapping[str, float | None]) -> None:
        """Book a cost that was spent already, even if it exceeds a limit."""
        for name, more in self._entries(spent, costs).items():
            self.spent[name] += more

    def _entries(self, spent: Count, costs: Mapping[str, float | None]) -> dict[str, float]:
        unknown = [name for name, cost in costs.items() if cost is None and self.limits[name] is not None]
        if unknown:
            raise IncompatibleError(undeclared(unknown[0]))
        basic = {"rows": spent.rows.total(), "programmings": spent.programmings.total()}
        known = {**spent.actions, **costs, **basic}
        return {name: known.get(name) or 0 for name in self.limits}

    def __deepcopy__(self, memo: dict[int, Any]) -> Budget:
        """Return the budget itself: a copied model uses the same device, so it shares the budget."""
        del memo
        return self

    def state_dict(self) -> dict[str, Any]:
        return {"spent": dict(self.spent)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        spent = state["spent"]
        self.spent = {name: type(old)(spent.get(name, 0)) for name, old in self.spent.items()}

    def __repr__(self) -> str:
        limits = [f"{name} {self.spent[name]:,} of {v:,}" for name, v in self.limits.items() if v is not None]
        return f"Budget({', '.join(limits) or 'no limit'})"


def undeclared(unit: str, name: str = "the device") -> str:
    """Return the error of a limit in a unit that a device does not declare."""
    return (
        f"a budget limits {unit}, of which {name} declares none: declare them, as with "
        "`bp.Cost(row=..., energy=bp.EnergyCost(row=...))`, or limit rows, programmings or seconds"
    )
