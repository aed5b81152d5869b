"""Whether a device is linear and periodic as it declares."""

from __future__ import annotations

import torch
from torch import Tensor

from blackprop.core._probes import combination
from blackprop.testing._harmonics import check_harmonics
from blackprop.testing._probe import Probe


def check_period(probe: Probe, parameters: int) -> None:
    """`f(x; θ + period) = f(x; θ)`, one parameter at a time and all at once."""
    period = probe.spec.theta.period
    if period is None:
        return
    claim, shifted = f"period {period:.4g}", probe.theta + period
    room = shifted == probe.spec.theta.clamp(shifted)
    singles = [(f"parameter {index}", only) for index, only in probe.singles(parameters)]
    text = ""
    for what, which in [*singles, ("every parameter", probe.all())]:
        setting = torch.where(which & room, shifted, probe.theta)
        text = probe.alike(
            claim,
            lambda setting=setting: probe.read(probe.x, setting, claim),
            lambda: probe.read(probe.x, probe.theta, claim),
            f"the answer with {what} one period further",
        )
    probe.bench.note(claim, text)
    check_harmonics(probe, parameters)


def check_linearity(probe: Probe) -> None:
    """`f(a x + b z) = a f(x) + b f(z)`."""
    half = len(probe.x) // 2
    lit = bool(probe.read(probe.x, probe.theta, "linear").any())
    theta = probe.theta if lit else probe.other  # a device that is dark at its initial setting would pass as linear
    x, z = probe.x[:half], probe.x[half : 2 * half]
    a, b = combination(probe.spec, x, z)

    def apart() -> Tensor:
        left, right = probe.ask("linear", (x, theta), (z, theta))
        return a * left + b * right

    change, bound = probe.difference(lambda: probe.read(a * x + b * z, theta, "linear"), apart)
    worst = float(change.abs().max())
    text = f"within {worst:.2g}" if worst <= bound else f"off by {worst:.3g} (allowed {bound:.2g})"
    if probe.spec.linear:
        probe.bench.settle(worst <= bound, "linear", text, "f(a x + b z) = a f(x) + b f(z)")
    else:
        hint = "looks linear all the same, " if worst <= bound else ""
        probe.bench.note("linear", f"not declared: {hint}{text}")
