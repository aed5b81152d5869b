"""Value and slope of many elements on their common curve in one pass, by compiled code."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Tensor

from blackprop.core._compiling import or_none

MANY = 2**14  # elements from which compiled code serves: fewer are read in less time than Numba is imported


def read_common(place: Tensor, common: tuple[Tensor, Tensor], scale: float) -> tuple[Tensor, Tensor] | None:
    """The common curve at `place` (n,), in points of its table, and its slope times `scale`; None where the plain path
    serves: few elements, other precisions and devices.
    """
    if place.numel() < MANY or place.dtype != torch.float32 or not place.is_cpu or (loop := _loop()) is None:
        return None
    value, slope = torch.empty_like(place), torch.empty_like(place)
    heights, rises = (each.numpy() for each in common)
    loop(place.numpy(), heights, rises, np.float32(scale), value.numpy(), slope.numpy())
    return value, slope


@cache
def _loop() -> Callable[..., None] | None:
    return or_none(_build, "response curves")


def _build() -> Callable[..., None]:
    from blackprop.surrogates.calibration.compiled import _loops  # noqa: PLC0415

    one = np.zeros(2, np.float32)
    _loops.read_common(one, one, one, np.float32(1), one.copy(), one.copy())  # compiles, or fails here
    return _loops.read_common
