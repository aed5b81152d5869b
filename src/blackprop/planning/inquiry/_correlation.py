"""How far a device's derivatives hold."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._probes import signed
from blackprop.core._procedure import Procedure
from blackprop.core._query import Purpose, Query
from blackprop.planning._methods import radian, step_size

DISTANCES = (0.05, 0.15, 0.45, 1.35)  # rad, root mean square over the parameters
PROGRAMMINGS = 2 * (len(DISTANCES) + 1)


def correlation_length(spec: Declaration, theta: Tensor, rows: Tensor, generator: torch.Generator) -> Procedure[float]:
    """The length ℓ of `w(d) = exp(−(d/ℓ)²)`, the part of a derivative `∂f/∂θ · u` that is left at a distance d.

    **Costs** 10 programmings and 10 times the rows: a difference along one random u where θ is, and at 0.05, 0.15, 0.45
    and 1.35 rad along another direction. w is the lesser of the regression on the first and the cosine with it, for one
    misses derivatives that grow, the other those that shrink. On a noisy device w falls short, and ℓ with it.

    **Arguments:** `theta`, the place (P,); `rows`, (n, d_in), those of training or alike. Distances are root mean
    squares over the parameters, in θ's units; 2π rad are a period, or the width of the limits.
    """
    unit, mu = radian(spec), 2 * step_size(spec)
    u, v = (2 * torch.randint(0, 2, (2, theta.numel()), generator=generator, device=generator.device) - 1).to(theta)
    probes = signed(spec, rows)
    places = [spec.theta.clamp(theta + distance * unit * v) for distance in (0.0, *DISTANCES)]
    pairs = [(spec.theta.interior(place, mu), mu * u) for place in places]
    settings = [setting for place, shift in pairs for setting in (place, spec.theta.clamp(place + shift))]
    readings = yield [Query(probes.rows, setting, Purpose.CALIBRATE) for setting in settings]
    slopes = [probes.products(after - before) for before, after in zip(readings[::2], readings[1::2], strict=True)]
    return unit * _fitted(slopes[0].double(), [slope.double() for slope in slopes[1:]])


def _fitted(first: Tensor, others: list[Tensor]) -> float:
    """ℓ in rad, of the slopes at `DISTANCES`; between 0.01 and twice the farthest."""
    tiny = torch.finfo(first.dtype).tiny
    sizes = [first.norm() * torch.maximum(other.norm(), first.norm()) for other in others]
    w = torch.stack([(first * o).sum() / size.clamp_min(tiny) for o, size in zip(others, sizes, strict=True)])
    grid = torch.logspace(-2, math.log10(2 * DISTANCES[-1]), 101, dtype=first.dtype, device=first.device)
    model = (-(torch.tensor(DISTANCES).to(grid)[None] / grid[:, None]).square()).exp()
    return float(grid[(model - w.clamp(-1, 1)).square().sum(1).argmin()])
