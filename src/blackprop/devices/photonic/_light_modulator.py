"""A spatial light modulator used as a matrix."""

from __future__ import annotations

import math
from functools import partial

from torch import Tensor

from blackprop.core._declaration import Cost, Coupling
from blackprop.core._theta import ThetaSpec
from blackprop.core.capabilities._read_back import ReadBack
from blackprop.devices._matrix import uniform
from blackprop.devices._simulator import Simulator, apply_matrix

FRAME = 1 / 60  # s, one frame of a liquid-crystal modulator


class LightModulator(Simulator):
    """One phase pixel an element: `A_ij = cos θ_ij / √d_in`, θ in rad, row-major.

    Starts near quadrature, `U(π/2 − 0.1, π/2 + 0.1)`, where the response is steepest and the matrix small. A frame
    takes 1/60 s, a row (one camera or photodiode reading) 10 µs.

    **Arguments:**

    - `d_in`, `d_out`: numbers of inputs and outputs; P = d_out · d_in.
    - `cost` (default: as above).

    Source: arXiv 2509.15113.

    >>> import blackprop as bp
    >>> device = bp.devices.LightModulator(8, 4)
    >>> device.linear, device.coupling, device.theta.size
    (True, <Coupling.ELEMENT: 'element'>, 32)
    """

    stacks = True
    kept_from: int | None = 0

    def __init__(self, d_in: int, d_out: int, *, cost: Cost | None = None) -> None:
        size = d_in * d_out
        theta = ThetaSpec(size, partial(uniform, size, math.pi / 2 - 0.1, math.pi / 2 + 0.1), period=2 * math.pi)
        cost = cost if cost is not None else Cost(programming=FRAME, row=1e-5)
        super().__init__(
            d_in, d_out, theta, linear=True, coupling=Coupling.ELEMENT, cost=cost, capabilities=[ReadBack()]
        )

    def transfer(self, x: Tensor, theta: Tensor, /) -> Tensor:
        return self.answer(x, self.coefficients(theta))

    def coefficients(self, theta: Tensor, /) -> Tensor:
        return theta.cos().unflatten(-1, (*self.out_shape, *self.in_shape))

    def answer(self, x: Tensor, coefficients: Tensor, /) -> Tensor:
        return apply_matrix(coefficients, x / math.sqrt(self.in_shape[0]))  # rows are fewer than elements
