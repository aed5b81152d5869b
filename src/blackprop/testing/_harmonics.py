"""Whether an output, as a function of one parameter, is a constant and the declared number of harmonics."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from blackprop.testing._probe import Probe


def check_harmonics(probe: Probe, parameters: int) -> None:
    """Read 2H + 1 points of a period of single parameters, and compare the H harmonics through them with another point.

    `f(θ + t) = Σ_k D(t − t_k) f(θ + t_k)`, with Dirichlet's kernel `D(t) = (1 + 2 Σ_{h≤H} cos(hωt)) / (2H + 1)`, whose
    squares sum to 1: noise is not amplified.
    """
    spec = probe.spec.theta
    H, period = spec.harmonics, spec.period
    if H is None or period is None:
        return
    claim = f"harmonics {H}"
    low, high = spec.bounds(probe.theta)
    start = probe.theta.minimum(high - period)
    if bool((start < low).any()):
        probe.bench.note(claim, "not looked at: the limits are nearer than a period")
        return
    points = [period * k / (2 * H + 1) for k in range(2 * H + 1)]
    text = ""
    for index, only in probe.singles(parameters):
        t = period * float(torch.rand((), generator=probe.generator, device=probe.generator.device))
        weights = [_kernel(2 * math.pi * (t - point) / period, H) for point in points]
        settings = [spec.clamp(torch.where(only, start + step, start)) for step in (t, *points)]

        def explained(settings: list[Tensor] = settings[1:], weights: list[float] = weights) -> Tensor:
            readings = [probe.read(probe.x, setting, claim) for setting in settings]
            return sum((w * y for w, y in zip(weights, readings, strict=True)), torch.zeros_like(readings[0]))

        text = probe.alike(
            claim,
            lambda setting=settings[0]: probe.read(probe.x, setting, claim),
            explained,
            f"the answer with parameter {index} moved",
        )
    probe.bench.note(claim, text)


def _kernel(angle: float, harmonics: int) -> float:
    return (1 + 2 * sum(math.cos(h * angle) for h in range(1, harmonics + 1))) / (2 * harmonics + 1)
