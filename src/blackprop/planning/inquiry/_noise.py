"""The noise of a device whose readings tell no family."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._probes import within
from blackprop.core._procedure import Procedure, ask
from blackprop.core._query import Purpose, Query
from blackprop.errors import BudgetExhausted
from blackprop.planning.inquiry._bounds import rms
from blackprop.planning.inquiry._finding import Family, InquiryResult

ROWS = 8


def noise_alone(
    spec: Declaration,
    theta: Tensor,
    amplitude: float,
    generator: torch.Generator,
    programmings: float,
    rows: float,
) -> Procedure[InquiryResult]:
    """Read a few rows twice at `theta` (P,), for the noise; the family remains unknown."""
    why = "rows or outputs are not vectors: only the noise was measured"
    if programmings < 1 or rows < 2 * ROWS:
        return InquiryResult(Family.OTHER, f"the allowance is too small to ask: {2 * ROWS} rows are needed", sure=False)
    drawn = torch.randn(ROWS, *spec.in_shape, generator=generator, device=generator.device)
    sent = within(spec, amplitude * drawn.to(theta))
    try:
        one, other = yield from ask(*(Query(sent, theta, Purpose.CALIBRATE) for _ in range(2)))
    except BudgetExhausted:
        return InquiryResult(Family.OTHER, "the budget ended the inquiry", sure=False)
    noise = rms(one - other) / math.sqrt(2) / (rms((one + other) / 2) or 1.0)
    return InquiryResult(Family.OTHER, why, sure=False, noise=noise)
