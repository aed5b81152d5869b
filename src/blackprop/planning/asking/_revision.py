"""A second look at a device whose response curves do not explain it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._procedure import Procedure, in_rounds
from blackprop.core._query import Purpose, Query
from blackprop.errors import BudgetExhausted
from blackprop.planning.inquiry._finding import Family, InquiryResult
from blackprop.planning.inquiry._sums import COPIES, Sums
from blackprop.surrogates import CalibratedResponse, Surrogate

UNFIT = 0.9  # the expected cosine of slopes below which perturbations train better
SETTINGS = 2  # at which the device is asked again


def revise(
    finding: InquiryResult,
    surrogate: Surrogate,
    spec: Declaration,
    theta: Tensor,
    amplitude: float,
    generator: torch.Generator,
) -> Procedure[InquiryResult]:
    """Return the finding, or a weaker one where the calibration of single elements failed its own check.

    Linearity was asked at `theta` (P,), in the device's own order, alone. It is asked again at random settings: a
    matrix there has a block of parameters for each output (`Family.ROW`); a device that is no longer linear, as one
    that saturates, has the blocks alone (`Family.BLOCKS`).
    """
    if finding.family is not Family.ELEMENT or not isinstance(surrogate, CalibratedResponse):
        return finding
    verdict = surrogate.verdict
    if verdict.trusted or verdict.cosine >= UNFIT:
        return finding
    sums = [Sums.drawn(spec, amplitude, generator, theta) for _ in range(SETTINGS)]
    low, high = spec.theta.range_around(theta)
    place = generator.device
    settings = [low + (high - low) * torch.rand(theta.shape, generator=generator, device=place).to(theta) for _ in sums]
    queries = [Query(each.rows, setting, Purpose.CALIBRATE) for each, setting in zip(sums, settings, strict=True)]
    try:
        readings = yield from in_rounds([query for query in queries for _ in range(COPIES)], spec.d_out)
    except BudgetExhausted:
        return finding
    for at, each in enumerate(sums):
        each.take(readings[at * COPIES : (at + 1) * COPIES])
    linear = spec.linear or all(each.power == 1 for each in sums)
    failed = f"response curves of {verdict.settings} settings leave slopes of a cosine of {verdict.cosine:.2f}"
    family = Family.ROW if linear else Family.BLOCKS
    at_others = "" if linear else ", and the device is not linear at other settings"
    return replace(finding, family=family, why=f"{finding.why}; {failed}{at_others}")
