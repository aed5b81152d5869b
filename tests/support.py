"""What the tests draw from and train against."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor

import blackprop as bp

# Real data and the authors' numbers, where they are at hand: a folder that is named, or one beside the checkout.
DATA = Path(os.environ.get("BLACKPROP_DATA") or Path(__file__).parents[2] / "shared" / "data")


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class _Refuse(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y):
        return y.clone()

    @staticmethod
    def backward(ctx, *grads):
        raise AssertionError("a device was differentiated")


class Opaque(bp.Device):
    """A device with the two verbs alone, whose backward raises; keeps a record of what it was asked."""

    def __init__(self, inner: bp.Simulator) -> None:
        super().__init__(inner.in_shape, inner.out_shape, inner.theta, linear=inner.linear, cost=inner.cost)
        self.inner = inner
        self.written: list[Tensor] = []
        self.rows: list[Tensor] = []

    def program(self, theta: Tensor, /) -> None:
        self.written.append(theta.clone())
        self.inner.program(theta)

    def read(self, x: Tensor, /) -> Tensor:
        self.rows.append(x.clone())
        return _Refuse.apply(self.inner.read(x))
