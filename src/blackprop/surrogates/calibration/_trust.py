"""How far calibrated curves may be trusted: whether settings and rows that they were not fitted to agree with them, and
what the errors that are left do to the slopes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from blackprop.surrogates.calibration._curves import clearest, smoothing
from blackprop.surrogates.calibration._spectra import Spectra, orders, slopes, waves

LOOKED_AT = 512  # elements, at most


@dataclass(frozen=True)
class Trust:
    """What is to be expected of the curves of all elements, anywhere in their range."""

    cosine: float
    """Of the slopes to the true ones."""
    signs: float
    """The share of the slopes that have the right sign."""
    left: float
    """The variance of a value."""
    doubts: Tensor
    """The standard errors (S,) of a slope per turn, over each of `WIDTHS`."""


def surprise(found: Spectra, group: Tensor, values: Tensor, turns: Tensor, held: Tensor) -> tuple[float, float, float]:
    """How wrong the curves are about readings `held` (J, P) at `turns` (J, G) that they were not fitted to: the mean
    square; that over what the curves themselves expect of it; and over what readings differ by from the nearest sample.
    The latter tells an order that was taken for another; it is 0 where noise hides it.
    """
    gain, left, _ = found.gains()
    F = waves(turns.mT, found.harmonics, found.samples.even)  # (G, J, n)
    expected = (F @ (left + _shared(found, gain)) * F).sum(2).mT + found.noise  # (J, G)
    curves = found.common + _own(found, gain, group, values)
    wrong = (held.double() - (F[group] @ curves[..., None])[..., 0].mT).square()
    apart = found.samples.turns[:, None] - turns.mT[..., None]  # (G, J, K)
    apart = apart if found.samples.even else (apart + 0.5) % 1 - 0.5
    nearest = apart.abs().argmin(2).mT[:, group]  # (J, P)
    change, noise = float((held - values.gather(0, nearest)).double().square().mean()), found.noise
    missed = max(0.0, float(wrong.mean()) - noise) / (change - 2 * noise) if change > 4 * noise else 0.0
    return float(wrong.mean()), float((wrong / expected[:, group]).mean()), missed


def trust(found: Spectra, group: Tensor, values: Tensor, inflation: float) -> Trust:
    """Of the curves through `values` (K, P), of elements of `group` (P,).

    Halfway between neighbouring samples a slope is known to its posterior variance. That holds on average; where an
    element is harder to explain than elsewhere, its own samples tell: by how far each is off when it is left out, which
    scales the variance beside it. `inflation` scales it everywhere.
    """
    even, H = found.samples.even, found.harmonics
    gain, left, precision = found.gains()
    shared = _shared(found, gain)
    place, rank = found.samples.turns.sort(1)
    middle = torch.lerp(place, torch.cat((place[:, 1:], place[:, :1].new_full((len(place), 1), 0.5)), 1), 0.5)
    if not even:
        middle[:, -1] = (place[:, -1] + place[:, 0] + 1) / 2
    F, D = waves(middle, H, even), slopes(middle, H, even)  # (G, K, n)
    smooth = D * smoothing(orders(H, even, D), even)[:, None, None]  # (S, G, K, n)
    doubts = ((smooth @ (inflation * left + shared)) * smooth).sum(3).mean((1, 2)).sqrt()
    # Evenly over θ, and per θ: a range is gone through as a cosine of the turn.
    weight = (2 * math.pi * middle).sin().abs().clamp_min(0.05) if even else torch.ones_like(middle)
    vary, shares = ((smooth @ each * smooth).sum(3) for each in (left, shared))  # (S, G, K)
    curves = found.common + _own(found, gain, group, values)
    at = (smooth[:, group] @ curves[..., None])[..., 0]  # (S, P, K)
    rest = values.mT.double() - (found.waves @ found.common)[group]
    off = (precision[group] @ rest[..., None])[..., 0].square() / precision.diagonal(dim1=1, dim2=2)[group]
    off = off.gather(1, rank[group])
    beside = (off.roll(1, 1) + off + off.roll(-1, 1) + off.roll(-2, 1)) / 4
    variance = (inflation * vary[:, group] * beside + shares[:, group]).clamp_min(1e-300)
    w, best = weight[group], at[0]
    given, sure = clearest(at, doubts), clearest(at, doubts, at / variance.sqrt())
    # That the mean slope has this sign, and that the slope itself has it: where curves are flat the former is nearer.
    right = (2 + torch.erf(sure.abs() / math.sqrt(2)) + torch.erf(given.sign() * best / (2 * variance[0]).sqrt())) / 4
    told, true = (given * best / w).sum(), ((best.square() + variance[0]) / w).sum()
    value = (F @ (left + shared) * F).sum(2)
    return Trust(
        cosine=float(told / (true * (given.square() / w).sum()).sqrt().clamp_min(1e-300)),
        signs=float((w * right).sum() / w.sum()),
        left=float((weight * value).sum() / weight.sum()) * inflation,
        doubts=doubts,
    )


def _own(found: Spectra, gain: Tensor, group: Tensor, values: Tensor) -> Tensor:  # (P, n)
    rest = values.mT.double() - (found.waves @ found.common)[group]
    return (gain[group] @ rest[..., None])[..., 0]


def _shared(found: Spectra, gain: Tensor) -> Tensor:  # (G, n, n)
    """The covariance that the doubt of the common curve leaves, once what each element adds has made up for it."""
    J = torch.eye(len(found.common)).to(gain) - gain @ found.waves
    return J @ found.doubt @ J.mT
