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
from blackprop.devices.photonic.chips import Butterfly, Chip, Design, Rectangular, Triangular
from blackprop.errors import BudgetExhausted

T = TypeVar("T")
Drawn = tuple[str, int, int, int, int]
KINDS: dict[str, type[Design]] = {each.__name__: each for each in (Rectangular, Triangular, Butterfly)}


class Family(enum.Enum):
    """The families that an inquiry tells apart; the value is the family in words."""

    ELEMENT = "each parameter sets one element of a matrix"
    ROW = "each output of a matrix has a block of parameters"
    MESH = "a mesh of interferometers of a known design"
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
    - `order` (P,): for `Family.ELEMENT`, the parameter of each element in row-major order; for `Family.MESH`, that of
      each phase of the design; None where that is the device's own order.
    - `drawing`: for `Family.MESH`, the design of which the device shows the outer columns, without errors. A
      calibration has to confirm it.
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
    drawing: Chip | None = None

    def declaration(self, spec: Declaration) -> Declaration:
        """The declaration that the device may have, its parameters in `order`. It keeps the properties of `spec`."""
        rows = dict.fromkeys((Family.ROW, Family.BLOCKS), Coupling.ROW)
        coupling = {Family.ELEMENT: Coupling.ELEMENT, **rows}.get(self.family, spec.coupling)
        linear = spec.linear or self.family in (Family.ELEMENT, Family.ROW, Family.MESH, Family.LINEAR)
        noise, drawing = max(spec.noise, self.noise), spec.drawing if self.drawing is None else self.drawing
        theta = self._theta(spec.theta)
        if self.drawing is not None:  # 6.2832 may be declared
            theta = replace(theta, period=self.drawing.theta.period)
        return replace(spec, linear=linear, coupling=coupling, noise=noise, theta=theta, drawing=drawing)

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
            "drawing": None if self.drawing is None else drawn_as(self.drawing),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> InquiryResult:
        drawing = None if state.get("drawing") is None else redrawn(*state["drawing"])
        return cls(**{**state, "family": Family[state["family"]], "drawing": drawing})

    def __str__(self) -> str:
        sure = "" if self.sure else ", not sure"
        dark = ", above a dark level" if self.dark is not None else ""
        return f"{self.family.name.lower()}{sure}: {self.family.value}{dark} ({self.why})"


def drawn_as(chip: Chip) -> Drawn:
    """The design of a chip without errors, for a checkpoint."""
    spec = chip.declaration
    return type(chip.design).__name__, chip.design.splitters, spec.d_in, spec.d_out, chip.modes


def redrawn(kind: str, splitters: int, d_in: int, d_out: int, modes: int) -> Chip:
    """The chip of `drawn_as`."""
    return Chip(KINDS[kind](splitters), d_in, d_out, modes=modes)


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
