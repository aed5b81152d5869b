"""The agreement of alike devices, and corrections of their outputs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from blackprop.core._ledger import Ledger


@dataclass(frozen=True, eq=False)
class Agreement:
    """The result of `Farm.calibrate` for each member.

    `before` and `after` are the root mean squares of `y_m − y_r` over that of `y_r`, without and with the correction,
    at the settings that the corrections were not fitted to; NaN for a member that gave no answer. r is `reference`.
    """

    reference: int
    before: tuple[float, ...]
    after: tuple[float, ...]
    taken_out: tuple[int, ...]
    """Members that disagree by more than the tolerance, or failed."""
    ledger: Ledger
    """The price, booked as `CALIBRATE`."""


@dataclass(frozen=True, eq=False)
class Fit:
    """The map of one member's outputs to another's: `correction` (2, d_out), gains and offsets; None if useless."""

    correction: Tensor | None
    before: float
    after: float


def corrected(y: Tensor, correction: Tensor | None) -> Tensor:
    """`gain ⊙ y + offset`, y (rows, *out_shape)."""
    if correction is None:
        return y
    gain, offset = correction.to(y).unflatten(1, y.shape[1:])
    return gain * y + offset


def fitted(own: Tensor, wanted: Tensor) -> Fit:
    """The gain and offset of each output that bring `own` (settings, rows, d_out) to `wanted`, by least squares over
    the even settings; the odd ones tell how far they do.
    """
    own, wanted = own.double(), wanted.double()
    x, y = own[0::2].flatten(0, 1), wanted[0::2].flatten(0, 1)
    x0, y0 = x.mean(0), y.mean(0)
    variance = (x - x0).square().sum(0)
    gain = torch.where(variance > 0, ((x - x0) * (y - y0)).sum(0) / variance, 1.0)
    correction = torch.stack([gain, y0 - gain * x0])
    before = disagreement(own[1::2], wanted[1::2])
    after = disagreement(gain * own[1::2] + correction[1], wanted[1::2])
    return Fit(correction, before, after) if after < before else Fit(None, before, before)


def disagreement(own: Tensor, wanted: Tensor) -> float:
    """`‖own − wanted‖ / ‖wanted‖`; infinite if `wanted` alone is zero."""
    size, apart = float(wanted.double().norm()), float((own - wanted).double().norm())
    return apart / size if size else (math.inf if apart else 0.0)


def reference(readings: dict[int, Tensor]) -> tuple[int, dict[int, Fit]]:
    """Return the device with which the others agree best, and all fits; readings are (settings, rows, d_out)."""
    found = {at: {other: fitted(y, wanted) for other, y in readings.items()} for at, wanted in readings.items()}
    best = min(found, key=lambda at: sum(fit.after for fit in found[at].values()))
    return best, found[best]
