"""The cost of a trial, made or planned, in the two numbers that methods are compared by."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from blackprop.core._ledger import Ledger
from blackprop.core._query import Purpose
from blackprop.nn._layer import PhysicalLayer

_BEYOND = (Purpose.PARAMETER, Purpose.SURROGATE, Purpose.CALIBRATE)


@dataclass(frozen=True)
class Bill:
    """Rows and programmings by purpose, and the overheads, from which evaluation is left out:

    row overhead = (PARAMETER + SURROGATE + CALIBRATE rows) / FORWARD rows,
    programming overhead = (FORWARD + PARAMETER + SURROGATE + CALIBRATE programmings − needed) / needed,

    where a layer needs one programming an optimizer step if its θ is trained, and its forward ones if θ is frozen.
    """

    rows: dict[str, int]
    programmings: dict[str, int]
    needed: int  # programmings that training takes whatever the method
    lab_seconds: float  # everything asked, evaluation too

    @classmethod
    def of(cls, ledgers: Iterable[tuple[Ledger, bool]], steps: int) -> Bill:
        """From the ledger of each layer, with whether its θ is trained, after `steps` optimizer steps."""
        ledgers = list(ledgers)
        total = Ledger.sum(ledger for ledger, _ in ledgers)
        return cls(
            rows={purpose.value: total.rows[purpose] for purpose in Purpose},
            programmings={purpose.value: total.programmings[purpose] for purpose in Purpose},
            needed=sum(steps if trained else ledger.programmings[Purpose.FORWARD] for ledger, trained in ledgers),
            lab_seconds=total.lab_seconds,
        )

    @classmethod
    def of_model(cls, model: nn.Module, steps: int) -> Bill:
        layers = [module for module in model.modules() if isinstance(module, PhysicalLayer)]
        return cls.of([(layer.ledger, layer.theta.requires_grad) for layer in layers], steps)

    def plain(self) -> dict[str, Any]:
        """As a result in summary.json holds it."""
        return {
            "rows": self.rows,
            "programmings": self.programmings,
            "row_overhead": self.row_overhead,
            "programming_overhead": self.programming_overhead,
            "lab_seconds": self.lab_seconds,
        }

    @property
    def row_overhead(self) -> float:
        return sum(self.rows[purpose.value] for purpose in _BEYOND) / self.rows[Purpose.FORWARD.value]

    @property
    def programming_overhead(self) -> float:
        training = sum(self.programmings[purpose.value] for purpose in (Purpose.FORWARD, *_BEYOND))
        return (training - self.needed) / self.needed
