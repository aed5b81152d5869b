"""How far a device has moved under its settings, from rows that training has read before."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._procedure import Procedure, ask
from blackprop.core._query import Purpose, Query
from blackprop.planning._methods import radian, step_size

REACH = 0.05  # rad: the known displacement that the unknown one is compared with, where noise allows
ROUNDING = 1e-4  # relative, of readings without noise
SIGMAS = 4.0  # of the noise, below which a change is none


@dataclass(frozen=True, eq=False)
class ReferenceReading:
    """Rows x (k, *in_shape), their setting (P,) and the readings y (k, *out_shape) of then."""

    x: Tensor
    setting: Tensor
    y: Tensor


def displacement(reference: ReferenceReading, spec: Declaration, generator: torch.Generator) -> Procedure[float]:
    """The root mean square displacement of the parameters since the reference, in units of θ; 0 within the noise.

    The rows are read again at their setting, twice, and at one that is displaced by a known random step. Small
    displacements change the readings in proportion, so that their size follows from the two changes; as the two differ
    in direction, to a factor of about 1.5. **Costs** 3 k rows and 2 programmings, booked as `SURROGATE`.
    """
    theta = reference.setting
    step = max(REACH * radian(spec), step_size(spec))
    draw = torch.randn(theta.shape, generator=generator, device=generator.device).to(theta)
    beside = spec.theta.clamp(theta + step * draw)
    rows = reference.x
    now, moved = yield from ask(
        Query(torch.cat((rows, rows)), theta, Purpose.SURROGATE), Query(rows, beside, Purpose.SURROGATE)
    )
    one, other = now.chunk(2)
    mean, numbers = (one + other) / 2, one.numel()
    noise = float((one - other).square().sum()) / 2  # of a reading, summed
    drifted, known = (float((each - mean).square().sum()) for each in (reference.y.to(mean), moved))
    floor = 1.5 * noise + ROUNDING**2 * float(mean.square().sum())  # a reading and the mean of two
    if drifted - floor <= SIGMAS * (2 / numbers) ** 0.5 * floor or known <= floor:
        return 0.0
    size = float((beside - theta).square().mean().sqrt())
    return size * ((drifted - floor) / (known - floor)) ** 0.5
