"""The phases at which curves agree with each other, or with a family of curves."""

from __future__ import annotations

import torch
from torch import Tensor

from blackprop.surrogates.calibration._waves import complex_orders, tabulated

FINE = 256  # phases that correlations are taken at
STARTS = 6  # elements that the others are aligned with
ROUNDS = 8  # of aligning curves with their mean
TABLE = 8192  # points of a function that is read often
PHASES = 96  # that a search goes through


def align(curves: Tensor) -> Tensor:
    """The phases (E,) at which curves (E, n) agree with one common shape: `curve_e(t) ≈ shape(t + o_e)`.

    Each curve takes the phase of its greatest correlation with the mean of all, turned back by theirs. Of several
    curves to begin with, the one counts that ends with the greatest correlation.
    """
    orders = complex_orders(curves)
    orders = torch.cat((torch.zeros_like(orders[:, :1]), orders[:, 1:]), 1)
    size = orders.abs().square().sum(1).sqrt().clamp_min(1e-30)
    tried = [_agreement(orders, size, start) for start in range(0, len(curves), max(1, len(curves) // STARTS))]
    return max(tried, key=lambda each: each[0])[1]


def _agreement(orders: Tensor, size: Tensor, start: int) -> tuple[float, Tensor]:
    """The mean correlation of curves with their mean, and their phases (E,), begun with the curve `start`."""
    shape, phase, greatest = orders[start], torch.zeros_like(size), torch.zeros_like(size)
    for _ in range(ROUNDS):
        greatest, place = torch.fft.irfft(orders.conj() * shape, n=FINE, norm="forward").max(1)
        phase = place.to(size) / FINE
        shape = _turned(orders, -phase).mean(0)
    return float((greatest / size).mean() / shape.abs().square().sum().sqrt().clamp_min(1e-30)), phase


def _turned(orders: Tensor, phase: Tensor) -> Tensor:
    order = torch.arange(orders.shape[1], device=phase.device)
    return orders * torch.polar(torch.ones_like(phase), 2 * torch.pi * phase)[:, None].pow(order)


def scan(
    functions: Tensor, noise: float, turns: Tensor, group: Tensor, values: Tensor, near: Tensor | None = None
) -> Tensor:
    """The likeliest phase (E,), of `PHASES`, of elements whose samples are `values` (K, E) at `turns` (G, K):

    `−2 log p(y | o) = |y − m|²/σ² − |L_M⁻¹ Bᵀ(y − m)|²/σ⁴ + log det M`, `M = 1 + BᵀB/σ² = L_M L_Mᵀ`,

    with the shape m and the modes B that the first and the other columns of `functions` (n, 1 + r) are at `t + o`. An
    element that is `near` (E,) the best keeps its phase.
    """
    table, _ = tabulated(functions.mT, False, TABLE)
    grid = torch.arange(PHASES, device=turns.device, dtype=turns.dtype) / PHASES
    found = turns.new_zeros(values.shape[1])
    for g in group.unique().tolist():
        some = (group == g).nonzero()[:, 0]
        places = ((turns[g] + grid[:, None]) * TABLE).round().long() % TABLE
        shape, modes = table[places].split((1, functions.shape[1] - 1), 2)  # (N, K, 1), (N, K, r)
        M = modes.mT @ modes / noise + torch.eye(modes.shape[2]).to(modes)
        L = torch.linalg.cholesky(M)
        explained = torch.linalg.solve_triangular(L, modes.mT, upper=False) / noise  # (N, r, K)
        rest = values[:, some].to(modes) - shape  # (N, K, e)
        cost = rest.square().sum(1) / noise - (explained @ rest).square().sum(1)
        cost += 2 * L.diagonal(dim1=1, dim2=2).log().sum(1)[:, None]
        found[some] = grid[cost.argmin(0)]
    if near is None:
        return found
    apart = (found - near + 0.5) % 1 - 0.5
    return torch.where(apart.abs() < 1.5 / PHASES, near, found)
