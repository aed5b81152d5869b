"""The answers to θ: its period, its response curves, and a useful step for differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from blackprop.characterisation._device_under_test import DeviceUnderTest, rms
from blackprop.characterisation._findings import Finding, sure, unknown
from blackprop.core._procedure import Procedure

CANDIDATES = (2 * math.pi, 1.0, 360.0, math.pi, 2.0, 180.0, 4 * math.pi, 256.0)  # rad, turns, degrees, levels
SUBSETS = 8
SCAN = 33  # points of the scan that looks for another period
POINTS = 17  # of a response curve
PATIENCE = 4  # repeats of a reading where a period must hold, on a noisy device
STEPS = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0)  # of the step that the noise alone would suggest


def period(dut: DeviceUnderTest) -> Procedure[Finding]:
    """Return the smallest T with `f(θ + T·r) = f(θ)` for random subsets r of the parameters, and for single ones.

    Candidates are the declared period, the usual ones (2π, 1, 360, …) and the result of a scan of all parameters
    together. A T counts only if parts of it do change the answer.
    """
    width = _width(dut)
    said = [dut.spec.theta.period] if dut.spec.theta.period is not None else []
    tried = [t for t in dict.fromkeys([*said, *CANDIDATES]) if t <= width]
    passed, near = yield from _screen(dut, tried)
    if not passed:
        scanned = yield from _scan(dut, min(width, 16.0))
        more, also = yield from _screen(dut, scanned)
        passed, near, tried = more, near + also, tried + scanned
    if passed:
        # A multiple of the period passes as well; a rejected candidate may have failed by noise alone.
        smaller = [t / k for t in passed for k in (2, 3) if not any(abs(t / k - other) < 1e-3 * t for other in passed)]
        passed += (yield from _screen(dut, smaller))[0]
    repeats = PATIENCE if dut.noisy else 1
    for T in sorted(passed):
        start = _room(dut, dut.base, T)
        settings = [_moved(dut, start, T, which) for which in _subsets(dut)]
        change, control = yield from dut.interleaved(dut.rows, start, settings, repeats)
        alike = dut.compare(change, control).alike
        for _ in range(2):
            at = _room(dut, dut.anywhere(), T)
            change, control = yield from dut.interleaved(
                dut.rows, at, [_moved(dut, at, T, dut.half(dut.spec.theta.size)) for _ in range(2)], repeats
            )
            alike = alike and dut.compare(change, control).alike
        if alike:
            limit = dut.compare(change, control).allowed / dut.size
            text = f"{SUBSETS + 4} subsets and single parameters moved by {T:.6g} change nothing, within {limit:.1g}"
            return Finding("period", T, True, text, sure((SUBSETS + 4) * dut.checks))
        near.append(T)
    if near:
        names = ", ".join(f"{t:.5g}" for t in dict.fromkeys(near))
        return unknown("period", f"the answer nearly returns after {names}, but not for every parameter or not quite")
    text = (
        f"no answer returns after any of {', '.join(f'{t:.4g}' for t in tried)}" if tried else "the limits are too near"
    )
    return Finding("period", None, True, text, sure(len(tried)))


def _width(dut: DeviceUnderTest) -> float:
    low, high = dut.spec.theta.bounds(dut.home)
    width = float((high - low).min())
    return width * (1 + 1e-6) if math.isfinite(width) else math.inf


def _room(dut: DeviceUnderTest, theta: Tensor, T: float) -> Tensor:
    """Return a setting from which θ + T is within the limits, if there is one."""
    low, high = dut.spec.theta.bounds(theta)
    return torch.minimum(theta, high - T).maximum(low) if dut.spec.theta.limited else theta


def _moved(dut: DeviceUnderTest, theta: Tensor, step: float, which: Tensor) -> Tensor:
    return dut.spec.theta.clamp(torch.where(which, theta + step, theta))


def _subsets(dut: DeviceUnderTest) -> list[Tensor]:
    size = dut.spec.theta.size
    singles = [torch.arange(size, device=dut.home.device) == index for index in dut.chosen(SUBSETS // 4)]
    return [*singles, *(dut.half(size) for _ in range(SUBSETS - len(singles)))]


def _screen(dut: DeviceUnderTest, candidates: Sequence[float]) -> Procedure[tuple[list[float], list[float]]]:
    """Return the candidates that pass a first test, and those that nearly do.

    One half is moved by T, another by a part of it, which must show.
    """
    passed, near = [], []
    for T in candidates:
        at, which = _room(dut, dut.base, T), dut.half(dut.spec.theta.size)
        part = T * (0.3 + 0.4 * float(dut.some(1)))
        settings = [_moved(dut, at, T, which), _moved(dut, at, part, which)]
        change, control = yield from dut.interleaved(dut.rows, at, settings)
        whole, parts = dut.compare(change[:1], control), dut.compare(change[1:], control)
        if parts.alike or parts.size < 3 * parts.allowed:
            continue
        if whole.alike:
            passed.append(T)
        elif whole.size < 0.1 * parts.size:
            near.append(T)
    return passed, near


def _scan(dut: DeviceUnderTest, width: float) -> Procedure[list[float]]:
    """Return periods that explain a scan of all parameters together over `width`, refined by secants; may be empty."""
    t = torch.linspace(0, width, SCAN).to(dut.home)
    settings = [dut.spec.theta.clamp(dut.base + step) for step in t]
    y = (yield from dut.readings(dut.rows, settings)).flatten(1).double()
    y = y - y.mean(0)
    total = float(y.square().sum())
    if total == 0:
        return []
    trials = torch.logspace(math.log10(width / 8), math.log10(width / 1.25), 240, dtype=torch.float64)
    left = torch.tensor([_left(t.double(), y, float(T)) / total for T in trials])
    best = float(left.min())
    if best > 0.15:
        return []
    first = int((left < best + 0.05).nonzero()[0])
    valley = int(left[first : first + 12].argmin()) + first
    return [T for T in [(yield from _refined(dut, float(trials[valley])))] if T is not None]


def _left(t: Tensor, y: Tensor, T: float) -> float:
    """Return the residual of a Fourier series of period T on the scan (points, outputs)."""
    harmonics = max(1, min(6, int(len(t) * T / float(t[-1]) / 3)))
    angle = 2 * math.pi / T * t[:, None] * torch.arange(1, harmonics + 1).to(t)
    design = torch.cat((torch.ones_like(t)[:, None], angle.cos(), angle.sin()), 1)
    q, _ = torch.linalg.qr(design)
    return float((y - q @ (q.mT @ y)).square().sum())


def _refined(dut: DeviceUnderTest, T: float) -> Procedure[float | None]:
    """Make Newton's step on `f(θ + T) = f(θ)`: the slope at θ gives the error of T."""
    for _ in range(4):
        h = T / 50
        steps = (0.0, T, h, T + h)
        y = yield from dut.readings(dut.rows, [dut.spec.theta.clamp(dut.base + step) for step in steps])
        slope = ((y[2] - y[0]) + (y[3] - y[1])) / (2 * h)
        off = float(((y[1] - y[0]) * slope).sum() / slope.square().sum().clamp_min(1e-300))
        if not abs(off) < T / 5:
            return None
        T -= off
    return T


def response(dut: DeviceUnderTest) -> Procedure[tuple[Finding, dict[str, Any]]]:
    """All parameters moved together across the period or the range: the answers of some outputs to one row."""
    low, high = dut.spec.theta.range_around(dut.home)
    width = dut.period if dut.period is not None else float((high - low).min())
    t = torch.linspace(0, width, POINTS).to(dut.home)
    start = dut.base if dut.period is not None and not dut.spec.theta.limited else low.expand_as(dut.home)
    settings = [dut.spec.theta.clamp(start + step) for step in t]
    y = (yield from dut.readings(dut.rows[:2], settings)).flatten(1)
    curve = {"theta": t.tolist(), "outputs": y[:, :6].mT.tolist()}
    bow = y[2:] - 2 * y[1:-1] + y[:-2]
    straight = rms(bow) < max(1e-3 * rms(y - y.mean(0)), 4 * dut.blur)
    rising = y.diff(dim=0)
    alone = ((rising > -4 * dut.blur).all(0) | (rising < 4 * dut.blur).all(0)).double().mean()
    kind = "straight" if straight else "monotonic" if float(alone) > 0.9 else "curved"
    moves = rms(y - y.mean(0)) / dut.size
    text = f"{POINTS} settings across {width:.4g}: the answers move by {moves:.2g} of the outputs"
    return Finding("response", kind, True, text, sure(y.numel())), curve


def useful_step(dut: DeviceUnderTest, radian: float) -> Procedure[tuple[float | None, Finding, dict[str, Any]]]:
    """Return the step with the least expected error of a central difference `(f(θ + h u) − f(θ − h u)) / 2h`, u = ±1.

    Noise and rounding of a reading, σ, cause an error `σ / (√2 h)` of the slope; curvature causes one of c h², where c
    is the difference of the slopes at steps h and 2h, over 3h². None if all slopes are within their errors.
    """
    guess = radian * max(0.01, 0.7 * math.sqrt(dut.blur / dut.size))
    u = dut.half(dut.spec.theta.size).to(dut.home) * 2 - 1
    low, high = dut.spec.theta.bounds(dut.home)
    most = float((high - low).min()) / 2
    steps = [h for h in (guess * k for k in STEPS) if h < most] or [most / 2]
    base = dut.spec.theta.interior(dut.base, steps[-1]) if dut.spec.theta.limited else dut.base
    settings = [dut.spec.theta.clamp(base + sign * h * u) for h in steps for sign in (1, -1)]
    y = (yield from dut.readings(dut.rows, settings)).unflatten(0, (-1, 2))
    slopes = [(pair[0] - pair[1]) / (2 * h) for pair, h in zip(y, steps, strict=True)]
    blurs = [dut.blur / (math.sqrt(2) * h) for h in steps]
    # The slope itself, from the steps that show it: below twice its error, its size is unknown.
    shown = [rms(slope) for slope, blur in zip(slopes, blurs, strict=True) if rms(slope) > 2 * blur]
    if not shown:
        text = f"no difference stands out of noise and rounding up to a step of {steps[-1]:.3g}; try a larger one"
        return None, unknown("step", text), {}
    size, curvature, errors = max(shown), 0.0, []
    for h, slope, wider, blur in zip(steps, slopes, [*slopes[1:], slopes[-1]], blurs, strict=True):
        off = max(0.0, rms(wider - slope) ** 2 - 1.25 * blur**2)
        curvature = max(math.sqrt(off) / 3, curvature)  # a bend once seen is not unseen further out
        errors.append(math.hypot(blur, curvature, 1e-6 * dut.size / h) / size)
    best = min(range(len(errors)), key=errors.__getitem__)
    curve = {"step": steps, "error": errors}
    text = f"a central difference with it is expected to err by {errors[best]:.1g} of the slope"
    return steps[best], Finding("step", steps[best], True, text, sure(y.numel())), curve
