"""Devices whose parameters are the elements of a matrix, or the factors of one."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from blackprop.core._declaration import Cost, Coupling
from blackprop.core._theta import ThetaSpec
from blackprop.core.capabilities._cells import Cells
from blackprop.core.capabilities._read_back import ReadBack
from blackprop.devices._simulator import Simulator, apply_matrix
from blackprop.errors import ArgumentError


class Matrix(Simulator):
    """A matrix that is programmed element by element: `A = θ`, row-major.

    Starts from the Kaiming uniform draw of a digital layer, `U(−1/√d_in, 1/√d_in)`. Source: arXiv 2509.15113.

    **Arguments:**

    - `d_in`, `d_out`: numbers of inputs and outputs.
    - `cost` (default None).
    """

    stacks = True

    def __init__(self, d_in: int, d_out: int, *, cost: Cost | None = None) -> None:
        bound = 1 / math.sqrt(d_in)
        theta = ThetaSpec(d_in * d_out, partial(uniform, d_in * d_out, -bound, bound))
        super().__init__(
            d_in, d_out, theta, linear=True, coupling=Coupling.ELEMENT, cost=cost, capabilities=[ReadBack(), Cells()]
        )

    def transfer(self, x: Tensor, theta: Tensor, /) -> Tensor:
        return apply_matrix(theta.unflatten(-1, (*self.out_shape, *self.in_shape)), x)


class LowRank(Simulator):
    """A matrix of rank at most r: `A = L R`, with R `(r, d_in)` first in θ and then L `(d_out, r)`, both row-major.

    Starts from N(0, 0.1²). Source: arXiv 2509.15113.

    **Arguments:**

    - `d_in`, `d_out`: numbers of inputs and outputs.
    - `rank` (default 10): r.
    - `cost` (default None).
    """

    stacks = True

    def __init__(self, d_in: int, d_out: int, *, rank: int = 10, cost: Cost | None = None) -> None:
        if not 1 <= rank <= min(d_in, d_out):
            raise ArgumentError(f"`LowRank(rank=...)` must be between 1 and min(d_in, d_out), got {rank}")
        self.rank = rank
        size = rank * (d_in + d_out)
        theta = ThetaSpec(size, partial(normal, size, 0.0, 0.1))
        super().__init__(d_in, d_out, theta, linear=True, cost=cost, capabilities=[ReadBack()])

    def transfer(self, x: Tensor, theta: Tensor, /) -> Tensor:
        right, left = theta.split([self.rank * self.in_shape[0], self.rank * self.out_shape[0]], -1)
        right = right.unflatten(-1, (self.rank, *self.in_shape))
        return apply_matrix(left.unflatten(-1, (*self.out_shape, self.rank)), apply_matrix(right, x))


def uniform(size: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return torch.rand(size, generator=generator, device=generator.device) * (high - low) + low


def normal(size: int, mean: float, std: float, generator: torch.Generator) -> Tensor:
    return torch.randn(size, generator=generator, device=generator.device) * std + mean
