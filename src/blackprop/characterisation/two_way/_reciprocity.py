"""Does light or current that runs backwards meet the transposed matrix?"""

from __future__ import annotations

import math

import torch

from blackprop.characterisation._device_under_test import ROWS, TOLERANCE, DeviceUnderTest, rms
from blackprop.characterisation._findings import Finding, sure, unknown
from blackprop.core._procedure import Procedure
from blackprop.core._query import Purpose, Query
from blackprop.core.capabilities._drives import fitting
from blackprop.core.capabilities._read_back import ReadBack

NAME = "reciprocal"
REPEATS = 8  # of every reading on a noisy device
SIGMAS = 5.0


def reciprocity(dut: DeviceUnderTest) -> Procedure[Finding]:
    """Compare `⟨g, A x⟩` with `⟨Aᵀ g, x⟩` for 8 rows x and 8 rows g, at two settings."""
    spec = dut.spec
    if not spec.has(ReadBack):
        return unknown(NAME, "not asked: the device does not declare that it is read backwards (`ReadBack`)")
    if not dut.linear:
        return unknown(NAME, "not asked: the device was not found linear")
    g, _ = fitting(dut.normal(ROWS, *spec.out_shape), spec.capability(ReadBack).limit or math.inf)
    x, repeats = dut.rows, REPEATS if dut.noisy else 1
    worst, least = 0.0, 0.0
    for theta in (dut.base, dut.anywhere()):
        back = Query(g.repeat(repeats, *[1] * (g.dim() - 1)), theta, Purpose.CALIBRATE, ReadBack)
        y, z = yield [dut.query(x.repeat(repeats, 1), theta), back]
        y, z = (each.flatten(1).unflatten(0, (repeats, ROWS)) for each in (y - _dark(dut, y), z))
        ahead, behind = g.flatten(1) @ y.mT, z @ x.mT
        size, off = rms(ahead), ahead - behind
        allowed = 3 * TOLERANCE * size
        if repeats > 1:
            allowed += SIGMAS * rms(off.std(0)) / math.sqrt(repeats)
        worst, least = max(worst, rms(off.mean(0)) / size), max(least, allowed / size)
        if rms(off.mean(0)) > allowed:
            text = f"⟨g, A x⟩ and ⟨Aᵀ g, x⟩ differ by {worst:.2g} of their size, of which noise explains {least:.1g}"
            return Finding(NAME, False, True, text, sure(ROWS**2))
    text = f"⟨g, A x⟩ = ⟨Aᵀ g, x⟩ within {least:.1g} of their size, at 2 settings"
    return Finding(NAME, True, True, text, sure(2 * ROWS**2))


def _dark(dut: DeviceUnderTest, like: torch.Tensor) -> torch.Tensor:
    return dut.dark.view(1, *like.shape[1:]) if dut.dark.numel() == like[0].numel() else torch.zeros_like(like[:1])
