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


def make_layer(device: bp.Device | None = None, **kwargs) -> bp.PhysicalLayer:
    device = device if device is not None else bp.devices.LightModulator(6, 4)
    method = kwargs.pop("method", None) or bp.presets.paper(rank=2, samples=3)
    return bp.PhysicalLayer(device, *method, generator=torch.Generator().manual_seed(1), **kwargs)


def oracle_layer(device: bp.Device | None = None, **kwargs) -> bp.PhysicalLayer:
    return make_layer(device, method=bp.presets.oracle(), **kwargs)


def behind_a_linear(layer: bp.PhysicalLayer) -> torch.nn.Sequential:
    first = torch.nn.Linear(5, 6)
    with torch.no_grad():
        first.weight.copy_(draw(6, 5))
        first.bias.zero_()
    return torch.nn.Sequential(first, layer)


def backward(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    loss = model(x).square().mean()
    loss.backward()
    return loss.detach()
