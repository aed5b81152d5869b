"""What may be written to a guarded device and sent through it, looked at as a whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from blackprop.core._declaration import Shape, ThetaSpec
from blackprop.core._query import Query
from blackprop.errors import ArgumentError

Limit = float | Tensor | None
SMALL = 2**14  # values, up to which NumPy is the quicker one
_OF_NUMPY = (torch.float32, torch.float64)


def tightened(spec: ThetaSpec, low: Limit, high: Limit) -> ThetaSpec:
    """The limits of both, and what the device starts from moved into them."""
    if low is None and high is None:
        return spec
    try:
        ThetaSpec(spec.size, low=low, high=high)  # each is right for itself
        limits = {"low": _tighter(spec.low, low, spec.size, max), "high": _tighter(spec.high, high, spec.size, min)}
        tight = replace(spec, **limits, initial=None)
    except ArgumentError as error:
        raise ArgumentError(
            f"`Guarded(low=..., high=...)` must leave every parameter a range within the device's own: {error}"
        ) from error
    return (
        tight if spec.initial is None else replace(tight, initial=lambda generator: tight.clamp(spec.draw(generator)))
    )


def _tighter(own: Limit, other: Limit, size: int, pick: Callable[[float, float], float]) -> Limit:
    if own is None or other is None:
        return other if own is None else own
    if not isinstance(own, Tensor) and not isinstance(other, Tensor):
        return pick(own, other)
    both = [torch.as_tensor(limit, dtype=torch.get_default_dtype()).expand(size) for limit in (own, other)]
    return torch.stack(both).amax(0) if pick is max else torch.stack(both).amin(0)


def clearly_right(queries: Sequence[Query], spec: ThetaSpec, in_shape: Shape, rows_limited: bool = False) -> bool:
    """Whether every setting is finite and within the limits, every row finite, all of the right shape. Limits of rows
    are looked at closer.

    False also where that is not clear at one look: whoever refuses looks closer.
    """
    if rows_limited:
        return False
    settings = list({id(query.theta): query.theta for query in queries}.values())
    rows = {id(query.x): query.x for query in queries}.values()
    if any(theta.shape != (spec.size,) or theta.dtype is not settings[0].dtype for theta in settings):
        return False
    if any(x.dim() == 0 or x.shape[1:] != in_shape for x in rows) or not settings:
        return False
    tensors = (*settings, *rows)
    if sum(map(Tensor.numel, tensors)) <= SMALL and all(t.is_cpu and t.dtype in _OF_NUMPY for t in tensors):
        return all(_within(theta, spec) for theta in settings) and all(map(_finite, rows))
    stacked = torch.stack(settings) if len(settings) > 1 else settings[0]
    low, high = spec.bounds(stacked)
    # NaN is the smallest and the largest of all, and neither comparison holds for it.
    ends = stacked.aminmax() if low.dim() == high.dim() == 0 else (stacked, stacked)
    fine = [(ends[0] >= low).all(), (ends[1] <= high).all(), stacked.sum().isfinite()]
    return bool(torch.stack([*fine, *(x.sum().isfinite().to(stacked.device) for x in rows)]).all())


def _within(theta: Tensor, spec: ThetaSpec) -> bool:
    if isinstance(spec.low, Tensor) or isinstance(spec.high, Tensor):
        low, high = spec.bounds(theta)
        return bool(((theta >= low) & (theta <= high) & theta.isfinite()).all())
    values = theta.detach().resolve_neg().numpy()
    least, most = float(values.min()), float(values.max())  # NaN where one is
    low, high = -math.inf if spec.low is None else spec.low, math.inf if spec.high is None else spec.high
    return low <= least and most <= high and math.isfinite(least) and math.isfinite(most)


def _finite(x: Tensor) -> bool:
    return bool(np.isfinite(x.detach().resolve_neg().numpy()).all())
