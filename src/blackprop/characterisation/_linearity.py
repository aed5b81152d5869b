"""Is the device linear in its rows, and how far out?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from blackprop.characterisation._device_under_test import ROWS, TOLERANCE, Stand, rms
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


def linearity(stand: Stand) -> Procedure[tuple[Finding, Finding, dict[str, Any]]]:
    """Measure `f(a x + b z) − a f(x) − b f(z)` on normal rows, on single inputs and on rows of one sign.

    At three settings; then at three times the drive, or as far as the limits of the inputs allow, where a device may no
    longer be linear.
    """
    strong = stand.factors(stand.rows, STRONG)[1]
    repeats = REPEATS if stand.noisy else 1
    settings = [stand.base, stand.anywhere(), stand.anywhere()]
    near, far = [], []
    for theta in settings:
        near.append((yield from _excess(stand, theta, 1.0, repeats)))
        far.append((yield from _excess(stand, theta, strong, repeats)))
    curve = yield from _curve(stand)
    worst = max(near, key=lambda e: e.size / e.limit)
    seen = [e for e in near if e.seen]
    count = ROWS * stand.spec.d_out * len(settings)
    held = f"superposition holds within {max(e.limit for e in near):.1g} of the outputs"
    if stand.rounding:
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


def _excess(stand: Stand, theta: Tensor, drive: float, repeats: int) -> Procedure[Excess]:
    x, z = _rows(stand), _rows(stand).roll(1, 0)
    if stand.spec.x_limited:
        drive = min(drive, stand.factors(torch.cat((x, z)), drive)[1])
    a, b = combination(stand.spec, drive * x, drive * z)
    sent = drive * torch.cat((x, z, a * x + b * z))
    if stand.spec.x_limited:
        sent = sent.clamp(*stand.spec.x_range)  # rounding
    y = (yield from stand.read(sent.repeat(repeats, 1), theta)).unflatten(0, (repeats, len(sent)))
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
    limit = math.hypot(limit, math.sqrt(1 + a**2 + b**2) * stand.rounding * (1 + 4 / math.sqrt(mean.numel())))
    most += (1 + abs(a) + abs(b)) / 2 * math.sqrt(12) * stand.rounding
    lit = mean - (1 - a - b) * stand.dark
    if size == 0:  # the outputs are zero at this setting
        size = max(stand.size, limit)
    return Excess(
        *(value / size for value in (rms(mean), limit, float(mean.abs().max()), most, rms(lit), float(lit.abs().max())))
    )


def _rows(stand: Stand) -> Tensor:
    """Normal rows, single inputs as strong as a whole row, and rows of one sign (2 · ROWS, d_in)."""
    d_in = stand.spec.d_in
    single = torch.zeros(2, d_in).to(stand.rows)
    place = stand.some(2).mul(d_in).long()
    single[torch.arange(2), place] = math.sqrt(d_in) * stand.scale
    normal, one_sign = stand.normal(ROWS - 3, d_in) * stand.scale, stand.normal(1, d_in).abs() * stand.scale
    return torch.cat([within(stand.spec, rows) for rows in (normal, single.clamp(*stand.spec.x_range), one_sign)])


def _curve(stand: Stand) -> Procedure[dict[str, Any]]:
    """One row at growing drive, for the plot."""
    low, high = stand.factors(stand.rows[:1], STRONG)
    drive = torch.linspace(low, high, 13).to(stand.rows)
    sent = (drive[:, None] * stand.rows[:1]).clamp(*stand.spec.x_range)  # rounding
    y = yield from stand.read(sent, stand.base)
    return {"drive": drive.tolist(), "outputs": y[:, :6].mT.tolist()}
