"""The cost of a training so far, its limits, and whether the next step may still be made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn

from blackprop.core._budget import ROUNDING, Budget
from blackprop.core._ledger import Ledger, saved
from blackprop.nn._layer import PhysicalLayer

LATEST = 50  # steps of a block; the dearest of two blocks is expected again


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
        self._limits: list[tuple[str, float, Callable[[], float]]] = [
            (name, limit, partial(_booked, each, name))
            for each in own.values()
            for name, limit in each.limits.items()
            if limit is not None
        ]
        if budget is not None and id(budget) not in own:
            self._limits += [
                (name, limit, partial(self._counted, name))
                for name, limit in budget.limits.items()
                if limit is not None
            ]
        self._before = [spent() for _, _, spent in self._limits]
        self._first, self._steps = True, 0
        # The dearest step of this block of steps and of the one before.
        self._most = [[0.0] * len(self._limits), [0.0] * len(self._limits)]

    def ledger(self) -> Ledger:
        """Return the ledger of all layers together."""
        return Ledger.sum(layer.ledger for layer in self.layers.values())

    def limits(self) -> dict[str, tuple[float, float]]:
        """Return the amount spent and the limit, by unit; of several limits of a unit, the one with the least left."""
        found: dict[str, tuple[float, float]] = {}
        for name, limit, count in self._limits:
            spent = count()
            if name not in found or limit - spent < found[name][1] - found[name][0]:
                found[name] = (spent, limit)
        return found

    @property
    def limited(self) -> bool:
        """Whether there is any limit."""
        return bool(self._limits)

    def stepped(self) -> str:
        """Follow a step, and return why the next one must not be made: a sentence, or "" while it may.

        The next step is expected to take as much as the dearest of the last 50 to 100, without the first, which
        calibrates.
        """
        now = [spent() for _, _, spent in self._limits]
        reason = ""
        if self._steps == LATEST:
            self._steps, self._most = 0, [[0.0] * len(now), self._most[0]]
        latest, earlier = self._most
        for k, (name, limit, _) in enumerate(self._limits):
            spent = now[k]
            if self._first:
                most = 1.0
            else:
                latest[k] = max(latest[k], spent - self._before[k])
                most = max(latest[k], earlier[k])
            if most > 0 and spent + most > limit * (1 + ROUNDING):
                reason = reason or f"{spent:,.6g} of {limit:,.6g} {name} are spent, and a step takes up to {most:,.6g}"
        self._first, self._before, self._steps = False, now, self._steps + 1
        return reason

    def _counted(self, name: str) -> float:
        ledgers = [layer.ledger for layer in self.layers.values()]
        if name == "rows":
            return float(sum(sum(each.rows.values()) for each in ledgers))
        if name == "programmings":
            return float(sum(sum(each.programmings.values()) for each in ledgers))
        if name == "seconds":
            return sum(each.lab_seconds + each.measured_seconds for each in ledgers)
        if name == "joules":
            return sum(each.joules or 0.0 for each in ledgers)
        return float(sum(each.actions[name] for each in ledgers))


def _booked(budget: Budget, name: str) -> float:
    return budget.spent[name]


def costs(ledger: Ledger) -> dict[str, Any]:
    """Return a ledger's rows and programmings by purpose, lab time and energy, as lines of metrics have them."""
    state: Mapping[str, Any] = ledger.state_dict()
    return {"rows": state["rows"], "programmings": state["programmings"], **saved(ledger.costs)}
