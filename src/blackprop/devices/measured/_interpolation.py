"""Curves through measured points that do not overshoot: monotone cubic interpolation."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Curve(NamedTuple):
    """Points `places` (K,), ascending, with `values` and `slopes` (K, *elements): cubic between them."""

    places: Tensor
    values: Tensor
    slopes: Tensor

    @classmethod
    def through(cls, places: Tensor, values: Tensor) -> Curve:
        """The curve through the points, whose slopes keep it monotone wherever the points are.

        Fritsch and Butland, SIAM J. Sci. Stat. Comput. 5, 300 (1984): inside, the weighted harmonic mean of the slopes
        to both neighbours, 0 where these differ in sign; at the ends, the three-point formula, limited.
        """
        width = (places[1:] - places[:-1]).view(-1, *[1] * (values.dim() - 1))
        chord = (values[1:] - values[:-1]) / width
        if len(places) == 2:
            return cls(places, values, chord.expand_as(values).clone())
        slopes = torch.zeros_like(values)
        before, after = width[:-1], width[1:]
        one, other = 2 * after + before, after + 2 * before
        same = chord[:-1] * chord[1:] > 0
        safe = [torch.where(same, each, 1.0) for each in (chord[:-1], chord[1:])]
        slopes[1:-1] = torch.where(same, (one + other) / (one / safe[0] + other / safe[1]), 0.0)
        slopes[0] = _end(width[0], width[1], chord[0], chord[1])
        slopes[-1] = _end(width[-1], width[-2], chord[-1], chord[-2])
        return cls(places, values, slopes)

    def at(self, theta: Tensor) -> Tensor:
        """The values (..., P) at theta (..., P), differentiable; one curve for all, or one for each of the P."""
        places, values, slopes = (each.to(theta) for each in self)
        inside = theta.detach().contiguous()
        left = (torch.searchsorted(places, inside, right=True) - 1).clamp(0, len(places) - 2)
        width = places[left + 1] - places[left]
        t = (theta - places[left]) / width
        v, s = _taken(values, left), _taken(slopes, left)
        w, u = _taken(values, left + 1), _taken(slopes, left + 1)
        rest = 1 - t
        return rest * rest * ((1 + 2 * t) * v + t * width * s) + t * t * ((3 - 2 * t) * w - rest * width * u)


def _taken(table: Tensor, index: Tensor) -> Tensor:
    """Entries (..., P) of a table (K,), or (K, P) with a column for each of the P."""
    if table.dim() == 1:
        return table[index]
    return table.gather(0, index.reshape(-1, index.shape[-1])).view(index.shape)


def _end(near: Tensor, far: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """The slope at an end, from the widths and the slopes of the two intervals beside it."""
    slope = ((2 * near + far) * first - near * second) / (near + far)
    slope = torch.where(slope * first <= 0, 0.0, slope)
    steep = (first * second <= 0) & (slope.abs() > 3 * first.abs())
    return torch.where(steep, 3 * first, slope)
