"""Do the power taps give the slopes of the readings, and with which gain each?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from blackprop.characterisation._device_under_test import DeviceUnderTest
from blackprop.characterisation._findings import Finding, sure, unknown
from blackprop.core._procedure import Procedure
from blackprop.core._query import Purpose
from blackprop.core.capabilities._taps import Taps
from blackprop.errors import IncompatibleError
from blackprop.estimators import InSitu
from blackprop.estimators.two_way._in_situ import tapped
from blackprop.planning._methods import radian

NAME = "taps"
PAIRS = 32  # rows and cotangents
STEP = 0.02  # rad: each parameter's part of a step, rms
MOST = 2048  # taps whose gains are told apart
HELD_OUT = 4  # directions that check the gains
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of the mean squared column
EXPLAINED = 0.9  # of fresh changes, from which the taps are said to give the slopes


@dataclass(frozen=True, eq=False)
class TapGains:
    """The finding, and the gain (K,) of each tap over its nominal one; None where they are not told apart."""

    finding: Finding
    gains: Tensor | None = None


def tap_gains(dut: DeviceUnderTest) -> Procedure[TapGains]:
    """Compare the derivatives at the taps with changes of the readings along random directions.

    With m_rk the derivative of `⟨g_r, f(x_r; θ)⟩` at the tap k, a step δ changes that by `Σ_k (Cᵀδ)_k m_rk / γ_k`:
    linear in the inverse gains 1/γ. Least squares with a ridge to their mean; fresh directions choose it
    and check the result.
    """
    spec = dut.spec
    if not spec.has(Taps):
        return TapGains(unknown(NAME, "not asked: the device does not declare power taps (`Taps`)"))
    if not dut.linear:
        return TapGains(unknown(NAME, "not asked: the device was not found linear"))
    try:
        InSitu().check(spec)
    except IncompatibleError as error:
        return TapGains(unknown(NAME, f"not asked: {error}"))
    taps, theta = spec.capability(Taps), dut.base
    x, g = dut.normal(PAIRS, spec.d_in) * dut.scale, dut.normal(PAIRS, spec.d_out)
    if spec.x_limited:
        x = x.clamp(*spec.x_range)
    derivatives = yield from tapped(x, g, theta, spec, Purpose.CALIBRATE)
    shares, slopes = taps.shares(derivatives), taps.slopes(theta)
    derivatives = derivatives if shares is None else derivatives / shares
    count = derivatives.shape[1]
    apart = count <= MOST
    directions = (math.ceil(2 * count / PAIRS) if apart else 8) + HELD_OUT
    steps = STEP * radian(spec) * dut.normal(directions, spec.theta.size)
    ends = [spec.theta.clamp(theta + sign * step) for step in steps for sign in (1, -1)]
    read = yield from dut.readings(x, ends)  # (2 directions, pairs, d_out)
    changes = ((read[::2] - read[1::2]) * g).sum(-1)  # (directions, pairs)
    moved = torch.stack(ends[::2]) - torch.stack(ends[1::2])
    moved = moved if slopes is None else moved * slopes
    per_tap = moved.unflatten(1, (taps.units, -1)) @ moved.new_tensor(taps.combination)  # (directions, units, taps)
    equations = (per_tap.flatten(1)[:, None] * derivatives).double()  # (directions, pairs, K)
    return _solved(equations, changes.double(), apart)


def _solved(equations: Tensor, changes: Tensor, apart: bool) -> TapGains:
    fitted, fresh = equations[:-HELD_OUT].flatten(0, 1), equations[-HELD_OUT:].flatten(0, 1)
    wanted, check = changes[:-HELD_OUT].flatten(), changes[-HELD_OUT:].flatten()
    together = fitted.sum(1)
    mean = float(together @ wanted / together.square().sum().clamp_min(1e-300))
    inverse = torch.full_like(fitted[0], mean)
    candidates = [inverse]
    if apart:
        square, side = fitted.mT @ fitted, fitted.mT @ (wanted - mean * together)
        scale = square.diagonal().mean()
        eye = torch.eye(len(square)).to(square)
        candidates += [inverse + torch.linalg.solve(square + ridge * scale * eye, side) for ridge in RIDGES]
    left = [float((fresh @ each - check).square().sum() / check.square().sum()) for each in candidates]
    best = min(range(len(left)), key=lambda n: left[n])
    explained = 1 - left[best]
    if explained < EXPLAINED or mean <= 0:
        text = (
            f"the gradient from the taps explains {max(0.0, explained):.0%} of fresh changes of the readings: a tap is "
            "missing, in another place or of another sign, or noise hides the changes"
        )
        return TapGains(unknown(NAME, text, False))
    text = f"the gradient from the taps explains {explained:.2%} of fresh changes; gains {1 / mean:.3g} on the mean"
    if best == 0:
        return TapGains(Finding(NAME, True, True, f"{text}, alike as far as can be told", sure(len(check))))
    gains = (1 / candidates[best].clamp_min(0.1 * mean)).float()
    spread = float(gains.std() / gains.mean())
    text += f", {spread:.1%} apart; told apart they explain {1 - left[0]:.2%} without and {explained:.2%} with"
    return TapGains(Finding(NAME, True, True, text, sure(len(check))), gains)
