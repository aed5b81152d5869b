"""Where elements stand on curves that are known, found from few readings."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._procedure import Procedure
from blackprop.core._query import Purpose, Query
from blackprop.surrogates.calibration._calibration import spanning_probes
from blackprop.surrogates.calibration._curves import Curves
from blackprop.surrogates.calibration._range import Range

APART = 1 / 32  # of the range: how far apart the two settings are that find an element on its curve


def read_beside(
    spec: Declaration, range_: Range, input_rms: float | None, theta: Tensor, generator: torch.Generator
) -> Procedure[tuple[list[Tensor], Tensor]]:
    """Two settings, theta (P,) and one beside it, and the readings of every element there (2, P)."""
    probes = spanning_probes(spec, input_rms, theta, generator)
    low, high = spec.theta.bounds(theta)
    # The other setting is on the side where there is room; without limits that is above.
    ahead = torch.where(high - theta >= theta - low, 1.0, -1.0) * APART * (range_.high - range_.low)
    places = [theta, spec.theta.clamp(theta + ahead)]
    readings = yield [Query(probes.rows.unflatten(1, spec.in_shape), t, Purpose.CALIBRATE) for t in places]
    return places, torch.stack([probes.matrix(y.flatten(1)).flatten() for y in readings])


def nearest(curves: Curves, places: list[Tensor], values: Tensor, offset: Tensor, noise: float) -> tuple[Tensor, float]:
    """The offsets with which curves explain `values` (K, P) at `places` best, and the mean square left: how far
    elements moved from `offset` (P,) is told by the first of them.
    """
    value, slope = curves.read(places[0] + offset)
    moved = float((values[0] - value).square().mean()) - noise
    prior = max(0.0, moved / max(float(slope.square().mean()), torch.finfo(slope.dtype).tiny))
    return nearest_offset(lambda o, k: curves.read(places[k] + o)[0], values, offset, math.sqrt(prior), noise)


def within(
    curves: Curves, places: list[Tensor], values: Tensor, offset: Tensor, reach: float, noise: float
) -> tuple[Tensor, float]:
    """The offsets within about `reach` of `offset` (P,), with which curves explain every other one of `values` (K, P),
    and the mean square that is left of the others.
    """
    half = range(0, len(values), 2)
    read = [places[k] for k in half]
    for spread in (reach, reach / 16):
        # As much noise as the steps of the search make of a value.
        coarse = max(noise, (spread / 8) ** 2 * float(curves.read(read[0])[1].square().mean()))
        offset, _ = nearest_offset(lambda o, k: curves.read(read[k] + o)[0], values[::2], offset, spread, coarse)
    wrong = [(curves.read(places[k] + offset)[0] - values[k]).square().mean() for k in range(1, len(values), 2)]
    return offset, float(torch.stack(wrong).mean())


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
