"""A bank of microring resonators used as a matrix."""

from __future__ import annotations

import math
from functools import partial

from torch import Tensor

from blackprop.core._declaration import Cost, Coupling
from blackprop.core._theta import ThetaSpec
from blackprop.core.capabilities._read_back import ReadBack
from blackprop.devices._matrix import uniform
from blackprop.devices._simulator import Simulator, apply_matrix
from blackprop.errors import ArgumentError


class Microring(Simulator):
    """One all-pass ring an element, read in balanced detection: `A_ij = 2 t(φ_ij) − 1`, φ in rad, row-major, with

    `t(φ) = √((a² + r² − 2ra cos φ) / (1 + r²a² − 2ra cos φ))`.

    Starts from `U(0.01, π/4)`. A thermal phase shifter settles in 100 µs, a photodiode reads a row in 1 µs.

    **Arguments:**

    - `d_in`, `d_out`: numbers of inputs and outputs.
    - `a` (default 0.8): round-trip amplitude, between 0 and 1.
    - `r` (default 0.9): self-coupling, between 0 and 1.
    - `cost` (default None).

    Source: arXiv 2509.15113 (a = 0.8, r = 0.9).
    """

    a: float
    r: float

    stacks = True
    kept_from: int | None = 0

    def __init__(self, d_in: int, d_out: int, *, a: float = 0.8, r: float = 0.9, cost: Cost | None = None) -> None:
        for name, value in (("a", a), ("r", r)):
            if not 0 < value < 1:
                raise ArgumentError(f"`Microring({name}=...)` must be between 0 and 1, got {value}")
        self.a, self.r = a, r
        size = d_in * d_out
        theta = ThetaSpec(size, partial(uniform, size, 0.01, math.pi / 4), period=2 * math.pi)
        cost = cost if cost is not None else Cost(programming=1e-4, row=1e-6)
        super().__init__(
            d_in, d_out, theta, linear=True, coupling=Coupling.ELEMENT, cost=cost, capabilities=[ReadBack()]
        )

    def transfer(self, x: Tensor, theta: Tensor, /) -> Tensor:
        return apply_matrix(self.coefficients(theta), x)

    def coefficients(self, theta: Tensor, /) -> Tensor:
        a, r = self.a, self.r
        beat = theta.cos().mul(-2 * r * a)
        t = ((beat + (a * a + r * r)) / (beat + (1 + r * r * a * a))).sqrt()
        return (2 * t - 1).unflatten(-1, (*self.out_shape, *self.in_shape))
