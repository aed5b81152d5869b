"""Memristive crossbars: a matrix held in conductances, with stuck cells and resistive wires."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import final

import torch
from torch import Tensor

from blackprop.core._declaration import Cost, Coupling
from blackprop.core._theta import ThetaSpec
from blackprop.core.capabilities._cells import Cells
from blackprop.core.capabilities._read_back import ReadBack
from blackprop.devices._matrix import uniform
from blackprop.devices._simulator import Simulator, apply_matrix
from blackprop.errors import ArgumentError


@dataclass(frozen=True)
class Memristor:
    """One kind of cell. Spreads are relative to the largest conductance `g_max`; G/g_max is between `g_min` and 1.

    **Arguments:**

    - `g_max` (S, default 25e-6).
    - `g_min` (part of g_max, default 0).
    - `programming` (default none): (c₀, c₁, …) of the standard deviation `Σ c_k (G/g_max)^k` of a written conductance.
    - `read` (default 0): standard deviation of a reading, relative to G.
    - `drift` (default 0): mean exponent ν of `G(t) = G₀ (t/t₀)^−ν`; `drift_spread` (default 0): its standard deviation
      from cell to cell.
    - `settled` (s, default 1): t₀ after the programming; G is constant before.
    """

    g_max: float = 25e-6
    g_min: float = 0.0
    programming: tuple[float, ...] = ()
    read: float = 0.0
    drift: float = 0.0
    drift_spread: float = 0.0
    settled: float = 1.0

    def __post_init__(self) -> None:
        for name in ("g_max", "settled"):
            if not 0 < getattr(self, name) < math.inf:
                raise ArgumentError(f"`Memristor({name}=...)` must be positive and finite, got {getattr(self, name)}")
        if not 0 <= self.g_min < 1:
            raise ArgumentError(f"`Memristor(g_min=...)` must be at least 0 and below 1 (g_max), got {self.g_min}")
        for name in ("read", "drift", "drift_spread"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ArgumentError(f"`Memristor({name}=...)` must be finite and not negative, got {self}")
        if not all(math.isfinite(c) for c in self.programming):
            raise ArgumentError(f"`Memristor(programming=...)` must be finite numbers, got {self.programming}")

    def spread(self, g: Tensor) -> Tensor:
        """Return the standard deviation of a written conductance g, both relative to g_max."""
        total = torch.zeros_like(g)
        for c in reversed(self.programming):
            total = total * g + c
        return total.clamp_min(0)


IDEAL = Memristor()
# Phase-change memory, one million cells of IBM's (Nandakumar, ICECS 2019; Joshi, Nat. Commun. 11, 2473): the read noise
# is that of half the range 20 s after programming, ν the value above a fifth of the range.
PCM = Memristor(25e-6, 0.0, (0.2635 / 25, 1.9650 / 25, -1.1731 / 25), 0.058, 0.049, 0.008, 20.0)
# Resistive memory one second after programming (Wan, Nature 608, 504 (2022)); no drift law is published with it.
RERAM = Memristor(40e-6, 0.0, tuple(c / 40 for c in (0.348, 16.030, -43.853, 45.393, -16.815)), 0.01)


@final
class ConductanceArray(Simulator):
    """The conductances themselves: `y_i = s · Σ_j (G⁺_ij − G⁻_ij) x_j`, θ = G/g_max ≥ 0, bit line by bit line.

    Output i has the bit lines 2i (+) and 2i + 1 (−) or, with a `reference`, one of its own minus a common one, the
    last. Each bit line has a cell on every word line, so that P = bit lines · d_in. Conductances start from U(g_min,
    1). Coupling ROW for pairs without line resistance.

    With `line` = ρ = r·g_max, the wire resistance between neighbouring cells in units of 1/g_max, the network of all
    wires is solved *exactly*, at any size: word lines driven at the first bit line, bit lines read as virtual ground
    behind the last word line. Bit line k loads the word lines with `S_k = G_k − ρ G_k (L + ρ G_k)⁻¹ G_k`, L the
    Laplacian of a line that ends in ground; from the far end `Y_k = S_k + Y_{k+1} T_{k+1}`, `T_k = (1 + ρ Y_k)⁻¹`; and
    `A_k = 1ᵀ S_k T_k … T_0`. By reciprocity the shorter side is eliminated: max·min³ operations a setting.

    **Arguments:**

    - `d_in`, `d_out`: numbers of inputs and outputs.
    - `reference` (default False): one cell a weight, and a common bit line.
    - `line` (default 0): ρ.
    - `scale` (default 1): s.
    - `g_min` (part of g_max, default 0): the least conductance.
    - `cost` (default None).
    """

    reference: bool
    line: float
    scale: float

    stacks = True
    kept_from: int | None = 0

    def __init__(
        self,
        d_in: int,
        d_out: int,
        *,
        reference: bool = False,
        line: float = 0.0,
        scale: float = 1.0,
        g_min: float = 0.0,
        cost: Cost | None = None,
    ) -> None:
        _check_finite(self, line=line, scale=scale)
        self.reference, self.line, self.scale = reference, line, scale
        self.bit_lines: int = d_out + 1 if reference else 2 * d_out
        size = self.bit_lines * d_in
        theta = ThetaSpec(size, partial(uniform, size, g_min, 1.0), low=0.0)
        coupling = Coupling.NONE if reference or line else Coupling.ROW
        known = [ReadBack(), Cells(scale, "reference" if reference else "pairs")]
        super().__init__(d_in, d_out, theta, linear=True, coupling=coupling, cost=cost, capabilities=known)

    def transfer(self, x: Tensor, theta: Tensor, /) -> Tensor:
        return apply_matrix(self.coefficients(theta), x)

    def coefficients(self, theta: Tensor, /) -> Tensor:
        g = theta.unflatten(-1, (self.bit_lines, *self.in_shape))
        if self.line:
            g = _through_wires(g.double(), self.line).to(theta)
        return self.scale * self._paired(g, -1)

    def variance(self, squares: Tensor) -> Tensor:
        """Return the variance of the matrix elements (d_out, d_in), from that of the conductances (P,); no wires."""
        return self.scale**2 * self._paired(squares.unflatten(-1, (self.bit_lines, *self.in_shape)), 1)

    def _paired(self, g: Tensor, sign: int) -> Tensor:
        if self.reference:
            return g[..., :-1, :] + sign * g[..., -1:, :]
        return g[..., ::2, :] + sign * g[..., 1::2, :]

    def setting_bytes(self, rows: int) -> int:
        side = min(self.bit_lines, *self.in_shape)
        solving = 8 * (6 * side**2 + 4 * self.theta.size) if self.line else 0
        return super().setting_bytes(rows) + solving


@final
class Crossbar(Simulator):
    """A matrix `A = W/√d_in` of wanted weights θ = W in [−1, 1], row-major, held in pairs of conductances:

    `G⁺ = g_min + (1 − g_min) max(W, 0)`, `G⁻ = g_min + (1 − g_min) max(−W, 0)`, `A ∝ G⁺ − G⁻`, in units of g_max; with
    a `reference` in one cell a weight, `G = g_min + (1 − g_min)(1 + W)/2`, minus a bit line of cells at the middle.

    Cells other than stuck ones are written exactly: `Memristive` adds variations between programmings and readings,
    `Quantised` the converters. Coupling ELEMENT without line resistance. Starts from U(−½, ½).

    **Arguments:**

    - `d_in`, `d_out`: numbers of inputs and outputs.
    - `memristor` (default ideal): the kind of cell.
    - `reference` (default False): as above.
    - `line` (Ω, default 0): resistance of a wire from one cell to the next, for which the network is solved exactly
      (`ConductanceArray`).
    - `stuck` (default (0, 0)): the parts of the cells that stay at g_min and at g_max, hidden from all methods.
    - `seed` (default 0): draws the stuck cells.
    - `cost` (default None).

    The sources of the cells' figures are beside the presets `PCM` and `RERAM`.
    """

    stacks = True
    kept_from: int | None = 0

    def __init__(
        self,
        d_in: int,
        d_out: int,
        *,
        memristor: Memristor = IDEAL,
        reference: bool = False,
        line: float = 0.0,
        stuck: tuple[float, float] = (0.0, 0.0),
        seed: int = 0,
        cost: Cost | None = None,
    ) -> None:
        _check_finite(self, line=line)
        if min(stuck) < 0 or not sum(stuck) < 1:
            raise ArgumentError(f"`Crossbar(stuck=...)` takes two parts of the cells below 1 together, got {stuck}")
        coupling = Coupling.NONE if line else Coupling.ELEMENT
        theta = ThetaSpec(d_in * d_out, partial(uniform, d_in * d_out, -0.5, 0.5), low=-1.0, high=1.0)
        known = [ReadBack(), Cells(1 / math.sqrt(d_in))]
        super().__init__(d_in, d_out, theta, linear=True, coupling=coupling, cost=cost, capabilities=known)
        self.memristor = memristor
        span = 1 - memristor.g_min
        scale = (2 if reference else 1) / (span * math.sqrt(d_in))
        self.array: ConductanceArray = ConductanceArray(
            d_in, d_out, reference=reference, line=line * memristor.g_max, scale=scale
        )
        drawn = torch.rand(self.array.theta.size, generator=torch.Generator().manual_seed(seed))
        low, high = drawn < stuck[0], drawn >= 1 - stuck[1]
        self.stuck: Tensor = low | high  # (cells,)
        self._stuck_at = torch.where(high, 1.0, memristor.g_min)

    def wanted(self, theta: Tensor) -> Tensor:
        """Return the conductances (..., cells) / g_max to write for the weights theta (..., P)."""
        low, span = self.memristor.g_min, 1 - self.memristor.g_min
        w = theta.unflatten(-1, (*self.out_shape, *self.in_shape))
        if self.array.reference:
            middle = torch.zeros_like(w[..., :1, :])
            return (low + span * (1 + torch.cat((w, middle), -2)) / 2).flatten(-2)
        plus = w.relu()
        return (low + span * torch.stack((plus, plus - w), -2)).flatten(-3)

    def conductances(self, theta: Tensor) -> Tensor:
        """Return the conductances (..., cells) / g_max after writing them."""
        return torch.where(self.stuck.to(theta.device), self._stuck_at.to(theta), self.wanted(theta))

    def transfer(self, x: Tensor, theta: Tensor, /) -> Tensor:
        return apply_matrix(self.coefficients(theta), x)

    def coefficients(self, theta: Tensor, /) -> Tensor:
        return self.array.coefficients(self.conductances(theta))

    def setting_bytes(self, rows: int) -> int:
        return self.array.setting_bytes(rows)


def _through_wires(g: Tensor, rho: float) -> Tensor:
    """Return the transfer conductances (..., bit lines, word lines) of g behind wires of resistance ρ."""
    if g.shape[-2] < g.shape[-1]:  # reciprocity: drive and read exchanged, both ends with them
        return _through_wires(g.flip(-2, -1).mT, rho).mT.flip(-2, -1)
    eye = torch.eye(g.shape[-1], dtype=g.dtype, device=g.device)
    decay, own = _line(g, rho)
    beyond, rows = torch.zeros_like(eye), g[..., :0, :]
    for k in reversed(range(g.shape[-2])):
        cells, at = g[..., k, :], decay[..., k, :]
        # The inverse of a tridiagonal matrix: element (i, j), j ≥ i, is that of (j, j) times the decay from i to j.
        inner = own[..., k, None, :].expand(*cells.shape, cells.shape[-1]).triu()
        inner = inner + inner.triu(1).mT
        inner = inner * (-(at.unsqueeze(-1) - at.unsqueeze(-2)).abs()).exp()
        load = torch.diag_embed(cells) - rho * cells.unsqueeze(-1) * inner * cells.unsqueeze(-2)
        total = load + beyond
        entering = torch.cholesky_inverse(torch.linalg.cholesky(eye + rho * total))
        rows = torch.cat((load.sum(-2, keepdim=True), rows), -2) @ entering
        beyond = total @ entering
    return rows


def _line(g: Tensor, rho: float) -> tuple[Tensor, Tensor]:
    """Of the inverses of `L + ρ G_k` for all bit lines k of g (..., bit lines, n): minus the logarithm of how a current
    decays from the first cell on, and the diagonal, both as g.
    """
    t = 2 + rho * g
    t = torch.cat((t[..., :1] - 1, t[..., 1:]), -1)
    ahead, behind = [t[..., 0]], [t[..., -1]]  # pivots of the elimination from either end
    for first, last in zip(t[..., 1:].unbind(-1), t[..., :-1].flip(-1).unbind(-1), strict=True):
        ahead.append(first - 1 / ahead[-1])
        behind.append(last - 1 / behind[-1])
    d, e = torch.stack(ahead, -1), torch.stack(behind[::-1], -1)
    decay = d.log().cumsum(-1)
    return torch.cat((torch.zeros_like(decay[..., :1]), decay[..., :-1]), -1), 1 / (d + e - t)


def _check_finite(device: object, **values: float) -> None:
    for name, value in values.items():
        if not 0 <= value < math.inf:
            raise ArgumentError(f"`{type(device).__name__}({name}=...)` must be finite and not negative, got {value}")
