"""The outer product of a crossbar: the gradient for its cells from rows and cotangents alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._procedure import Procedure
from blackprop.errors import ArgumentError, IncompatibleError
from blackprop.estimators._base import Estimator

Lines = Literal["single", "pairs", "reference"]


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

    - `slope` (default 1): `∂A/∂θ` of a cell. A wrong one scales the gradient.
    - `lines` (default `"single"`): the bit lines of an output.

    **Raises** `ArgumentError` for a slope that is zero or not finite; `IncompatibleError` for a device that is not
    declared linear, or has another number of parameters.

    Source: Burr et al., Adv. Phys. X 2, 89 (2017), section 3, for backpropagation in crossbars.
    """

    slope: float = 1.0
    lines: Lines = "single"

    def __post_init__(self) -> None:
        if not math.isfinite(self.slope) or self.slope == 0:
            raise ArgumentError(f"`Outer(slope=...)` must be finite and not zero, got {self.slope}")
        if self.lines not in get_args(Lines):
            raise ArgumentError(f"`Outer(lines=...)` is one of {', '.join(get_args(Lines))}, got {self.lines!r}")

    @property
    def bias_order(self) -> int | None:
        return None

    def check(self, spec: Declaration) -> None:
        if not spec.linear:
            raise IncompatibleError(f"`Outer` needs a linear device and {spec.name} is not declared linear")
        bit_lines = {"single": spec.d_out, "pairs": 2 * spec.d_out, "reference": spec.d_out + 1}[self.lines]
        if spec.theta.size != bit_lines * spec.d_in:
            raise IncompatibleError(
                f"`Outer(lines={self.lines!r})` needs {bit_lines} × {spec.d_in} parameters, one a cell, and "
                f"{spec.name} has {spec.theta.size}"
            )

    def grad_theta(
        self, x: Tensor, theta: Tensor, y: Tensor, grad_y: Tensor, spec: Declaration, generator: torch.Generator
    ) -> Procedure[Tensor]:
        del theta, y, spec, generator
        outer = self.slope * (grad_y.flatten(1).mT @ x.flatten(1))
        if self.lines == "pairs":
            outer = torch.stack((outer, -outer), 1)
        elif self.lines == "reference":
            outer = torch.cat((outer, -outer.sum(0, keepdim=True)))
        return outer.flatten()
        yield  # a procedure without queries
