"""Whether elements move while they are calibrated: settings that are read again tell."""

from __future__ import annotations

import math

from torch import Tensor

from blackprop.surrogates.calibration._spectra import Spectra
from blackprop.surrogates.calibration._waves import orders

ROUNDING = 1e-4  # of the readings, by which two of a device without noise may differ
SURE = 3.0  # standard deviations, by which more elements differ more from an old reading than from a recent one


def moved(old: Tensor, recent: Tensor, power: float = 0.0) -> float:
    """The mean square by which readings moved, from the differences (P,) of readings of one setting: to one of long
    ago, and to one of just now, which noise makes. 0 where the former are not larger for more of the elements, for few
    stand where curves are steep; and where the move is within the rounding of readings of this `power`, their mean
    square: rounding is shared by the elements of a row, and no count of elements tells it from a move.
    """
    more = old.double().square() - recent.double().square()
    clear = float(more.sign().sum()) > SURE * math.sqrt(len(more))
    size = float(more.mean())
    return size if clear and size > ROUNDING**2 * power else 0.0


def displaced(found: Spectra, power: float) -> float:
    """The cosine of slopes to those of elements that are displaced so far that readings differ by `power`, to second
    order: `1 − o² ⟨R''²⟩ / 2⟨R'²⟩`, `o² = power / ⟨R'²⟩`.
    """
    order = 2 * math.pi * orders(found.harmonics, found.samples.even, found.common)
    each = found.common.square() + found.own
    slope, curvature = (float((order**n * each).sum()) for n in (2, 4))
    return max(0.0, 1 - power * curvature / (2 * max(slope, 1e-150) ** 2))
