"""The cost of a training so far, its limits, and whether the next step may still be made."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from torch import nn

from blackprop.core._budget import ROUNDING, Budget
from blackprop.core._ledger import Ledger
from blackprop.nn._layer import PhysicalLayer

LATEST = 50  # steps, of which the dearest is expected again


class Spending:
    """Follow the ledgers and the budgets of the physical layers of a model.

    - `model`: the model. Layers may share a budget, which counts once.
    - `budget` (default None): limits for all layers together, of which their ledgers count the use. A budget that
      layers of the model are given, too, counts for itself.
    """

    def __init__(self, model: nn.Module, budget: Budget | None) -> None:
        self.layers: dict[str, PhysicalLayer] = {
            name: module for name, module in model.named_modules() if isinstance(module, PhysicalLayer)
        }
        own = {id(layer.budget): layer.budget for layer in self.layers.values() if layer.budget is not None}
        self._budgets = list(own.values())
        self._over_all = None if budget is None or id(budget) in own else budget
        self._before = self._spent()
        self._first = True
        self._steps: deque[list[float]] = deque(maxlen=LATEST)

    def ledger(self) -> Ledger:
        """Return the ledger of all layers together."""
        return Ledger.sum(layer.ledger for layer in self.layers.values())

    def limits(self) -> dict[str, tuple[float, float]]:
        """Return the amount spent and the limit, by unit; of several limits of a unit, the one with the least left."""
        found: dict[str, tuple[float, float]] = {}
        for name, spent, limit in self._entries():
            if limit is not None and (name not in found or limit - spent < found[name][1] - found[name][0]):
                found[name] = (spent, limit)
        return found

    @property
    def limited(self) -> bool:
        """Whether there is any limit."""
        budgets = self._budgets if self._over_all is None else [*self._budgets, self._over_all]
        return any(limit is not None for budget in budgets for limit in budget.limits.values())

    def stepped(self) -> str:
        """Follow a step, and return why the next one must not be made: a sentence, or "" while it may.

        The next step is expected to take as much as the dearest of the last 50, without the first, which calibrates.
        """
        entries = self._entries()
        now = [spent for _, spent, _ in entries]
        if not self._first:
            self._steps.append([a - b for a, b in zip(now, self._before, strict=True)])
        self._first, self._before = False, now
        for k, (name, spent, limit) in enumerate(entries):
            most = max((step[k] for step in self._steps), default=1.0)
            if limit is not None and most > 0 and spent + most > limit * (1 + ROUNDING):
                return f"{spent:,.6g} of {limit:,.6g} {name} are spent, and a step takes up to {most:,.6g}"
        return ""

    def _spent(self) -> list[float]:
        return [spent for _, spent, _ in self._entries()]

    def _entries(self) -> list[tuple[str, float, float | None]]:
        entries = [
            (name, budget.spent[name], limit) for budget in self._budgets for name, limit in budget.limits.items()
        ]
        if self._over_all is None:
            return entries
        total = self.ledger()
        basic = {
            "rows": total.total_rows,
            "programmings": total.total_programmings,
            "seconds": total.lab_seconds + total.measured_seconds,
        }
        counted = {name: basic.get(name, total.actions[name]) for name in self._over_all.limits}
        return entries + [(name, float(counted[name]), limit) for name, limit in self._over_all.limits.items()]


def costs(ledger: Ledger) -> dict[str, Any]:
    """Return a ledger's rows and programmings by purpose and its lab time, as lines of metrics have them."""
    state: Mapping[str, Any] = ledger.state_dict()
    return {"rows": state["rows"], "programmings": state["programmings"], "lab_seconds": ledger.lab_seconds}
