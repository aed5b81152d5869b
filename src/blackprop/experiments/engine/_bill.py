"""The cost of a trial, measured or planned, in the two numbers by which methods are compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from blackprop.core._ledger import Ledger, saved
from blackprop.core._query import Purpose
from blackprop.estimators.pulsed._base import PulsedUpdate
from blackprop.nn._layer import PhysicalLayer

_BEYOND = (Purpose.PARAMETER, Purpose.SURROGATE, Purpose.CALIBRATE)


@dataclass(frozen=True)
class Bill:
    """Rows and programmings by purpose, and the overheads, which exclude evaluation:

    row overhead = (PARAMETER + SURROGATE + CALIBRATE rows) / FORWARD rows,
    programming overhead = (FORWARD + PARAMETER + SURROGATE + CALIBRATE programmings − needed) / needed,

    where a layer needs one programming per optimizer step if its θ is trained, and its forward programmings if θ stays:
    frozen, or of a device that is moved by pulses.
    """

    rows: dict[str, int]
    programmings: dict[str, int]
    needed: int  # programmings that every method takes
    costs: Mapping[str, float | None]  # lab seconds and joules of all queries, including evaluation
    actions: dict[str, int]  # units of capabilities, such as pulses

    @classmethod
    def of(cls, ledgers: Iterable[tuple[Ledger, bool]], steps: int) -> Bill:
        """Build the bill from the ledger of each layer, and whether its θ is trained, after `steps` optimizer steps."""
        ledgers = list(ledgers)
        total = Ledger.sum(ledger for ledger, _ in ledgers)
        return cls(
            rows={purpose.value: total.rows[purpose] for purpose in Purpose},
            programmings={purpose.value: total.programmings[purpose] for purpose in Purpose},
            needed=sum(steps if trained else ledger.programmings[Purpose.FORWARD] for ledger, trained in ledgers),
            costs=total.costs,
            actions={name: n for name, n in total.actions.items() if n},
        )

    @classmethod
    def of_model(cls, model: nn.Module, steps: int) -> Bill:
        layers = [module for module in model.modules() if isinstance(module, PhysicalLayer)]
        return cls.of([(layer.ledger, moves_theta(layer)) for layer in layers], steps)

    def plain(self) -> dict[str, Any]:
        """Return the entries of a result in summary.json."""
        return {
            "rows": self.rows,
            "programmings": self.programmings,
            "row_overhead": self.row_overhead,
            "programming_overhead": self.programming_overhead,
            **saved(self.costs),
            **({"actions": self.actions} if self.actions else {}),
        }

    @property
    def lab_seconds(self) -> float:
        return self.costs["seconds"] or 0.0

    @property
    def row_overhead(self) -> float:
        return sum(self.rows[purpose.value] for purpose in _BEYOND) / self.rows[Purpose.FORWARD.value]

    @property
    def programming_overhead(self) -> float:
        training = sum(self.programmings[purpose.value] for purpose in (Purpose.FORWARD, *_BEYOND))
        return (training - self.needed) / self.needed


def moves_theta(layer: PhysicalLayer) -> bool:
    """Return whether training moves the setting of the layer. Pulses move cells and leave it."""
    return layer.theta.requires_grad and not isinstance(layer.estimator, PulsedUpdate)
