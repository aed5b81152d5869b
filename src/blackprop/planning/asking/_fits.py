"""Models of a whole device, which are taken where they explain readings that they were not made from."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._procedure import Procedure
from blackprop.errors import BudgetExhausted
from blackprop.estimators import FromSurrogate, Still
from blackprop.planning._physics import CHIP, calibrated_chip, chip_queries
from blackprop.planning._price import totals
from blackprop.planning.inquiry._correlation import correlation_length
from blackprop.planning.inquiry._cost import LENGTH_ROWS
from blackprop.planning.inquiry._finding import Family, InquiryResult, translated
from blackprop.planning.inquiry._inquiry import PART
from blackprop.presets import Method
from blackprop.surrogates import PhaseMask, PowerMatrix

MASK = "phase-mask"
POWER = "frozen, read as power"
CHIP_PART = 0.75  # of an allowance that the calibration of a chip may use: its steps cost no query then
ACCEPTED = 0.02  # beside three times the noise: the part of fresh readings that a model may leave unexplained


class Fitted(NamedTuple):
    """A finding; its method where fresh readings confirm it, else None; and the queries of the attempt."""

    finding: InquiryResult
    method: Method | None
    spent: dict[str, float]


class Asker(NamedTuple):
    """The device and the setting for which a model is sought.

    - `bound`: binds a method to the device, as a declaration describes it.
    - `part`: returns the programmings and rows of a part of the allowance.
    """

    spec: Declaration
    theta: Tensor
    amplitude: float
    generator: torch.Generator
    bound: Callable[[Method, Declaration], Method]
    part: Callable[[float], list[float]]


def masked(spec: Declaration) -> Method:
    mask = PhaseMask(24 if spec.x_limited else 8)
    return Method(FromSurrogate(mask), mask)


def powered(spec: Declaration) -> Method:
    """θ stays as it is: perturbations of such a device do not pay."""
    del spec
    return Method(Still(), PowerMatrix())


def fit_mask(finding: InquiryResult, asker: Asker) -> Procedure[Fitted]:
    """Fit a phase mask and check it on settings of its own; the finding is another family where that fails."""
    limits, method = asker.part(PART), asker.bound(masked(asker.spec), asker.spec)
    mask = method.surrogate
    assert isinstance(mask, PhaseMask)
    if mask.settings + 2 > limits[0] or mask._cost > limits[1]:
        why = f"{finding.why}, and the allowance is too small for a mask"
        return Fitted(replace(finding, family=Family.OTHER, why=why), None, {})
    try:
        yield from mask.start(asker.theta, asker.generator)
    except BudgetExhausted:
        return Fitted(_ended(finding), None, {})
    residual = float(mask.residual)
    why = f"{finding.why}; a phase mask leaves {residual:.1%} of readings that it was not fitted to unexplained"
    return _confirmed(replace(finding, why=why, sure=True), method, residual)


def fit_power(finding: InquiryResult, asker: Asker) -> Procedure[Fitted]:
    """Retrieve the matrix at θ, which then stays. Another family where the powers of fresh rows are not explained."""
    limits, method = asker.part(PART), asker.bound(powered(asker.spec), asker.spec)
    matrix = method.surrogate
    assert isinstance(matrix, PowerMatrix)
    if matrix.cost > limits[1]:
        why = f"{finding.why}, and the allowance is too small to retrieve its matrix"
        return Fitted(replace(finding, family=Family.OTHER, why=why), None, {})
    try:
        yield from matrix.start(asker.theta, asker.generator)
    except BudgetExhausted:
        return Fitted(_ended(finding), None, {})
    residual = float(matrix.residual)
    why = f"{finding.why}; a matrix of fields leaves {residual:.1%} of the powers of fresh rows unexplained"
    return _confirmed(replace(finding, why=why, sure=True), method, residual)


def fit_chip(finding: InquiryResult, asker: Asker) -> Procedure[Fitted]:
    """Calibrate the design of a chip; where that fails, the device is a matrix whose parameters have no known place."""
    spec, limits = finding.declaration(asker.spec), asker.part(CHIP_PART)
    cost, theta = totals(chip_queries(spec)), finding.ordered(asker.theta)
    if cost["programmings"] > limits[0] or cost["rows"] > limits[1]:
        why = f"{finding.why}, and the allowance is too small for its calibration"
        return Fitted((yield from _without_design(finding, why, asker)), None, {})
    method = asker.bound(calibrated_chip(spec), spec)
    try:
        yield from translated(method.surrogate.start(theta, asker.generator), finding)
    except BudgetExhausted:
        why = f"{finding.why}; the budget ended the calibration of the chip"
        return Fitted(replace(finding, family=Family.LINEAR, why=why, order=None, drawing=None), None, cost)
    told = method.surrogate.diagnosis()
    left = told.get("check_residual", math.inf)
    if not bool(getattr(method.surrogate, "accepted", False)):
        why = f"{finding.why}; the calibration of the design left {left:.0%} of fresh readings unexplained"
        return Fitted((yield from _without_design(finding, why, asker)), None, cost)
    why = f"{finding.why}; the calibration of the design leaves {left:.1%} of fresh readings unexplained"
    return Fitted(replace(finding, why=why, sure=True, noise=told["noise"]), method, cost)


#: The fit for each family that needs one, the name of its method, and the method, for a checkpoint.
FITS = {
    Family.MASK: (fit_mask, MASK, masked),
    Family.POWER: (fit_power, POWER, powered),
    Family.MESH: (fit_chip, CHIP, calibrated_chip),
}


def _without_design(finding: InquiryResult, why: str, asker: Asker) -> Procedure[InquiryResult]:
    """The finding for a mesh that stays unknown, with the correlation length of its derivatives."""
    spec, generator = asker.spec, asker.generator
    drawn = torch.randn(LENGTH_ROWS, spec.d_in, generator=generator, device=generator.device).to(asker.theta)
    known = replace(finding, family=Family.LINEAR, why=why, order=None, drawing=None, sure=True)
    try:
        length = yield from correlation_length(spec, asker.theta, asker.amplitude * drawn, generator)
    except BudgetExhausted:
        return known
    return replace(known, length=length)


def _ended(finding: InquiryResult) -> InquiryResult:
    return replace(finding, family=Family.OTHER, why="the budget ended the inquiry", sure=False)


def _confirmed(finding: InquiryResult, method: Method, residual: float) -> Fitted:
    if residual > ACCEPTED + 3 * finding.noise:
        return Fitted(replace(finding, family=Family.OTHER), None, {})
    return Fitted(finding, method, {})
