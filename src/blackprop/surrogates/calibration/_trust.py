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
PEAKED = (3.5, 5.0)  # the kurtosis of slopes, from which on and beyond which curves are flat between their steep parts
TOLD = 0.2  # variance of the logarithm of what the curves expect to leave of the slopes' power, itself
MISSED = 0.25  # of that power: an order was taken for another where more is missed, and that is believed
LEAST = 1e-4  # of the slopes' power: no readings say that less is left


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


@dataclass(frozen=True)
class Surprise:
    """How wrong curves are about readings that they were not fitted to."""

    wrong: float
    """The mean square error."""
    over: float
    """The same over what the curves themselves expect of it, on average."""
    missed: float
    """The share of the power by which readings differ from the nearest sample that the curves do not explain."""
    doubt: float
    """The variance of the logarithm of that share; infinite where noise hides it, 0 where it limits the cosine."""


def surprise(
    found: Spectra, group: Tensor, values: Tensor, turns: Tensor, held: Tensor, noise: float, drift: float
) -> Surprise:
    """Compare the curves through `values` (K, P) with readings `held` (J, P) at `turns` (J, G).

    The differences to the nearest samples are slopes that were measured. Which share of them is missed needs the
    variance `noise` of a reading: a fit of few samples takes what it cannot explain for noise. Where several are held
    out, the first, which is beside a sample, only lets the fit tell noise from roughness: the others, amid gaps, are
    compared. One by itself tells an order that was taken for another, and no more. `drift` is the variance of a reading
    by which elements have moved since the samples were read.
    """
    alone = len(held) == 1
    turns, held, noise = (turns, held, found.noise) if alone else (turns[1:], held[1:], noise)
    noise += drift
    gain, left, _ = found.gains()
    F = waves(turns.mT, found.harmonics, found.samples.even)  # (G, J, n)
    expected = (F @ (left + _shared(found, gain)) * F).sum(2).mT + found.noise + drift  # (J, G)
    curves = found.common + _own(found, gain, group, values)
    wrong = (held.double() - (F[group] @ curves[..., None])[..., 0].mT).square()
    apart = found.samples.turns[:, None] - turns.mT[..., None]  # (G, J, K)
    apart = apart if found.samples.even else (apart + 0.5) % 1 - 0.5
    nearest = apart.abs().argmin(2).mT[:, group]  # (J, P)
    change = float((held - values.gather(0, nearest)).double().square().mean()) - 2 * noise
    mean = float(wrong.mean())
    missed, doubt = 1.0, math.inf
    if change > 2 * noise and not (alone and mean - noise < MISSED * change):
        missed = min(1.0, max((mean - noise) / change, LEAST))
        spread = float(wrong.square().mean()) / max(mean**2, 1e-300) / wrong.numel()
        doubt = 0.0 if alone else 2 * spread + 8 * (noise / change) ** 2
    return Surprise(mean, float((wrong / expected[:, group]).mean()), missed, doubt)


def trust(found: Spectra, group: Tensor, values: Tensor, held: Surprise) -> Trust:
    """Of the curves through `values` (K, P), of elements of `group` (P,).

    Halfway between neighbouring samples a slope is known to its posterior variance. That holds on average; where an
    element is harder to explain than elsewhere, its own samples tell: by how far each is off when it is left out, which
    scales the variance beside it. It is scaled everywhere where readings that were held out err by more than expected,
    and the share of the slopes' power that is left is told by both, each as far as it is known.

    The slope that is delivered is of a wider part where the curve is flat. Where all slopes are alike in size, that is
    a loss, as the variance has it. Where they are peaked (by their kurtosis), flat parts vary less than the mean, and
    the wider slope is the better one; of a range without period this is half believed.
    """
    inflation = max(1.0, held.over)
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
    kurtosis = float(best.pow(4).mean() / best.square().mean().square().clamp_min(1e-300))
    peaked = min(1.0, max(0.0, (kurtosis - PEAKED[0]) / (PEAKED[1] - PEAKED[0]))) * (0.5 if even else 1.0)
    # That the slope itself has this sign, and that the mean slope has it.
    signs = torch.erf(given.sign() * best / (2 * variance[0]).sqrt()), torch.erf(sure.abs() / math.sqrt(2))
    right = (1 + torch.lerp(*signs, peaked)) / 2
    told, true = (given * best / w).sum(), ((best.square() + variance[0]) / w).sum()
    cosine = float(told / (true * (given.square() / w).sum()).sqrt().clamp_min(1e-300))
    ideal = float(((best.square() / w).sum() / true.clamp_min(1e-300)).sqrt())
    value = (F @ (left + shared) * F).sum(2)
    return Trust(
        cosine=_both(cosine + (ideal - cosine) * peaked, held),
        signs=float((w * right).sum() / w.sum()),
        left=float((weight * value).sum() / weight.sum()) * inflation,
        doubts=doubts,
    )


def _both(cosine: float, held: Surprise) -> float:
    """The cosine by what the curves expect, and by what was held out: the logarithms of what is left, weighted."""
    if cosine <= 0 or held.doubt == math.inf:
        return cosine
    if not held.doubt:
        return min(cosine, math.sqrt(1 - held.missed))
    told, seen = math.log(max(1 - cosine**2, LEAST)), math.log(held.missed)
    left = math.exp((told / TOLD + seen / held.doubt) / (1 / TOLD + 1 / held.doubt))
    return math.sqrt(max(0.0, 1 - left))


def _own(found: Spectra, gain: Tensor, group: Tensor, values: Tensor) -> Tensor:  # (P, n)
    rest = values.mT.double() - (found.waves @ found.common)[group]
    return (gain[group] @ rest[..., None])[..., 0]


def _shared(found: Spectra, gain: Tensor) -> Tensor:  # (G, n, n)
    """The covariance that the doubt of the common curve leaves, once what each element adds has made up for it."""
    J = torch.eye(len(found.common)).to(gain) - gain @ found.waves
    return J @ found.doubt @ J.mT
