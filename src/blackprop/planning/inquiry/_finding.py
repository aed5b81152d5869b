"""The result of an inquiry."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from blackprop.core._declaration import Coupling, Declaration
from blackprop.core._procedure import Procedure
from blackprop.core._theta import ThetaSpec
from blackprop.errors import BudgetExhausted

T = TypeVar("T")


class Family(enum.Enum):
    """The families that an inquiry tells apart; the value is the family in words."""

    ELEMENT = "each parameter sets one element of a matrix"
    ROW = "each output of a matrix has a block of parameters"
    LINEAR = "a matrix in which parameters do not belong to single elements or rows"
    MASK = "a phase mask in front of a fixed medium, read as power"
    BLOCKS = "each output has a block of parameters, and is not linear in the inputs"
    POWER = "a matrix of fields, read as power, in which parameters have no known place"
    OTHER = "none of the families that are known here"


@dataclass(frozen=True, eq=False)
class InquiryResult:
    """The family of a device, and its evidence.

    - `family`, and `why`: the readings that tell it, in words.
    - `sure`: whether the readings were exact enough to refute it. Where they were not, a stronger or a weaker family
      may hold too.
    - `noise`: standard deviation of a reading, relative to the root mean square of the outputs.
    - `order` (P,): for `Family.ELEMENT`, the parameter of each element in row-major order; None where that is the
      device's own order.
    - `length`: for `Family.LINEAR`, the correlation length of the derivatives, in θ's units; None where not measured.
    - `dark` (d_out,): the readings without input, as a camera has them: the matrix is that of the readings beyond them.
      None where they are zero.
    """

    family: Family
    why: str
    sure: bool = True
    noise: float = 0.0
    order: Tensor | None = None
    length: float | None = None
    dark: Tensor | None = None

    def declaration(self, spec: Declaration) -> Declaration:
        """The declaration that the device may have, its parameters in `order`. It keeps the properties of `spec`."""
        rows = dict.fromkeys((Family.ROW, Family.BLOCKS), Coupling.ROW)
        coupling = {Family.ELEMENT: Coupling.ELEMENT, **rows}.get(self.family, spec.coupling)
        linear = spec.linear or self.family in (Family.ELEMENT, Family.ROW, Family.LINEAR)
        noise = max(spec.noise, self.noise)
        return replace(spec, linear=linear, coupling=coupling, noise=noise, theta=self._theta(spec.theta))

    def _theta(self, spec: ThetaSpec) -> ThetaSpec:
        order = self.order
        if order is None:
            return spec

        def moved(limit: float | Tensor | None) -> float | Tensor | None:
            return limit[order.to(limit.device)] if isinstance(limit, Tensor) else limit

        def initial(generator: torch.Generator) -> Tensor:
            theta = spec.draw(generator)
            return theta[order.to(theta.device)]

        drawn: Callable[[torch.Generator], Tensor] = initial
        return replace(spec, initial=drawn, low=moved(spec.low), high=moved(spec.high))

    def ordered(self, theta: Tensor) -> Tensor:
        """The device's θ (P,) in the order that was found."""
        return theta if self.order is None else theta[self.order.to(theta.device)]

    def placed(self, theta: Tensor) -> Tensor:
        """θ (P,) of that order in the device's own."""
        return theta if self.order is None else theta[self.order.to(theta.device).argsort()]

    def lit(self, y: Tensor) -> Tensor:
        """The readings (..., d_out) beyond the dark level."""
        return y if self.dark is None else y - self.dark.to(y)

    def state_dict(self) -> dict[str, Any]:
        return {
            "family": self.family.name,
            "why": self.why,
            "sure": self.sure,
            "noise": self.noise,
            "order": self.order,
            "length": self.length,
            "dark": self.dark,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> InquiryResult:
        return cls(**{**state, "family": Family[state["family"]]})

    def __str__(self) -> str:
        sure = "" if self.sure else ", not sure"
        dark = ", above a dark level" if self.dark is not None else ""
        return f"{self.family.name.lower()}{sure}: {self.family.value}{dark} ({self.why})"


def translated(procedure: Procedure[T], finding: InquiryResult) -> Procedure[T]:
    """The procedure, its settings in the device's own order, its readings beyond the dark level."""
    if finding.order is None and finding.dark is None:
        return (yield from procedure)
    try:
        queries = next(procedure)
        while True:
            placed = [replace(q, theta=finding.placed(q.theta)) for q in queries]
            try:
                answers = yield placed
                pairs = zip(queries, answers, strict=True)
                readings = [finding.lit(y) if query.capability is None else y for query, y in pairs]
            except BudgetExhausted as error:
                queries = procedure.throw(error)
            else:
                queries = procedure.send(readings)
    except StopIteration as stop:
        return stop.value
