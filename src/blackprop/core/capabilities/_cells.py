"""The description of a crossbar, whose parameters are the cells of its matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from torch import Tensor

from blackprop.core.capabilities._capability import Capability
from blackprop.errors import ArgumentError

Lines = Literal["single", "pairs", "reference"]


@dataclass(frozen=True)
class Cells(Capability):
    """The parameters are cells, bit line by bit line, and the matrix is proportional to them. Rows are read as usual.

    - `lines="single"`, one bit line an output: `A_ij = slope · θ_ij`;
    - `"pairs"`, two: `A_ij = slope · (θ_2i,j − θ_2i+1,j)`;
    - `"reference"`, one and a common one, the last of N + 1: `A_ij = slope · (θ_ij − θ_Nj)`;

    each up to a constant matrix. `estimators.Outer` computes the gradient from it. A device whose wires or stuck cells
    make it hold in part may declare it; `testing.check_device` compares the gradient with slopes of the readings.

    **Arguments:**

    - `slope` (default 1): `∂A/∂θ` of a cell.
    - `lines` (default `"single"`): the bit lines of an output.

    **Raises** `ArgumentError` for a slope that is zero or not finite.
    """

    name: ClassVar[str] = "cells"
    per_parameter: ClassVar[bool] = True

    slope: float = 1.0
    lines: Lines = "single"

    def __post_init__(self) -> None:
        check_cells_of(self, self.slope, self.lines)

    def perform(self, device: Any, x: Tensor, /) -> Tensor:
        return device.read(x)


def check_cells_of(owner: object, slope: float, lines: str) -> None:
    """Raise `ArgumentError` unless the slope is finite and not zero, and the kind of lines is known."""
    name = type(owner).__name__
    if not math.isfinite(slope) or slope == 0:
        raise ArgumentError(f"`{name}(slope=...)` must be finite and not zero, got {slope}")
    if lines not in get_args(Lines):
        raise ArgumentError(f"`{name}(lines=...)` is one of {', '.join(get_args(Lines))}, got {lines!r}")
