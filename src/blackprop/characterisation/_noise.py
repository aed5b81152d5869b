"""How noisy a device is, and in which way, from repeated readings at several settings."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from blackprop.characterisation._device_under_test import NOISELESS, ROWS, DeviceUnderTest
from blackprop.characterisation._findings import Finding, sure, unknown


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
