"""A graded-index fibre: its modes, how fast they travel, and how their light acts on each other's."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from blackprop.errors import ArgumentError

LIGHT = 299_792_458.0  # m/s
PANEL = 16  # Gauss–Legendre nodes a pixel


@dataclass(frozen=True)
class GradedIndexFibre:
    """Silica with the index `n² = n₀² (1 − 2Δ r²/R²)` out to the radius R. Its modes are the Hermite–Gauss functions

    `F_pq(x, y) = √α φ_p(√α x) φ_q(√α y)`, `α = K κ`, with `K = n₀ ω/c`, `κ = √(2Δ)/R` and the orthonormal φ_n of the
    harmonic oscillator; those of one group g = p + q + 1 share the propagation constant `β_g = √(K² − 2 K κ g)`. They
    are ordered group by group: `groups` (groups + 1) / 2 `modes` in all.

    Groups separate in time by the small differences of β_g(ω), and by `delay` for each further group, the effect of a
    profile that is not exactly parabolic. Modes interact by the Kerr effect, `n₂ ω/c · S_plmn`, `S_plmn = ∬ F_p F_l F_m
    F_n`.

    **Arguments:**

    - `groups` (default 3).
    - `radius` (m, default 40e-6): R; `contrast` (default 3.5e-4): Δ; `index` (default 1.45): n₀.
    - `wavelength` (m, default 1.03e-6); `length` (m, default 0.02).
    - `dispersion` (s²/m, default 1.9e-26): β₂ of the material.
    - `delay` (s/m a group, default 5e-13).
    - `kerr` (m²/W, default 3.2e-20): n₂.
    """

    groups: int = 3
    radius: float = 40e-6
    contrast: float = 3.5e-4
    index: float = 1.45
    wavelength: float = 1030e-9
    length: float = 0.02
    dispersion: float = 1.9e-26
    delay: float = 5e-13
    kerr: float = 3.2e-20

    def __post_init__(self) -> None:
        for field in fields(self):
            value, free = getattr(self, field.name), field.name in {"dispersion", "delay", "kerr"}
            if not (-math.inf < value < math.inf and (free or value > 0)):
                allowed = "finite" if free else "positive and finite"
                raise ArgumentError(f"`GradedIndexFibre({field.name}=...)` must be {allowed}, got {value}")
        if self.groups != int(self.groups) or not 1 <= self.groups <= self.guided:
            raise ArgumentError(
                f"`GradedIndexFibre(groups=...)`: a core of {self.radius:g} m and contrast {self.contrast:g} guides "
                f"{self.guided} groups at {self.wavelength:g} m, got {self.groups}"
            )

    @property
    def guided(self) -> int:
        """The number of groups whose β is above that of the cladding, `g ≤ K R √(2Δ) / 2`."""
        return int(self.wave_number * self.radius * math.sqrt(2 * self.contrast) / 2)

    @property
    def wave_number(self) -> float:  # rad/m, K
        return 2 * math.pi * self.index / self.wavelength

    @property
    def alpha(self) -> float:  # 1/m²
        """The inverse square of the modes' unit of length; the field of the first falls to 1/e at `√(2/α)`."""
        return self.wave_number * math.sqrt(2 * self.contrast) / self.radius

    @cached_property
    def orders(self) -> tuple[tuple[int, int], ...]:
        """(p, q) of each mode."""
        return tuple((g - q, q) for g in range(self.groups) for q in range(g + 1))

    @property
    def modes(self) -> int:
        return len(self.orders)

    @property
    def extent(self) -> float:
        """Half the side, in 1/√α, of a square that holds the modes: the turning point of the highest, and half a beam
        more.
        """
        return math.sqrt(2 * self.groups) + 0.5

    def constants(self) -> Tensor:  # (3, modes)
        """Each mode's β₀ in rad/m and β₁ in s/m, minus those of the first, and β₂ in s²/m."""
        g = torch.tensor([p + q + 1 for p, q in self.orders], dtype=torch.float64)
        K, kappa, slow = self.wave_number, self.alpha / self.wave_number, self.index / LIGHT
        beta = (K**2 - 2 * K * kappa * g).sqrt()
        first = slow * (K - kappa * g) / beta + self.delay * g
        second = self.dispersion - slow**2 * (kappa * g) ** 2 / beta**3
        return torch.stack((beta - beta[0], first - first[0], second))

    def at(self, points: Tensor) -> Tensor:  # (points², modes)
        """Return the modes, times 1/√α, on the grid of `points` in 1/√α: row-major, x first."""
        return self._products(hermite(self.groups, points))

    def over(self, side: int) -> Tensor:  # (side², modes)
        """Return the overlap of each mode with each pixel's normalised field, on a square of `side` pixels a side."""
        edges = torch.linspace(-self.extent, self.extent, side + 1, dtype=torch.float64)
        nodes, weights = (torch.as_tensor(v) for v in np.polynomial.legendre.leggauss(PANEL))
        half = self.extent / side
        points = (edges[:-1, None] + half * (1 + nodes)).flatten()
        values = hermite(self.groups, points).view(-1, side, PANEL) @ weights
        return self._products(values * half / math.sqrt(2 * half))

    def kerr_points(self) -> Tensor:  # (points, modes)
        """The f of `S_plmn = α Σ_q f_qp f_ql f_qm f_qn`, exactly: by Gauss–Hermite quadrature."""
        nodes, weights = (torch.as_tensor(v) for v in np.polynomial.hermite.hermgauss(2 * self.groups - 1))
        points = nodes / math.sqrt(2)  # four modes carry e^{−2ξ²}
        values = hermite(self.groups, points) * (weights / math.sqrt(2) * (2 * points.square()).exp()) ** 0.25
        return self._products(values)

    def kerr_tensor(self) -> Tensor:  # (modes, modes, modes, modes), 1/m²
        """S_plmn."""
        f = self.kerr_points()
        return self.alpha * torch.einsum("qp,ql,qm,qn->plmn", f, f, f, f)

    def nonlinearity(self) -> float:
        """`n₂ ω/c · α` in rad/(W m): of `kerr_points`."""
        return self.kerr * 2 * math.pi / self.wavelength * self.alpha

    def steepest(self) -> float:
        """The largest phase rotation by the Kerr effect, in rad/(W m), `n₂ ω/c · max Σ F_p²`.

        All power is then where the modes add up, on the axis or a ring around it.
        """
        along = torch.linspace(0, self.extent, 401, dtype=torch.float64)
        values, centre = hermite(self.groups, along), hermite(self.groups, torch.zeros(1, dtype=torch.float64))
        p, q = (list(part) for part in zip(*self.orders, strict=True))
        return self.nonlinearity() * float((values[p] * centre[q]).square().sum(0).max())

    def _products(self, values: Tensor) -> Tensor:
        """From values (groups, n) along one axis, those of the modes on the square (n², modes)."""
        return torch.stack([torch.outer(values[p], values[q]).flatten() for p, q in self.orders], -1)


def hermite(count: int, points: Tensor) -> Tensor:  # (count, n)
    """The first `count` orthonormal functions of the harmonic oscillator."""
    values = [math.pi**-0.25 * (-points.square() / 2).exp()]
    for n in range(1, count):
        before = values[n - 2] * math.sqrt((n - 1) / n) if n > 1 else 0.0
        values.append(points * values[n - 1] * math.sqrt(2 / n) - before)
    return torch.stack(values)
