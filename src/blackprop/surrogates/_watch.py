"""Comparison of the training batches with the calibration.

The statistics (4,) of a surrogate:

- the mean squared residual of the batches, smoothed;
- the same in the first batches after the calibration (calm);
- the mean square of the outputs in those batches;
- the number of batches since the calibration.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

CALM = 10  # batches after a calibration that define the normal residual
EARLY = 3.0  # times the residual that a calibration predicts on average: normal at one θ
NEGLIGIBLE = 1e-4  # a relative squared residual without effect on a gradient: 1 % of the output


def watched(statistics: Tensor, found: Tensor, y: Tensor) -> Tensor:
    """Return the statistics after a batch of readings y, of which `found` was predicted."""
    error, power = (found - y).square().mean(), y.square().mean()
    now, calm, size, seen = statistics.unbind()
    if seen < CALM:
        now, calm, size = error, (calm * seen + error) / (seen + 1), (size * seen + power) / (seen + 1)
    return torch.stack((now + (error - now) / 5, calm, size, seen + 1))


def has_moved(statistics: Tensor, factor: float | None, left: float = 0.0) -> bool:
    """Return whether the residual has grown to `factor` times its normal value; None: never.

    Normal is the larger of the calm residual and `left`, the relative residual that the calibration predicts at any
    setting: θ may move to a place where the fit is worse, on a device that never changed. In the first batches `left`
    alone decides.
    """
    now, calm, size, seen = statistics.tolist()
    if factor is None:
        return False
    if seen <= 2 * CALM:  # before a calm value exists: by the calibration's prediction, with a margin
        return 0 < left < math.inf and now > max((EARLY * factor * left) ** 2, NEGLIGIBLE) * size
    return now > max(factor**2 * max(calm, left**2 * size), NEGLIGIBLE * size)


def excess(statistics: Tensor, left: float = 0.0) -> float:
    """Return the residual over its normal value, as root mean squares; 0 before there is a normal value."""
    now, calm, size, _ = statistics.tolist()
    normal = max(calm, left**2 * size)
    return math.sqrt(now / normal) if 0 < normal < math.inf else 0.0
