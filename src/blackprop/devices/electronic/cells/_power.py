"""Cells whose step is a power of the distance to the bound."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from blackprop.devices.electronic.cells._cell import Cell, Normal, Population


@dataclass(frozen=True, kw_only=True)
class PowerStep(Cell):
    """`Δ₊ = U ((b₊ − w)/R)^γ₊`, `Δ₋ = D ((w − b₋)/R)^γ₋`, with the range `R = b₊ − b₋` and `γ± = γ (1 ± α + s n)`.

    - `power` (default 1): γ. `power_asymmetry` (default 0): α. `power_spread` (default 0.1): s, from cell to cell.
    """

    power: float = 1.0
    power_asymmetry: float = 0.0
    power_spread: float = 0.1

    @property
    def granularity(self) -> float:
        return self.step * 0.5**self.power

    def _shaped(self, cells: Population, normal: Normal) -> Population:
        del cells
        both = (1 + self.power_asymmetry, 1 - self.power_asymmetry)
        rise, fall = (self.power * (part + self.power_spread * normal()) for part in both)
        return {"power_up": rise.abs(), "power_down": fall.abs()}

    def law(self, up: Tensor, cells: Population) -> Population:
        return {
            "low": cells["low"],
            "high": cells["high"],
            "size": torch.where(up, cells["up"], cells["down"]),
            "power": torch.where(up, cells["power_up"], cells["power_down"]),
            "bound": torch.where(up, cells["high"], cells["low"]),
            "span": (cells["high"] - cells["low"]).clamp_min(1e-12),
        }

    def mean_step(self, w: Tensor, law: Population) -> Tensor:
        return law["size"] * ((law["bound"] - w).abs() / law["span"]).clamp(0, 1).pow(law["power"])
