"""Is the device linear in its rows, and how far out?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from blackprop.characterisation._device_under_test import ROWS, TOLERANCE, DeviceUnderTest, rms
from blackprop.characterisation._findings import Finding, sure, unknown
from blackprop.characterisation._signal import STRONG
from blackprop.core._probes import combination, within
from blackprop.core._procedure import Procedure

REPEATS = 8  # of every reading on a noisy device


@dataclass
class Excess:
    """How far the answers are from `f(a x + b z) = a f(x) + b f(z)`."""

    size: float  # root mean square beyond noise, relative to the outputs
    limit: float  # the least that would have been seen
    worst: float
    worst_limit: float
    lit: float  # the size, once the dark level is taken from every reading
    lit_worst: float

    @property
    def seen(self) -> bool:
        return self.size > self.limit or self.worst > self.worst_limit


def linearity(dut: DeviceUnderTest) -> Procedure[tuple[Finding, Finding, dict[str, Any]]]:
    """Measure `f(a x + b z) − a f(x) − b f(z)` on normal rows, on single inputs and on rows of one sign.

    At three settings; then at three times the drive, or as far as the limits of the inputs allow, where a device may no
    longer be linear.
    """
    strong = dut.factors(dut.rows, STRONG)[1]
    repeats = REPEATS if dut.noisy else 1
    settings = [dut.base, dut.anywhere(), dut.anywhere()]
    near, far = [], []
    for theta in settings:
        near.append((yield from _excess(dut, theta, 1.0, repeats)))
        far.append((yield from _excess(dut, theta, strong, repeats)))
    curve = yield from _curve(dut)
    worst = max(near, key=lambda e: e.size / e.limit)
    seen = [e for e in near if e.seen]
    count = ROWS * dut.spec.d_out * len(settings)
    held = f"superposition holds within {max(e.limit for e in near):.1g} of the outputs"
    if dut.rounding:
        held += ", to which they are rounded,"
    if len(seen) > 0:
        size = max(e.size for e in near)
        worst = max(e.worst for e in near)
        text = f"superposition fails by {size:.2g} of the outputs, {worst:.2g} at most"
        return Finding("linear", False, True, text, sure(count)), _affine([*near, *far], count), curve
    if any(e.seen for e in far):
        text = f"{held} at the given drive, but at {strong:g} times it fails by {max(e.size for e in far):.2g}"
        finding = unknown("linear", f"{text}; ask with a smaller `scale` to have less claimed", False)
        return finding, _affine([*near, *far], count), curve
    text = f"{held} up to {strong:.3g} times the drive, at {len(settings)} settings"
    return Finding("linear", True, True, text, sure(count)), _affine([*near, *far], count), curve


def _affine(found: list[Excess], count: float) -> Finding:
    """Whether superposition holds once the dark level is subtracted from every reading."""
    holds = all(e.lit <= e.limit and e.lit_worst <= e.worst_limit for e in found)
    text = f"less the dark level, superposition {'holds' if holds else f'fails by {max(e.lit for e in found):.2g}'}"
    return Finding("affine", holds, True, text, sure(count))


def _excess(dut: DeviceUnderTest, theta: Tensor, drive: float, repeats: int) -> Procedure[Excess]:
    x, z = _rows(dut), _rows(dut).roll(1, 0)
    if dut.spec.x_limited:
        drive = min(drive, dut.factors(torch.cat((x, z)), drive)[1])
    a, b = combination(dut.spec, drive * x, drive * z)
    sent = drive * torch.cat((x, z, a * x + b * z))
    if dut.spec.x_limited:
        sent = sent.clamp(*dut.spec.x_range)  # rounding
    y = (yield from dut.read(sent.repeat(repeats, 1), theta)).unflatten(0, (repeats, len(sent)))
    left, right, both = y.chunk(3, 1)
    off = both - a * left - b * right
    size = rms(torch.cat((left, right), 1))
    little = TOLERANCE * float(y.abs().max())
    mean = off.mean(0)
    limit, most = little / 3, little
    if repeats > 1:
        var = off.var(0) / repeats  # of that mean; it may differ from output to output
        parts = float(var.sum().square() / var.square().sum().clamp_min(1e-300))
        noise = math.sqrt(float(var.mean()))
        limit += noise * math.sqrt(1 + 10 / math.sqrt(parts))
        most += 7 * max(noise, 0.7 * math.sqrt(float(var.max())))
    # Three roundings, each of up to half a step, the second and third weighed by a and b.
    limit = math.hypot(limit, math.sqrt(1 + a**2 + b**2) * dut.rounding * (1 + 4 / math.sqrt(mean.numel())))
    most += (1 + abs(a) + abs(b)) / 2 * math.sqrt(12) * dut.rounding
    lit = mean - (1 - a - b) * dut.dark
    if size == 0:  # the outputs are zero at this setting
        size = max(dut.size, limit)
    return Excess(
        *(value / size for value in (rms(mean), limit, float(mean.abs().max()), most, rms(lit), float(lit.abs().max())))
    )


def _rows(dut: DeviceUnderTest) -> Tensor:
    """Normal rows, single inputs as strong as a whole row, and rows of one sign (2 · ROWS, d_in)."""
    d_in = dut.spec.d_in
    single = torch.zeros(2, d_in).to(dut.rows)
    place = dut.some(2).mul(d_in).long()
    single[torch.arange(2), place] = math.sqrt(d_in) * dut.scale
    normal, one_sign = dut.normal(ROWS - 3, d_in) * dut.scale, dut.normal(1, d_in).abs() * dut.scale
    return torch.cat([within(dut.spec, rows) for rows in (normal, single.clamp(*dut.spec.x_range), one_sign)])


def _curve(dut: DeviceUnderTest) -> Procedure[dict[str, Any]]:
    """One row at growing drive, for the plot."""
    low, high = dut.factors(dut.rows[:1], STRONG)
    drive = torch.linspace(low, high, 13).to(dut.rows)
    sent = (drive[:, None] * dut.rows[:1]).clamp(*dut.spec.x_range)  # rounding
    y = yield from dut.read(sent, dut.base)
    return {"drive": drive.tolist(), "outputs": y[:, :6].mT.tolist()}
