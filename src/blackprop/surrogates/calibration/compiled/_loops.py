"""The loop over elements that reads their common curve, compiled by Numba. Imported by `_curves` alone, at need.

One pass over memory in place of ten. Arithmetic is float32, and in the order of the plain path.
"""

from __future__ import annotations

from typing import Any

import numba  # pyright: ignore[reportMissingImports]
import numpy as np

OPTIONS: dict[str, Any] = {"fastmath": {"contract", "nsz"}, "error_model": "numpy", "nogil": True, "cache": True}


@numba.njit(**OPTIONS)
def read_common(place, heights, rises, scale, value, slope):
    """The common curve at `place` (n,), in points of its table; the slope times `scale`."""
    last, step = heights.size - 1, np.float32(1 / heights.size)
    for i in range(place.size):
        whole = np.rint(place[i])
        k = np.int64(whole) & last
        rise = rises[k]
        value[i] = heights[k] + rise * (place[i] - whole) * step
        slope[i] = rise * scale
