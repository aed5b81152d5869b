"""Parameters that are displaced while a loss is evaluated, and then restored."""

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
    """The place of a direction: its `key`, and the `offset` of a tensor's first entry among all parameters."""

    key: int
    offset: int
    sources: dict[torch.device, torch.Generator]

    def source(self, device: torch.device) -> torch.Generator:
        """Return the generator of this direction on a torch device, at its first tensor there."""
        if device not in self.sources:
            self.sources[device] = torch.Generator(device).manual_seed(self.key)
        return self.sources[device]


def random_signs(p: Tensor, place: Place) -> Tensor:
    """Return ±1 with equal probability, in the shape and dtype of `p`."""
    bits = torch.randint(0, 2, p.shape, generator=place.source(p.device), device=p.device, dtype=torch.int8)
    return bits.to(p.dtype).mul_(2).sub_(1)


@contextmanager
def displaced(shifts: Callable[[], Iterable[tuple[Tensor, Tensor]]], in_place: bool) -> Iterator[None]:
    """Context manager that adds its shift to each tensor, and restores the tensor afterwards.

    Tensors are copied back, bit for bit. `in_place` regenerates the shifts and subtracts them, which needs no memory
    and leaves the rounding error of the two sums.
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
    """Add the shifts in a function of its own, so that the last one is freed before the loss is evaluated."""
    for p, shift in shifts:
        kept.append((p, None if in_place else p.clone()))
        p.add_(shift)


@contextmanager
def centred(settings: Iterable[tuple[Tensor, ThetaSpec, float]]) -> Iterator[None]:
    """Context manager that gives each device's setting this much room on both sides."""
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
    """Check that a closure returned a loss, and return it."""
    if isinstance(loss, Tensor) and loss.numel() != 1:
        raise ShapeError(f"the closure must return one number, the loss, and returned a tensor of {tuple(loss.shape)}")
    try:
        number = float(loss)
    except (TypeError, ValueError) as error:
        raise ShapeError(f"the closure must return one number, the loss, and returned {loss!r}") from error
    if not math.isfinite(number):
        raise ReadingError(f"the closure returned a loss of {number}; the parameters are unchanged")
    return number


def both_ends(loss_at: Callable[..., float], key: int) -> tuple[list[tuple[int, float]], float]:
    """Return the slope along a direction, from the losses at both of its ends, and their mean."""
    above, below = loss_at(key), loss_at(key, -1.0)
    return [(key, (above - below) / 2)], (above + below) / 2
