"""The answers to rows: in the dark, at growing drive, and whether they return as an input grows."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from blackprop.characterisation._device_under_test import ROWS, DeviceUnderTest, rms
from blackprop.characterisation._findings import Finding, sure, unknown
from blackprop.characterisation._signal import STRONG
from blackprop.core._declaration import limits_text
from blackprop.core._procedure import Procedure

SWEEP = 13  # drives from zero to STRONG
REPEATS = 4  # of every reading, on a noisy device
PERIODS = (2 * math.pi, math.pi, 1.0, 2.0, 4 * math.pi)  # of an input: rad, half turns, volts
GROWS = 1.5  # three times the drive gives at least this times the signal of a device that does not saturate
TURNS = 0.2  # part of the curves that turn back, if answers oscillate rather than approach an end
RAILS = 0.2  # part of the readings at one end, if a converter clips


@dataclass
class InputScale:
    """The result of growing rows."""

    findings: list[Finding]
    faults: list[str] = field(default_factory=list)


def input_limits(dut: DeviceUnderTest) -> Finding:
    """Return the declared limits of the inputs. They are trusted: beyond them a device may be damaged."""
    spec = dut.spec
    if spec.x_limited:
        text = "as the device declares; every row of this inquiry lies within them"
        return Finding("inputs", limits_text(spec.x_low, spec.x_high), True, text, 1.0)
    return unknown("inputs", f"the device declares no limits; rows of up to {STRONG:g} times the scale are sent")


def drive(dut: DeviceUnderTest) -> Procedure[InputScale]:
    """Send rows at drives from zero to three times the data's: the dark level, and whether the outputs saturate.

    A clipped output stays at one end; a saturating one flattens towards it. Answers that turn back as the drive grows
    do neither, and are tested for a period in the inputs. The dark level is stored in `dut`.
    """
    repeats = REPEATS if dut.noisy else 1
    most = dut.factors(dut.rows, STRONG)[1]
    drives = torch.linspace(0, most, SWEEP).to(dut.rows)
    sent = (drives[:, None, None] * dut.rows).flatten(0, 1).clamp(*dut.spec.x_range)
    y = (yield from dut.read(sent.repeat(repeats, 1), dut.base)).unflatten(0, (repeats, SWEEP, ROWS))
    blur = math.hypot(dut.noise / math.sqrt(repeats), dut.rounding)
    curves = y.mean(0)  # (drives, rows, d_out)
    dut.dark = curves[0].mean(0)
    found = InputScale([_offset(dut, curves[0])])
    curves = curves - dut.dark
    full = int((drives - 1).abs().argmin())
    growth = rms(curves[-1]) / max(rms(curves[full]), blur)
    turned = _turned(curves, blur)
    rails = _at_rails(dut, y)
    if rails > RAILS:
        found.faults.append(f"saturated: {rails:.0%} of the readings stand at one end of the range")
    elif growth < GROWS and turned < TURNS and most >= STRONG:  # within limits of inputs, less growth is not evidence
        found.faults.append(f"saturated: {STRONG:g} times the drive gives {growth:.2g} times the output")
    if turned < TURNS:
        text = f"{turned:.0%} of the outputs turn back; {most:.3g} times the drive gives {growth:.2g} times the signal"
        found.findings.append(Finding("period in x", None, True, text, sure(ROWS * dut.spec.d_out)))
        return found
    found.findings.append((yield from _period(dut, turned)))
    return found


def _offset(dut: DeviceUnderTest, dark: Tensor) -> Finding:
    """Return the reading without input (rows, d_out)."""
    level = dark.mean(0)
    size = rms(level)
    allowed = 4 * dut.noise / math.sqrt(len(dark)) + 2 * dut.rounding + 1e-4 * dut.size
    if size <= allowed:
        text = f"where nothing is sent it reads nothing, within {allowed / dut.size:.1g} of the outputs"
        return Finding("dark level", 0.0, True, text, sure(dark.numel()))
    text = (
        f"where nothing is sent it reads {float(level.min()):.4g} to {float(level.max()):.4g}, {size / dut.size:.2g} "
        "of the outputs: an offset, as a dark level is"
    )
    return Finding("dark level", size, True, text, sure(dark.numel()), dut.noise / math.sqrt(dark.numel()))


def _turned(curves: Tensor, blur: float) -> float:
    """Return the part of the curves (drives, ...) that turn back by more than errors, a tenth of their range."""
    back = 4 * blur
    span = curves.amax(0) - curves.amin(0)
    falls = (curves.cummax(0).values - curves).amax(0)  # from the highest point before
    rises = (curves - curves.cummin(0).values).amax(0)
    turns = torch.minimum(falls, rises) > (0.1 * span).clamp_min(back)
    return float(turns.double().mean())


def _at_rails(dut: DeviceUnderTest, y: Tensor) -> float:
    """Return the part of the lit readings (repeats, drives, rows, d_out) at one end, if that is not the dark level."""
    lit = y[:, 1:]
    parts = []
    for end in (lit.max(), lit.min()):
        dark = float((end - dut.dark).abs().min()) <= 4 * dut.blur + dut.quantum
        parts.append(0.0 if dark else float((lit == end).double().mean()))
    return max(parts) if bool((lit != lit.flatten()[0]).any()) else 0.0


def _period(dut: DeviceUnderTest, turned: float) -> Procedure[Finding]:
    """Return the smallest T with `f(x + T r) = f(x)` for random halves r of the inputs and for single ones."""
    d_in = dut.spec.d_in
    near = []
    for T in sorted(T for T in PERIODS if 3 * STRONG * dut.scale >= 0.625 * T):
        low, high = (max(dut.spec.x_range[0], -T / 2), min(dut.spec.x_range[1], 0.625 * T))
        if high - low < T:  # no two inputs within their limits are a period apart
            continue
        x = low + (high - low - T) * dut.some(ROWS, d_in)
        which = torch.stack([dut.half(d_in) for _ in range(ROWS)])
        which[:2] = False
        which[torch.arange(2), dut.some(2).mul(d_in).long()] = True  # single inputs
        moved, part = x + T * which, x + (0.3 + 0.4 * float(dut.some(1))) * T * which
        repeats = REPEATS if dut.noisy else 1
        sent = torch.cat((x, moved, x, part)).repeat(repeats, 1)
        y = (yield from dut.read(sent, dut.base)).unflatten(0, (repeats, -1)).mean(0)
        first, there, back, away = y.chunk(4)
        there, back, away = there - first, back - first, away - first
        whole, parts = dut.compare(there, back), dut.compare(away, back)
        if parts.size < 3 * parts.allowed:
            continue
        if whole.alike:
            limit = whole.allowed / dut.size
            text = (
                f"inputs moved by {T:.5g}, singly and half of them, change nothing, within {limit:.1g} of the outputs; "
                f"{turned:.0%} of the outputs turn back as the drive grows, and none saturates"
            )
            return Finding("period in x", T, True, text, sure(ROWS * min(10.0, d_in / 2)))
        near.append(T)
    return unknown(
        "period in x",
        f"{turned:.0%} of the outputs turn back as the drive grows, so they do not saturate; no period of "
        f"{', '.join(f'{T:.4g}' for T in near) or 'those tried'} is one of every input",
    )
