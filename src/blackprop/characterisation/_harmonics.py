"""Are the outputs sinusoids in each parameter alone?"""

from __future__ import annotations

import math

import torch

from blackprop.characterisation._device_under_test import DeviceUnderTest, rms
from blackprop.characterisation._findings import Finding, sure, unknown
from blackprop.core._procedure import Procedure

MOST = 24  # parameters that are moved, one at a time
UNSEEN = 0.1  # of a parameter's effect: bound of undetected other harmonics


def harmonics(dut: DeviceUnderTest) -> Procedure[Finding]:
    """Test whether three points of a period of single parameters predict a fourth, as for one harmonic:

    `f(t) = Σ_k D(t − t_k) f(t_k)`, `D(t) = (1 + 2 cos ωt)/3`. The first point is the base, the fourth anywhere.
    """
    T = dut.period
    if T is None:
        return unknown("harmonics", "there is no period that they could be of")
    at = dut.base
    low, high = dut.spec.theta.bounds(at)
    if bool((high - low < T).any()):
        return unknown("harmonics", "the limits are nearer than a period")
    at = at.minimum(high - T).maximum(low)
    chosen = dut.chosen(MOST)
    settings, weights = [], []
    for index, place in zip(chosen, dut.some(len(chosen)).tolist(), strict=True):
        t = 0.5 + place / 3 if place < 0.5 else place / 3  # in periods, away from the three points
        only = torch.arange(len(at), device=at.device) == index
        settings += [torch.where(only, at + T * step, at) for step in (1 / 3, 2 / 3, t)]
        weights.append([(1 + 2 * math.cos(2 * math.pi * (t - point))) / 3 for point in (1 / 3, 2 / 3)])
    changes, controls = yield from dut.interleaved(dut.rows, at, [dut.spec.theta.clamp(s) for s in settings])
    first, second, fourth = changes.unflatten(0, (-1, 3)).unbind(1)
    w = torch.tensor(weights).to(fourth)[:, :, None, None]
    left = (fourth - w[:, 0] * first - w[:, 1] * second) / (1 + w.square().sum(1)).sqrt()
    found, own = dut.compare(left, controls), rms(torch.stack((first, second, fourth)))
    if found.allowed > UNSEEN * own:
        return unknown("harmonics", "what single parameters do is too small beside noise, rounding and drift")
    if not found.alike:
        text = (
            f"three points of a period leave {found.size / own:.2g} of what a parameter does unexplained: more than one"
        )
        return Finding("harmonics", None, True, text, sure(len(chosen)))
    text = (
        f"{len(chosen)} of {dut.spec.theta.size} parameters, moved alone, make sinusoids: three points of a period "
        f"explain a fourth within {found.allowed / own:.1g}"
    )
    return Finding("harmonics", 1.0, True, text, sure(len(chosen) * 3))
