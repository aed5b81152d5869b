"""Two layers of small phase-only matrices with a transposition between: a structured matrix in few parameters."""

from __future__ import annotations

import math
from functools import partial
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import pad

from blackprop.core._declaration import Cost
from blackprop.core._theta import ThetaSpec
from blackprop.core.capabilities._read_back import ReadBack
from blackprop.devices._matrix import uniform
from blackprop.devices._simulator import Simulator


@final
class Monarch(Simulator):
    """`y[q, k] = Re Σ_ij W2[q, k, i] W1[k, i, j] x[i, j]`, with phases `W = e^{iθ} / √(length of its last axis)`, rad.

    x is padded with zeros and laid out as the square (i, j), y as the square (q, k) and cropped; each side is a power
    of two. θ holds the phases of W1 `(k, i, j)` and then those of W2 `(q, k, i)`. Starts from `U(π/2 − 0.1, π/2 +
    0.1)`. A thermal phase shifter settles in 100 µs, a photodiode reads a row in 1 µs. Source: arXiv 2509.15113.
    """

    stacks = True

    def __init__(self, d_in: int, d_out: int, *, cost: Cost | None = None) -> None:
        self.sides: tuple[int, int] = _side(d_in), _side(d_out)
        j, k = self.sides
        size = k * j * j + k * k * j
        theta = ThetaSpec(size, partial(uniform, size, math.pi / 2 - 0.1, math.pi / 2 + 0.1), period=2 * math.pi)
        cost = cost if cost is not None else Cost(programming=1e-4, row=1e-6)
        super().__init__(d_in, d_out, theta, linear=True, cost=cost, capabilities=[ReadBack()])
        self.kept_from: int | None = d_in

    def transfer(self, x: Tensor, theta: Tensor, /) -> Tensor:
        j, k = self.sides
        first, second = theta.split([k * j * j, k * k * j], -1)
        first, second = first.unflatten(-1, (k, j, j)), second.unflatten(-1, (k, k, j))
        # x and the readings are real: Re(W2 W1) = cos cos − sin sin, p = (cos, sin), without complex numbers.
        w1 = torch.stack((first.cos(), first.sin()), -4)
        w2 = torch.stack((second.cos(), -second.sin()), -4)
        square = pad(x / j, (0, j * j - x.shape[-1])).unflatten(-1, (j, j))  # the rows carry both 1/√j
        middle = torch.einsum("...pkij,...rij->...rpki", w1, square)
        y = torch.einsum("...pqki,...rpki->...rqk", w2, middle)
        return y.flatten(-2)[..., : self.out_shape[0]]

    def setting_bytes(self, rows: int) -> int:
        j, k = self.sides
        return 4 * (6 * self.theta.size + rows * (2 * j * j + 4 * k * j + 2 * k * k))


def _side(d: int) -> int:
    """The smallest power of two whose square holds d."""
    side = 1
    while side * side < d:
        side *= 2
    return side
