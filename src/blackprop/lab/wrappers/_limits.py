"""The limits of a guarded device: the tighter of its own and the guard's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from blackprop.core._theta import ThetaSpec
from blackprop.errors import ArgumentError, LimitError, ShapeError

Limit = float | Tensor | None


def tightened(spec: ThetaSpec, low: Limit, high: Limit) -> ThetaSpec:
    """Return the tighter limits, with the initial values moved into them."""
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


def checked_park(spec: ThetaSpec, park: Tensor | None) -> Tensor | None:
    """Return the parking setting (P,), which the device must be allowed to take."""
    if park is None:
        return None
    try:
        park = torch.as_tensor(park, dtype=torch.get_default_dtype()).detach().clone()
        spec.check(park)
    except (LimitError, ShapeError, TypeError, ValueError) as error:
        raise ArgumentError(f"`Guarded(park=...)` must be a setting that the device may take: {error}") from error
    return park


def checked_idle(in_shape: tuple[int, ...], idle: Tensor | None) -> Tensor | None:
    """Return the idle row (in_shape)."""
    if idle is None:
        return None
    try:
        idle = torch.as_tensor(idle, dtype=torch.get_default_dtype()).detach().clone()
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"`Guarded(idle=...)` must be one row: {error}") from error
    if tuple(idle.shape) != in_shape or not bool(idle.isfinite().all()):
        raise ArgumentError(f"`Guarded(idle=...)` must be one finite row of shape {in_shape}, got {tuple(idle.shape)}")
    return idle


def _tighter(own: Limit, other: Limit, size: int, pick: Callable[[float, float], float]) -> Limit:
    if own is None or other is None:
        return other if own is None else own
    if not isinstance(own, Tensor) and not isinstance(other, Tensor):
        return pick(own, other)
    both = [torch.as_tensor(limit, dtype=torch.get_default_dtype()).expand(size) for limit in (own, other)]
    return torch.stack(both).amax(0) if pick is max else torch.stack(both).amin(0)
