"""Cells whose step falls exponentially with the weight."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from blackprop.devices.electronic.cells._cell import Cell, Population


@dataclass(frozen=True, kw_only=True)
class ExponentialStep(Cell):
    """`Δ₊ = U max(1 − A₊ e^{γ₊ z}, 0)`, `Δ₋ = D max(1 − A₋ e^{−γ₋ z}, 0)`, with `z = 2 a w/(b₊ − b₋) + b`.

    The noise of a step Δ has the standard deviation `noise · (floor + Δ + slope |w|)`.

    - `amplitude_up`, `amplitude_down` (default 0): A₊ and A₋. `rate_up`, `rate_down` (default 1): γ₊ and γ₋.
    - `a` (default 0.5), `b` (default 0): place the range of the cell on the exponentials.
    - `noise_floor` (units of the weight, default 0), `noise_slope` (default 0): floor and slope of the noise.

    Source: Gong et al., Nat. Commun. 9, 2102 (2018), for resistive memory.
    """

    amplitude_up: float = 0.0
    amplitude_down: float = 0.0
    rate_up: float = 1.0
    rate_down: float = 1.0
    a: float = 0.5
    b: float = 0.0
    noise_floor: float = 0.0
    noise_slope: float = 0.0

    @property
    def granularity(self) -> float:
        z = torch.tensor(self.b)  # at w = 0
        rise = 1 - self.amplitude_up * (self.rate_up * z).exp()
        fall = 1 - self.amplitude_down * (-self.rate_down * z).exp()
        return self.step * float(rise.clamp_min(0) + fall.clamp_min(0)) / 2 or self.step

    def law(self, up: Tensor, cells: Population) -> Population:
        span = (cells["high"] - cells["low"]).clamp_min(1e-12)
        rate = torch.where(up, self.rate_up, -self.rate_down)
        return {
            "low": cells["low"],
            "high": cells["high"],
            "size": torch.where(up, cells["up"], cells["down"]),
            "factor": torch.where(up, self.amplitude_up, self.amplitude_down) * (rate * self.b).exp(),
            "rate": rate * 2 * self.a / span,
        }

    def mean_step(self, w: Tensor, law: Population) -> Tensor:
        return law["size"] * (1 - law["factor"] * (law["rate"] * w).exp()).clamp_min(0)

    def deviation(self, mean: Tensor, w: Tensor, law: Population) -> Tensor:
        del law
        return self.noise * (self.noise_floor + mean + self.noise_slope * w.abs())
