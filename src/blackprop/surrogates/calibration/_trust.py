"""How far calibrated curves may be trusted: held-out readings, and errors propagated to slopes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from blackprop.surrogates.calibration._curves import clearest, smoothing
from blackprop.surrogates.calibration._posterior import Posterior
from blackprop.surrogates.calibration._waves import orders

LOOKED_AT = 512  # elements, at most
PEAKED = (3.5, 5.0)  # the kurtosis of slopes, from which on and beyond which curves are flat between their steep parts
BROAD = 1 / 3  # of the standard errors that slopes are held against where curves have no flat parts
STRAY = 9.0  # times the expected square, by which the samples of an element are off that is not explained
AGAINST = 2.5  # standard errors by which readings must speak against a fit
TOLD = 0.2  # variance of the logarithm of the share of the slopes' power that the curves expect to miss
MISSED = 0.25  # of that power: an order was taken for another where more is missed, and that is believed
LEAST = 1e-4  # of the slopes' power: no readings say that less is left


@dataclass(frozen=True)
class Trust:
    """The errors expected of the curves of all elements, anywhere in their range."""

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
    errors: Tensor = field(compare=False)
    """The square errors (E, J)."""


def surprise(curves: Posterior, values: Tensor, turns: Tensor, held: Tensor, noise: float, drift: float) -> Surprise:
    """Compare curves through `values` (K, E) with readings `held` (J, E) at `turns` (J, G).

    The differences to the nearest samples are slopes that were measured. The share of them that is missed needs
    the variance `noise` of a reading: a fit of few samples takes for noise the power that it cannot explain. Where
    several are held out, the first, which is beside a sample, only lets the fit tell noise from roughness: the others,
    amid gaps, are compared. One by itself tells an order that was taken for another, and no more. `drift` is the
    variance of a reading by which elements have moved since the samples were read.
    """
    alone = len(held) == 1
    turns, held, noise = (turns, held, curves.noise) if alone else (turns[1:], held[1:], noise)
    noise += drift
    places = turns.mT[curves.group]  # (R, J)
    F = curves.waves(places)
    expected = curves.variance(F) + curves.noise + drift
    wrong = (held.mT.double() - curves.mean(F)).square()  # (E, J)
    apart = curves.turns[:, None] - places[..., None]  # (R, J, K)
    apart = apart if curves.even else (apart + 0.5) % 1 - 0.5
    nearest = apart.abs().argmin(2)[curves.row]
    change = float((held.mT - values.mT.gather(1, nearest)).double().square().mean()) - 2 * noise
    mean = float(wrong.mean())
    missed, doubt = 1.0, math.inf
    if change > 2 * noise and not (alone and mean - noise < MISSED * change):
        missed = min(1.0, max((mean - noise) / change, LEAST))
        spread = float(wrong.square().mean()) / max(mean**2, 1e-300) / wrong.numel()
        doubt = 0.0 if alone else 2 * spread + 8 * (noise / change) ** 2
    return Surprise(mean, float((wrong / expected[curves.row]).mean()), missed, doubt, wrong)


def contradicted(one: Surprise, other: Surprise) -> bool:
    """Whether the errors of one fit are clearly larger than those of the other."""
    more = (one.errors - other.errors).flatten()
    return float(more.mean()) > AGAINST * float(more.std(correction=0)) / math.sqrt(len(more))


def trust(curves: Posterior, held: Surprise) -> Trust:
    """How far curves may be trusted, anywhere in their range.

    Halfway between neighbouring samples a slope is known to its posterior variance. That holds on average; where an
    element is harder to explain than elsewhere, its own samples tell: by how far each is off when it is left out, which
    scales the variance beside it. It is scaled everywhere where readings that were held out err by more than expected,
    and the share of the slopes' power that is left is told by both, each as far as it is known.

    The slope that is delivered is of a wider part where the curve is flat. Where all slopes are alike in size, that is
    a loss, as the variance has it. Where they are peaked (by their kurtosis), flat parts vary less than the mean, and
    the wider slope is the better one; of a range without period this is half believed.
    """
    inflation = max(1.0, held.over)
    even, row = curves.even, curves.row
    place, rank = curves.turns.sort(1)
    middle = torch.lerp(place, torch.cat((place[:, 1:], place[:, :1].new_full((len(place), 1), 0.5)), 1), 0.5)
    if not even:
        middle[:, -1] = (place[:, -1] + place[:, 0] + 1) / 2
    F, D = curves.waves(middle), curves.slopes(middle)  # (R, K, n)
    # Evenly over θ, and per θ: a range is gone through as a cosine of the turn.
    weight = (2 * math.pi * middle).sin().abs().clamp_min(0.05) if even else torch.ones_like(middle)
    smooth = [D * scale for scale in smoothing(orders(curves.harmonics, even, D), even)]
    at = torch.stack([curves.mean(each) for each in smooth])  # (S, E, K)
    left, shared = (torch.stack(each) for each in zip(*map(curves.variances, smooth), strict=True))  # (S, R, K)
    shared = shared + curves.tail(smoothing)[:, None, None]
    doubts = (inflation * left + shared).mean(2).median(1).values.sqrt()  # of most elements: strays vary by more
    off = curves.off.gather(1, rank[row])
    beside = (off.roll(1, 1) + off + off.roll(-1, 1) + off.roll(-2, 1)) / 4
    variance = (inflation * left[:, row] * beside + shared[:, row]).clamp_min(1e-300)
    w, best = weight[row], at[0]
    # An element whose samples are far off is not explained: its slopes may be wrong by as much as they are.
    stray = curves.off.mean(1, keepdim=True) > STRAY
    variance[0] = torch.where(stray, torch.maximum(variance[0], best.square()), variance[0])
    kurtosis = float(best.pow(4).mean() / best.square().mean().square().clamp_min(1e-300))
    peaked = min(1.0, max(0.0, (kurtosis - PEAKED[0]) / (PEAKED[1] - PEAKED[0])))
    doubts = doubts * (BROAD + (1 - BROAD) * peaked)
    peaked *= 0.5 if even else 1.0
    given, sure = clearest(at, doubts), clearest(at, doubts, at / variance.sqrt())
    # That the slope itself has this sign, and that the mean slope has it.
    signs = torch.erf(given.sign() * best / (2 * variance[0]).sqrt()), torch.erf(sure.abs() / math.sqrt(2))
    right = (1 + torch.lerp(*signs, peaked)) / 2
    told, true = (given * best / w).sum(), ((best.square() + variance[0]) / w).sum()
    cosine = float(told / (true * (given.square() / w).sum()).sqrt().clamp_min(1e-300))
    ideal = float(((best.square() / w).sum() / true.clamp_min(1e-300)).sqrt())
    value = curves.variance(F)
    return Trust(
        cosine=_both(cosine + (ideal - cosine) * peaked, held),
        signs=float((w * right).sum() / w.sum()),
        left=float((weight * value).sum() / weight.sum()) * inflation,
        doubts=doubts,
    )


def _both(cosine: float, held: Surprise) -> float:
    """The cosine by the curves' variance and by held-out readings: weighted logarithms of the power that is left."""
    if cosine <= 0 or held.doubt == math.inf:
        return cosine
    if not held.doubt:
        return min(cosine, math.sqrt(1 - held.missed))
    told, seen = math.log(max(1 - cosine**2, LEAST)), math.log(held.missed)
    left = math.exp((told / TOLD + seen / held.doubt) / (1 / TOLD + 1 / held.doubt))
    return math.sqrt(max(0.0, 1 - left))
