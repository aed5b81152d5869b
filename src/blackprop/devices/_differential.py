"""Signed rows on unsigned inputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

from blackprop.core._query import Purpose
from blackprop.devices._base import Device
from blackprop.devices._wrapper import Wrapper
from blackprop.errors import IncompatibleError


@final
class Differential(Wrapper):
    """`y = f(b + x⁺) − f(b + x⁻)` with `x⁺ = max(x, 0)`, `x⁻ = max(−x, 0)`: signed rows on inputs in [b, x_high].

    For lasers, amplitude modulators, converters and rates, whose inputs are not negative. b is 0, or the device's
    `x_low` if that is above 0. A linear device stays linear, `y = A x`; any other becomes an odd function of its rows.
    The two rows of a pair are sent one after the other, so that slow drift cancels. Inputs go from −r to r with `r =
    x_high − b`.

    **Costs** two rows for each row, which ledger, prices and budgets include. The difference of two readings has √2
    times the device's noise, relative to the outputs, which is declared; if the two parts nearly cancel, it is more.

    **Raises** `IncompatibleError` for a device whose inputs cannot rise above b.

    >>> import torch, blackprop as bp
    >>> modulator = bp.devices.from_callable(
    ...     lambda x, theta: x @ theta.view(2, 3).T,
    ...     **{"in_shape": 3, "out_shape": 2, "theta_size": 6, "linear": True, "noise": 1e-3, "x_low": 0, "x_high": 1},
    ... )
    >>> layer = bp.PhysicalLayer(bp.devices.Differential(modulator))
    >>> layer(torch.randn(5, 3).clamp(-1, 1)).shape, layer.ledger.total_rows
    (torch.Size([5, 2]), 10)
    """

    x_low: float | None
    x_high: float | None

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self._base = max(0.0, device.x_low if device.x_low is not None else 0.0)
        room = math.inf if device.x_high is None else device.x_high - self._base
        if room <= 0:
            raise IncompatibleError(
                f"`Differential(device)` needs inputs that go above {self._base:g}, and those of {device} end at "
                f"{device.x_high:g}"
            )
        self.x_low, self.x_high = (-room, room) if math.isfinite(room) else (None, None)
        self.noise: float = math.sqrt(2) * device.noise
        self.rows_each: int = 2 * device.rows_each

    @property
    def kind(self) -> str | None:
        return None if self.device.kind is None else f"Differential({self.device.kind})"

    def _drive(self, x: Tensor) -> Tensor:
        pairs = torch.stack(self._parts(x), 1).flatten(0, 1)
        return pairs if self.device.x_high is None else pairs.clamp_max(self.device.x_high)  # b + r may round above it

    def _sense(self, y: Tensor, purpose: Purpose) -> Tensor:
        del purpose
        plus, minus = y.unflatten(0, (-1, 2)).unbind(1)
        return plus - minus

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        plus = x.clamp_min(0)
        return self._base + plus, self._base + (plus - x)  # so that the two slopes at 0 do not both count

    def oracle(self) -> Callable[[Tensor, Tensor], Tensor] | None:
        inner = super().oracle()
        if inner is None:
            return None

        def transfer(x: Tensor, theta: Tensor) -> Tensor:
            plus, minus = self._parts(x)
            return inner(plus, theta) - inner(minus, theta)

        return transfer
