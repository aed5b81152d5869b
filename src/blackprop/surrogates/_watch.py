"""Whether the batches of training still agree with what was calibrated.

The statistics (4,) of a surrogate: the mean squared residual of the batches, smoothed; the same when calm, which is in
the first batches after the calibration; the mean square of the outputs then; and the batches since the calibration.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

CALM = 10  # batches after a calibration that say what residual is normal
EARLY = 3.0  # of what a calibration leaves to expect on average: as much is normal where θ stands
NEGLIGIBLE = 1e-4  # a relative squared residual that spoils no gradient: 1 % of the output


def watched(statistics: Tensor, found: Tensor, y: Tensor) -> Tensor:
    """The statistics after a batch of readings y for which `found` was expected."""
    error, power = (found - y).square().mean(), y.square().mean()
    now, calm, size, seen = statistics.unbind()
    if seen < CALM:
        now, calm, size = error, (calm * seen + error) / (seen + 1), (size * seen + power) / (seen + 1)
    return torch.stack((now + (error - now) / 5, calm, size, seen + 1))


def has_moved(statistics: Tensor, factor: float | None, left: float = 0.0) -> bool:
    """Whether the residual has grown to `factor` times what is normal, which is the residual when calm, or `left`, the
    relative residual that the calibration leaves to expect of any setting: θ may walk to where the fit is no better
    than that, on a device that never changed. In the first batches by `left` alone. None: never.
    """
    now, calm, size, seen = statistics.tolist()
    if factor is None:
        return False
    if seen <= 2 * CALM:  # nothing is calm yet: by what the calibration left, with a margin
        return 0 < left < math.inf and now > max((EARLY * factor * left) ** 2, NEGLIGIBLE) * size
    return now > max(factor**2 * max(calm, left**2 * size), NEGLIGIBLE * size)


def excess(statistics: Tensor, left: float = 0.0) -> float:
    """The residual over what is normal, as root mean squares; 0 before anything is normal."""
    now, calm, size, _ = statistics.tolist()
    normal = max(calm, left**2 * size)
    return math.sqrt(now / normal) if 0 < normal < math.inf else 0.0
