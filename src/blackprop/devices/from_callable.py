"""A device from a plain function of rows and a setting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from blackprop.declaration import Cost, Coupling, Shape, ThetaSpec
from blackprop.devices.base import Device
from blackprop.errors import ArgumentError


def from_callable(
    fn: Callable[[Tensor, Tensor], Tensor],
    *,
    in_shape: int | Shape,
    out_shape: int | Shape,
    theta_size: int,
    initial: Callable[[torch.Generator], Tensor] | None = None,
    low: float | Tensor | None = None,
    high: float | Tensor | None = None,
    period: float | None = None,
    linear: bool = False,
    coupling: Coupling = Coupling.NONE,
    cost: Cost | None = None,
    noise: float = 0.0,
    x_low: float | None = None,
    x_high: float | None = None,
) -> Device:
    """The device `y = fn(x, theta)`: rows `(rows, *in_shape)` and a setting `(theta_size,)` in, `(rows, *out_shape)`
    out.

    `fn` may be anything: a foreign simulator, an instrument, a process. It is called without autograd, once a query.
    The other arguments are those of `ThetaSpec` and `Device`.

    >>> import torch, blackprop as bp
    >>> device = bp.devices.from_callable(lambda x, theta: torch.tanh(x * theta), in_shape=4, out_shape=4, theta_size=4)
    >>> bp.PhysicalLayer(device)(torch.zeros(3, 4)).shape
    torch.Size([3, 4])
    """
    theta = ThetaSpec(theta_size, initial, low, high, period)
    declared = {"linear": linear, "coupling": coupling, "cost": cost, "noise": noise, "x_low": x_low, "x_high": x_high}
    return _Callable(fn, in_shape, out_shape, theta, **declared)


class _Callable(Device):
    def __init__(
        self,
        fn: Callable[[Tensor, Tensor], Tensor],
        in_shape: int | Shape,
        out_shape: int | Shape,
        theta: ThetaSpec,
        **declared: Any,
    ) -> None:
        super().__init__(in_shape, out_shape, theta, **declared)
        self._fn = fn
        self._setting: Tensor | None = None

    def program(self, theta: Tensor, /) -> None:
        self._setting = theta.detach().clone()

    def read(self, x: Tensor, /) -> Tensor:
        if self._setting is None:
            raise ArgumentError(f"{self} must be programmed before it is read")
        return self._fn(x.detach(), self._setting)

    def __repr__(self) -> str:
        return super().__repr__().replace("_Callable", getattr(self._fn, "__name__", type(self._fn).__name__), 1)
