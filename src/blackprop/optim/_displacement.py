"""Parameters moved for as long as a loss is asked for, and put back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from blackprop.core._theta import ThetaSpec
from blackprop.errors import ReadingError, ShapeError


@dataclass(frozen=True)
class Place:
    """Where a direction is asked for: its `key`, and the `offset` of a tensor's first entry among all parameters."""

    key: int
    offset: int
    sources: dict[torch.device, torch.Generator]

    def source(self, device: torch.device) -> torch.Generator:
        """The random numbers of this direction on a torch device, from their start at the first tensor there."""
        if device not in self.sources:
            self.sources[device] = torch.Generator(device).manual_seed(self.key)
        return self.sources[device]


def random_signs(p: Tensor, place: Place) -> Tensor:
    """±1, alike often, in the shape and dtype of `p`."""
    bits = torch.randint(0, 2, p.shape, generator=place.source(p.device), device=p.device, dtype=torch.int8)
    return bits.to(p.dtype).mul_(2).sub_(1)


@contextmanager
def displaced(shifts: Callable[[], Iterable[tuple[Tensor, Tensor]]], in_place: bool) -> Iterator[None]:
    """Within, each tensor has its shift added. Afterwards it is what it was: copied back, to the bit; `in_place` the
    shifts are made anew and subtracted, which needs no memory and leaves the rounding of the two sums.
    """
    kept: list[tuple[Tensor, Tensor | None]] = []
    try:
        _add(shifts(), kept, in_place)
        yield
    finally:
        if in_place:
            for (p, _), (_, shift) in zip(kept, shifts(), strict=False):  # as many as were displaced
                p.sub_(shift)
        for p, values in kept:
            if values is not None:
                p.copy_(values)


def _add(shifts: Iterable[tuple[Tensor, Tensor]], kept: list[tuple[Tensor, Tensor | None]], in_place: bool) -> None:
    """In a function of its own, so that the last shift is gone when the loss is asked for."""
    for p, shift in shifts:
        kept.append((p, None if in_place else p.clone()))
        p.add_(shift)


@contextmanager
def centred(settings: Iterable[tuple[Tensor, ThetaSpec, float]]) -> Iterator[None]:
    """Within, each device's setting has so much room to both sides of it."""
    kept: list[tuple[Tensor, Tensor]] = []
    try:
        for theta, spec, margin in settings:
            kept.append((theta, theta.clone()))
            theta.copy_(spec.interior(theta, margin))
        yield
    finally:
        for theta, values in kept:
            theta.copy_(values)


def one_number(loss: Any) -> float:
    """What a closure returned, if it is a loss."""
    if isinstance(loss, Tensor) and loss.numel() != 1:
        raise ShapeError(f"the closure must return one number, the loss, and returned a tensor of {tuple(loss.shape)}")
    try:
        number = float(loss)
    except (TypeError, ValueError) as error:
        raise ShapeError(f"the closure must return one number, the loss, and returned {loss!r}") from error
    if not math.isfinite(number):
        raise ReadingError(f"the closure returned a loss of {number}; no parameter was moved")
    return number
