"""Smooth response curves of many elements from few settings: one common shape, and what each element adds to it."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

TABLE = 16384  # points of the common curve; each holds its value and its slope


def common_curve(turns: Tensor, values: Tensor, harmonics: int) -> Tensor:
    """The periodic curve that fits the samples of all elements best: value and slope (`TABLE`, 2) round a turn.

    `turns` and `values` (n,). Least squares on `harmonics` Fourier terms of the samples' means in 8·harmonics bins (n
    may be millions), with a little roughness penalty for bins that stay empty.
    """
    bins = 8 * harmonics
    index = (turns * bins).floor().long() % bins
    counts = torch.zeros(bins, dtype=torch.float64, device=turns.device)
    counts.index_add_(0, index, torch.ones_like(turns, dtype=torch.float64))
    sums = torch.zeros_like(counts).index_add_(0, index, values.double())
    places = torch.zeros_like(counts).index_add_(0, index, (turns % 1).double())
    full = counts > 0
    weight = counts[full].sqrt()[:, None]
    design = _fourier(places[full] / counts[full], harmonics)
    normal = (design * weight).mT @ (design * weight)
    order = 1 + torch.arange(2 * harmonics, device=turns.device) // 2
    normal.diagonal()[1:] += 1e-6 * len(values) / bins * order**2
    coefficients = torch.linalg.solve(normal, design.mT @ sums[full])
    grid = torch.arange(TABLE, dtype=torch.float64, device=turns.device) / TABLE
    value = _fourier(grid, harmonics) @ coefficients
    slope = (value.roll(-1) - value.roll(1)) * (TABLE / 2)
    return torch.stack((value, slope), 1).to(values.dtype)


def read_table(table: Tensor, turns: Tensor) -> tuple[Tensor, Tensor]:
    """The common curve and its derivative (per turn) at `turns`, any shape: the nearest point and its tangent."""
    place = turns * TABLE
    nearest = place.round()
    value, slope = table[nearest.long().remainder_(TABLE)].unbind(-1)
    return torch.addcmul(value, slope, place - nearest, value=1 / TABLE), slope


def resolved(settings: int) -> int:
    """How many harmonics, the constant among them, `own_harmonics` may return for K = `settings` samples."""
    highest = (settings - 1) // 2
    return max(0, highest + 1 - max(1, highest // 3))


def own_harmonics(residual: Tensor, offsets: Tensor, negligible: float) -> Tensor:
    """What each element adds to the common curve: complex Fourier coefficients (H, *elements), shrunk towards none.

    `residual` (K, *elements) at the turns `k/K + offsets`. Of the (K − 1)/2 harmonics that K samples resolve, the top
    third is taken for noise, and sets the power under which the others are believed less: coefficient h keeps the
    part `1 − noise/power_h` (the empirical Bayes, or Wiener, rule). The first so many are returned that are not
    nothing.
    """
    K = len(residual)
    highest = (K - 1) // 2
    top = highest + 1 - resolved(K)
    if resolved(K) < 1:
        return torch.zeros(0, *offsets.shape, dtype=residual.dtype.to_complex(), device=residual.device)
    order = torch.arange(highest + 1, device=residual.device).view(-1, *[1] * offsets.dim())
    turned = torch.exp(-2j * math.pi * order * offsets)
    found = torch.fft.rfft(residual, dim=0)[: highest + 1] / K * turned
    power = found.abs().square().flatten(1).mean(1)
    noise = power[-top:].mean()
    kept = (1 - noise / power.clamp_min(torch.finfo(power.dtype).tiny)).clamp_min(0)
    kept[-top:] = 0
    kept[(kept < 0.1) | (power < negligible)] = 0  # chance alone leaves a few per cent
    used = int(kept.nonzero().max()) + 1 if bool(kept.any()) else 0
    twice = torch.where(order == 0, 1.0, 2.0)  # a real curve: h and −h
    return (kept.view_as(order.to(kept)) * twice * found)[:used]


def unresolved(residual: Tensor) -> float:
    """The variance of a sample of `residual` (K, *elements) that no fit explains: what the top third of its harmonics
    would be all over, were it white.
    """
    K = len(residual)
    highest = (K - 1) // 2
    top = highest + 1 - resolved(K)
    return K * float((torch.fft.rfft(residual, dim=0)[highest + 1 - top : highest + 1] / K).abs().square().mean())


def nearest_offset(
    read: Callable[[Tensor, int], Tensor], values: Tensor, offset: Tensor, spread: float, noise: float
) -> tuple[Tensor, float]:
    """Where elements stand that were at `offset` (P,): the o (P,) of the least

    `Σ_k (values_k − read(o, k))² / noise + (o − offset)² / spread²`,

    searched within 3 spreads, in steps of 3/64 of one; with the mean square that is left of `values` (K, P). A search
    and no descent: a curve may have the same value on both sides of a resonance.
    """

    def cost(o: Tensor) -> tuple[Tensor, Tensor]:
        wrong = torch.stack([(value - read(o, k)).square() for k, value in enumerate(values)]).mean(0)
        return len(values) * wrong / tiny_safe(noise) + (o - offset).square() / tiny_safe(spread**2), wrong

    def tiny_safe(value: float) -> float:
        return max(value, torch.finfo(values.dtype).tiny)

    best, (least, left) = offset, cost(offset)
    for reach in (3 * spread, 3 * spread / 8):
        centre = best
        for part in torch.linspace(-1, 1, 17).tolist():
            o = centre + part * reach
            now, wrong = cost(o)
            better = now < least
            best, least, left = (torch.where(better, *pair) for pair in ((o, best), (now, least), (wrong, left)))
    return best, float(left.mean())


def read_harmonics(own: Tensor, turns: Tensor) -> tuple[Tensor, Tensor]:
    """The elements' own curves and their derivatives (per turn) at `turns` (*elements)."""
    value, slope = torch.zeros_like(turns), torch.zeros_like(turns)
    step = torch.polar(torch.ones_like(turns), 2 * math.pi * turns)
    wave = torch.ones_like(step)
    for order, coefficient in enumerate(own):
        term = coefficient * wave
        value += term.real
        slope -= 2 * math.pi * order * term.imag
        wave = wave * step
    return value, slope


def _fourier(turns: Tensor, harmonics: int) -> Tensor:
    """`1, cos 2πt, sin 2πt, cos 4πt, …` at t (n,): (n, 2H + 1)."""
    angle = turns[:, None] * (2 * math.pi * torch.arange(1, harmonics + 1, device=turns.device, dtype=turns.dtype))
    waves = torch.stack((angle.cos(), angle.sin()), -1).flatten(1)
    return torch.cat((torch.ones_like(turns)[:, None], waves), 1)
