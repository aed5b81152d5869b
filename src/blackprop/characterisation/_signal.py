"""Whether there is a signal, and the faults that make further questions useless."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch

from blackprop.characterisation._device_under_test import ROWS, DeviceUnderTest, rms
from blackprop.characterisation._findings import Finding, unknown
from blackprop.characterisation._noise import kind_of_noise
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
