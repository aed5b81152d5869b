"""Whether there is a signal, and the faults that make further questions useless."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from blackprop.characterisation._device_under_test import NOISELESS, ROWS, DeviceUnderTest, rms
from blackprop.characterisation._findings import Finding, sure, unknown
from blackprop.characterisation._resolution import resolution
from blackprop.core._procedure import Procedure

PATIENCE = 16  # repeats of a reading before a device is called stuck
SAMPLES = 800  # repeated readings of single outputs: their spread is then known to 3 %
WEAK = (0.5, 0.25, 0.1)  # drives at which noise of the detector is told from noise of the signal
POINTS = 400  # of the plot
STRONG = 3.0  # how many times the drive of the data is tried


@dataclass
class Signal:
    """The result of the repeated readings."""

    findings: list[Finding]
    faults: list[str] = field(default_factory=list)
    hopeless: bool = False  # further questions are useless
    curves: dict[str, Any] = field(default_factory=dict)


def signal(dut: DeviceUnderTest) -> Procedure[Signal]:
    """Read the same rows repeatedly at full, half, quarter and tenth drive, at one setting and two others."""
    repeats = max(6, math.ceil(SAMPLES / (ROWS * dut.spec.d_out)))
    drives = torch.tensor(WEAK).to(dut.rows)[:, None]
    sent = torch.cat((dut.rows, drives * dut.rows[: len(WEAK)])).clamp(*dut.spec.x_range)
    full = torch.arange(len(sent), device=sent.device) < ROWS
    first = yield from dut.read(dut.rows, dut.base)  # instruments set their range by the first rows
    if not bool(first.any()):
        dut.base = dut.anywhere()  # its initial setting may be dark
    x = sent.repeat(repeats, 1)
    y = (yield from dut.read(x, dut.base)).unflatten(0, (repeats, -1))
    mean, var = y.mean(0), y.var(0)
    noise = math.sqrt(float(var[full].mean()))
    power = float(mean[full].square().mean()) - noise**2 / repeats
    dut.size, dut.noise = math.sqrt(max(power, 0.0)), noise
    found = Signal([])
    if fault := _hopeless(power, noise**2 / repeats * math.sqrt(2 / mean[full].numel())):
        found.faults, found.hopeless = [fault], True
        found.findings.append(unknown("noise", fault))
        return found
    if noise > dut.size:
        found.faults.append(f"noisier than its signal: a reading scatters by {noise / dut.size:.2g} of the signal")
    others = [dut.anywhere() for _ in range(2)]
    elsewhere = (yield from dut.readings(x, others)).unflatten(1, (repeats, -1))
    found.findings.append(resolution(dut, torch.cat((y[:1], elsewhere[:, 0]))))
    found.findings += kind_of_noise(dut, [y, *elsewhere])
    some = slice(None, None, max(1, mean.numel() // POINTS))
    found.curves["noise"] = {"mean": mean.abs().flatten()[some].tolist(), "std": var.sqrt().flatten()[some].tolist()}
    return found


def _hopeless(power: float, blur: float) -> str:
    """From the signal's power and its standard error under the noise."""
    if blur == 0 and power <= 0:
        return "dark: every output is zero, whatever is sent"
    if power < 5 * blur:
        return "random: it answers the same question differently each time, and nothing stays in the mean"
    return ""


def influence(dut: DeviceUnderTest) -> Procedure[list[str]]:
    """Find faults: θ without effect, x without effect."""
    faults = []
    alike = True
    for widening, repeats in (
        (0.0, 1),
        (8.0, 1),
        (100.0, PATIENCE),
    ):  # the initial setting may not show the range of θ
        wide = [widening * (dut.some(dut.spec.theta.size) - 0.5) for _ in range(4)]
        others = [dut.spec.theta.clamp(dut.anywhere() + more) for more in wide]
        changes, controls = yield from dut.interleaved(dut.rows, dut.base, others, repeats)
        alike = dut.compare(changes, controls).alike
        if not alike:
            break
    if alike:
        text = f"stuck: four other settings change the output by {rms(changes) / dut.size:.1g}, within its noise"
        faults.append(f"{text}; θ moves nothing")
    strong = torch.cat((dut.rows, dut.rows.roll(1, 0), dut.rows))
    y, again, control = (yield from dut.read(strong, dut.base)).chunk(3)
    if dut.compare(again - y, control - y).alike:
        faults.append("stuck: it answers the same whatever is sent; x moves nothing")
    if faults and 2 * dut.rounding > dut.size / 4:  # a change may stay within a step
        step, size = dut.quantum, dut.size
        return [f"rounded more coarsely than its signal: in steps of {step:.3g}, where outputs are of {size:.3g}"]
    return faults


def kind_of_noise(dut: DeviceUnderTest, places: list[Tensor]) -> list[Finding]:
    """Fit `a² + b² m²` to the variance of outputs with the mean m; a is read noise, b proportional noise.

    `places` are the readings (repeats, rows, d_out) at the setting that the noise is quoted for, and at others: if one
    law does not describe them all, the noise depends on the setting. a² and b² are stored in `dut`.
    """
    repeats, checks = len(places[0]), len(places) * places[0][0].numel()
    relative = dut.noise / dut.size
    var, power = (torch.stack(each) for each in ([p.var(0) for p in places], [p.mean(0).square() for p in places]))
    still = NOISELESS**2 * torch.stack([m.mean().clamp_min(dut.size**2) for m in power])
    if bool((var.flatten(1).mean(1) <= still).all()):
        text = f"{repeats} readings of the same rows agree within {relative:.1g}"
        return [
            Finding("noise", 0.0, True, text, sure(checks)),
            Finding("noise kind", "none", True, "there is none", sure(checks)),
        ]
    dut.variance = a, b = _fit(power.flatten(), var.flatten())
    ratios = [float(v.mean() / (a + b * m).mean()) for v, m in zip(var, power, strict=True)]
    spread = 1.5 + 8 / math.sqrt(places[0].numel())
    text = (
        f"{repeats} readings of {ROWS} rows scatter by {relative:.3g} of the outputs; "
        f"{math.sqrt(a) / dut.size:.2g} whatever the output, {math.sqrt(b):.2g} in proportion to it"
    )
    if not all(1 / spread < ratio < spread for ratio in ratios):
        worst = max(math.sqrt(float(v.mean() / m.mean().clamp_min(1e-300))) for v, m in zip(var, power, strict=True))
        text += f"; but at {len(ratios)} settings the variance is " + ", ".join(f"{ratio:.2g}" for ratio in ratios)
        return [
            unknown("noise", f"it depends on the setting: {text} times what that makes", max(relative, worst)),
            unknown("noise kind", "it depends on the setting"),
        ]
    share = b * dut.size**2 / (a + b * dut.size**2)
    kind = "read" if share < 0.2 else "proportional" if share > 0.8 else "read and proportional"
    error = relative / math.sqrt(2 * (repeats - 1) * ROWS * dut.spec.d_out)
    return [
        Finding("noise", relative, True, text, sure(checks), error),
        Finding("noise kind", kind, True, f"{share:.0%} of the variance grows with the output", sure(checks)),
    ]


def _fit(power: Tensor, var: Tensor) -> tuple[float, float]:
    """Least squares of `var = a + b power`, a and b not negative, each residual relative to the expected variance."""
    power, var = power.double(), var.double()
    expected = var.mean().expand_as(var)
    a, b = float(var.mean()), 0.0
    for _ in range(20):
        design = torch.stack((torch.ones_like(power), power), 1) / expected[:, None]
        a, b = torch.linalg.lstsq(design, var / expected).solution.tolist()
        if a < 0 or b < 0:  # one alone
            alone = design[:, int(a < 0)]
            only = float((alone @ (var / expected)) / alone.square().sum())
            a, b = (0.0, only) if a < 0 else (only, 0.0)
        expected = (a + b * power).clamp_min(1e-3 * float(var.mean()))
    return a, b
