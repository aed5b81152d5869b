"""The simplest device: a resampling of the row, times one gain."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from blackprop.core._declaration import Cost
from blackprop.core._theta import ThetaSpec
from blackprop.devices._simulator import Simulator


class Resampling(Simulator):
    """`y = θ · R x`: linear interpolation from d_in to d_out points with aligned corners, times one gain (1 at the
    start).

    The identity if d_in = d_out. Source: arXiv 2509.15113.
    """

    stacks = True

    def __init__(self, d_in: int, d_out: int, *, cost: Cost | None = None) -> None:
        super().__init__(d_in, d_out, ThetaSpec(1, _one), linear=True, cost=cost)

    def transfer(self, x: Tensor, theta: Tensor, /) -> Tensor:
        rows = x.flatten(0, -2).unsqueeze(1)
        y = F.interpolate(rows, size=self.out_shape[0], mode="linear", align_corners=True)
        return y.squeeze(1).unflatten(0, x.shape[:-1]) * theta.unsqueeze(-2)


def _one(generator: torch.Generator) -> Tensor:
    return torch.ones(1, device=generator.device)
