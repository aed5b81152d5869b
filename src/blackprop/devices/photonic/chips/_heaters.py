"""How settings become phases: plain phases, or heaters with unequal slopes that warm their neighbours."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from blackprop.core._theta import ThetaSpec
from blackprop.devices.photonic.chips._design import Layout
from blackprop.errors import ArgumentError


@dataclass(frozen=True)
class Heaters:
    """`phase = offset + Σ_j M_ij (1 + h_j) ψ(V_j)`, with `ψ(V) = π (V/v_pi)² (1 + quartic (V/v_pi)²)` and V in volts.

    M is 1 on its diagonal. Heaters of one column at the distance d, in units of that between neighbouring blocks, have
    `M_ij = crosstalk · e^{(1 − d) / reach}`; the two heaters of a block are 1 apart along the light. Columns are far
    apart, and do not warm each other.

    **Arguments:** `v_pi`, V, for half a turn; `v_max`, V, the upper limit, the lower is 0; `quartic`, the relative rise
    of the slope at v_pi; `spread`, the standard deviation of h; `crosstalk`, to the neighbour; `reach`, in blocks;
    `dead`, the number of heaters, drawn at random, that do not heat.
    """

    v_pi: float = 2.0  # V
    v_max: float = 3.0  # V
    quartic: float = 0.0
    spread: float = 0.05
    crosstalk: float = 0.02
    reach: float = 0.5
    dead: int = 0

    def __post_init__(self) -> None:
        for name in ("v_pi", "v_max", "reach"):
            if not 0 < getattr(self, name) < math.inf:
                raise ArgumentError(f"`Heaters({name}=...)` must be positive and finite, got {getattr(self, name)}")
        for name in ("spread", "crosstalk", "dead"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ArgumentError(f"`Heaters({name}=...)` must be finite and not negative, got {getattr(self, name)}")
        if not 1 + 2 * self.quartic * (self.v_max / self.v_pi) ** 2 > 0:
            raise ArgumentError(f"`Heaters(quartic=...)`: the phase must rise up to v_max, got {self.quartic}")

    @property
    def top(self) -> float:
        """The nominal phase at v_max, rad."""
        return float(self.nominal(torch.tensor(self.v_max, dtype=torch.float64)))

    def nominal(self, volts: Tensor) -> Tensor:
        """ψ(V) in rad."""
        square = (volts / self.v_pi).square()
        return math.pi * square * (1 + self.quartic * square)

    @property
    def law(self) -> tuple[float, ...]:
        """The coefficients of ψ in powers of V."""
        square = math.pi / self.v_pi**2
        return (0.0, 0.0, square, 0.0, square * self.quartic / self.v_pi**2) if self.quartic else (0.0, 0.0, square)

    def volts(self, phases: Tensor) -> Tensor:
        """The voltages whose nominal phase is `phases`, rad, from 0 to `top`."""
        ratio = phases.clamp(0, self.top) / math.pi
        square = ratio if not self.quartic else (torch.sqrt(1 + 4 * self.quartic * ratio) - 1) / (2 * self.quartic)
        return (square.sqrt() * self.v_pi).clamp(0, self.v_max)

    def spec(self, size: int) -> ThetaSpec:
        """The setting: `size` voltages."""
        return ThetaSpec(size, low=0.0, high=self.v_max)


@dataclass(frozen=True, eq=False)
class Warmth:
    """Which heaters warm which others, per unit of crosstalk.

    `index` (columns, 2n): the heaters of each column, P where there is none; `place` (P,): where each stands among
    them; `coupling` (columns, 2n, 2n), float64.
    """

    index: Tensor
    place: Tensor
    coupling: Tensor

    def spilt(self, heat: Tensor) -> Tensor:
        """The heat (..., P) that every heater receives of its neighbours' heat (..., P)."""
        padded = torch.cat((heat, torch.zeros_like(heat[..., :1])), -1)
        columns = padded[..., self.index.to(heat.device)]
        received = torch.einsum("...ci,cij->...cj", columns, self.coupling.to(heat))
        return received.flatten(-2)[..., self.place.to(heat.device)]


def warmth(layout: Layout, reach: float) -> Warmth:
    """The coupling of a layout's heaters, for a crosstalk that falls by e over `reach` blocks."""
    widest, phases = 2 * max(map(len, layout.columns)), 2 * layout.blocks
    index = torch.full((len(layout.columns), widest), phases)
    coupling = torch.zeros(len(layout.columns), widest, widest, dtype=torch.float64)
    for column, (pairs, blocks) in enumerate(zip(layout.columns, layout.members, strict=True)):
        count = 2 * len(pairs)
        index[column, :count] = torch.stack((2 * blocks, 2 * blocks + 1), 1).flatten()
        rank = torch.tensor([upper for upper, _ in pairs]).argsort().argsort()  # blocks across the chip
        place = torch.stack((rank.repeat_interleave(2), torch.tensor([0, 1]).repeat(len(pairs))), 1).double()
        distance = torch.cdist(place, place)
        coupling[column, :count, :count] = torch.where(distance > 0, ((1 - distance) / reach).exp(), 0.0)
    return Warmth(index, index.flatten().argsort()[:phases], coupling)
