"""The outer product of a crossbar: the gradient for its cells from rows and cotangents alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._procedure import Procedure
from blackprop.core.capabilities._cells import Cells, Lines, check_cells_of
from blackprop.errors import IncompatibleError
from blackprop.estimators._base import Estimator


@dataclass(frozen=True)
class Outer(Estimator):
    """`∂L/∂θ_ij = slope · Σ_b g_bi x_bj`: each cell of a crossbar from the signals of its row and of its column.

    For a linear device `y = A x` whose cells are its parameters, in the order bit line by bit line:

    - `lines="single"`, one bit line an output: `A_ij = slope · θ_ij`;
    - `"pairs"`, two: `A_ij = slope · (θ_2i,j − θ_2i+1,j)`;
    - `"reference"`, one and a common one, the last of N + 1: `A_ij = slope · (θ_ij − θ_Nj)`.

    With `surrogates.Reciprocal` the cotangents g come through the devices behind this one as they are, so their wires
    and stuck cells are included.

    **Costs** no query.

    **Errors.** Exact where `A` is as above, up to a constant matrix. A cell that is stuck, or far along
    resistive wires, acts less than `slope` says; the error is the same at every step, so averaging cannot remove it.

    **Arguments:**

    - `slope` (default None: that of the capability `Cells`, 1 where it is not declared): `∂A/∂θ` of a cell. A wrong one
      scales the gradient.
    - `lines` (default None: those of `Cells`, `"single"` where it is not declared): the bit lines of an output.

    **Raises** `ArgumentError` for a slope that is zero or not finite; `IncompatibleError` for a device that is not
    declared linear, or has another number of parameters.

    Source: Burr et al., Adv. Phys. X 2, 89 (2017), section 3, for backpropagation in crossbars.
    """

    slope: float | None = None
    lines: Lines | None = None

    def __post_init__(self) -> None:
        standard = Cells()
        check_cells_of(self, *self._of(standard))

    @property
    def bias_order(self) -> int | None:
        return None

    def check(self, spec: Declaration) -> None:
        if not spec.linear:
            raise IncompatibleError(f"`Outer` needs a linear device and {spec.name} is not declared linear")
        _, lines = self._of(_cells(spec))
        bit_lines = {"single": spec.d_out, "pairs": 2 * spec.d_out, "reference": spec.d_out + 1}[lines]
        if spec.theta.size != bit_lines * spec.d_in:
            raise IncompatibleError(
                f"`Outer(lines={lines!r})` needs {bit_lines} × {spec.d_in} parameters, one a cell, and "
                f"{spec.name} has {spec.theta.size}"
            )

    def grad_theta(
        self, x: Tensor, theta: Tensor, y: Tensor, grad_y: Tensor, spec: Declaration, generator: torch.Generator
    ) -> Procedure[Tensor]:
        del theta, y, generator
        slope, lines = self._of(_cells(spec))
        outer = slope * (grad_y.flatten(1).mT @ x.flatten(1))
        if lines == "pairs":
            outer = torch.stack((outer, -outer), 1)
        elif lines == "reference":
            outer = torch.cat((outer, -outer.sum(0, keepdim=True)))
        return outer.flatten()
        yield  # a procedure without queries

    def _of(self, cells: Cells) -> tuple[float, Lines]:
        """The slope and the lines on a device with these cells."""
        slope = cells.slope if self.slope is None else self.slope
        return slope, cells.lines if self.lines is None else self.lines


def _cells(spec: Declaration) -> Cells:
    return spec.capability(Cells) if spec.has(Cells) else Cells()
