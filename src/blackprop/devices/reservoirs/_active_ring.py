"""A spin-wave delay line closed through an amplifier."""

from __future__ import annotations

import cmath
import enum
import math
from functools import partial
from typing import final

import torch
from torch import Tensor

from blackprop.core._declaration import Cost
from blackprop.core._theta import ThetaSpec
from blackprop.devices.reservoirs._reservoir import (
    Reservoir,
    around_a_loop,
    check_counts,
    check_finite,
    check_not_negative,
    check_positive,
    decay,
    masked,
    not_negative,
    stacked_rows,
    start_from,
    whole_steps,
)
from blackprop.errors import ArgumentError

GAIN, BIAS, PHASE, MASK = range(4)  # places in θ; the mask is the rest


class Drive(enum.Enum):
    """The place where the input enters the ring."""

    INJECTED = "injected"  # beside the bias, as a wave
    GAIN = "gain"  # as a modulation of the loop's amplification


@final
class ActiveRing(Reservoir):
    """The magnonic active ring: the envelope c of a spin wave that circulates through an amplifier obeys

    `ċ = −i N|c|² c − Γ (1 + Q|c|²) c + Γ g e^{iφ} c(t−τ) / (1 + |c(t−τ)|²/P_s) + κ (m(t) u + b)`,

    and a diode reads |c|². With `Drive.GAIN` the input is not injected but modulates the gain, `g (1 + m(t) u)`. A
    sample is held for the time τ (`period`, if given), in which the mask m steps through `nodes` values; the diode is
    read after each: the virtual nodes. θ holds the gain g ≥ 0, the bias b, the loop's phase φ (rad), then the mask,
    node by node, `(nodes, channels)`. From rest, c = `initial` at all earlier times.

    **Threshold.** Small waves grow or decay as e^{λt}, `λ = −Γ + Γ g e^{iφ − λτ}` (`mode` solves it): at φ = 0 the ring
    oscillates from g = 1 on, off resonance from `√(1 + (Ω/Γ)²)` on, at the pulled frequency `tan(φ − Ωτ) = Ω/Γ`. Below,
    it forgets at the rate −Re λ; above, saturation holds it on a limit cycle. Without saturation and nonlinear damping
    the wave is unbounded, and gains above 1 are outside the limits.

    **Integration** by Strang splitting, error O(h²) for the step h = period / nodes / substeps: half a step of the
    drive (known in advance if τ ≥ h), one of the exact flow of damping and frequency shift, half a step of the drive.
    The flow never grows, for any h. τ must be a whole number of steps.

    **Arguments:**

    - `time` (samples), `channels` (default 1), `nodes` (default 50).
    - `drive` (default `Drive.INJECTED`).
    - `delay` (s, default 500e-9): τ; `period` (s, default τ); `substeps` (default 1).
    - `damping` (rad/s): Γ; `shift` (rad/s): N and `nonlinear_damping`: Q, for powers in units in which the saturation
      power P_s is `saturation` (inf for none).
    - `injection` (1/s): κ.
    - `gain`, `bias`, `phase`: initial values. The mask starts from U(−`scale`, `scale`).
    - `cost` (default: time · period seconds a row).

    **Raises** `ArgumentError` for a delay that is not a whole number of steps, or a gain above 1 without saturation.

    Source: the delay model of magnonic auto-oscillation rings, arXiv 2506.04523.
    """

    delay: float
    damping: float
    shift: float
    nonlinear_damping: float
    saturation: float
    injection: float
    initial: complex
    substeps: int

    Drive = Drive
    strength = "gain"

    def __init__(
        self,
        time: int,
        channels: int = 1,
        nodes: int = 50,
        *,
        drive: Drive = Drive.INJECTED,
        delay: float = 500e-9,
        period: float | None = None,
        substeps: int = 1,
        damping: float = 2 * math.pi * 1.3e6,
        shift: float = -2 * math.pi * 16e6,
        nonlinear_damping: float = 1.0,
        saturation: float = 1.0,
        injection: float = 2 * math.pi * 2e6,
        gain: float = 0.9,
        bias: float = 0.5,
        phase: float = 0.0,
        scale: float = 1.0,
        initial: complex = 0.0,
        cost: Cost | None = None,
    ) -> None:
        period = delay if period is None else period
        check_counts("ActiveRing", time=time, channels=channels, nodes=nodes, substeps=substeps)
        check_positive("ActiveRing", delay=delay, period=period, damping=damping, scale=scale)
        check_positive("ActiveRing", injection=injection)
        check_not_negative("ActiveRing", nonlinear_damping=nonlinear_damping, gain=gain)
        check_finite("ActiveRing", shift=shift, bias=bias, phase=phase, initial=initial)
        bounded = _is_bounded(saturation, nonlinear_damping, gain)
        if not isinstance(drive, Drive):
            raise ArgumentError(f"`ActiveRing(drive=...)` must be a member of ActiveRing.Drive, got {drive!r}")
        if drive is Drive.GAIN and not bias and not initial:
            raise ArgumentError(
                "`ActiveRing(drive=Drive.GAIN)` has no wave to amplify: give a bias or an initial amplitude"
            )
        self.drive, self.delay, self.damping, self.shift = drive, delay, damping, shift
        self.nonlinear_damping, self.saturation, self.injection = nonlinear_damping, saturation, injection
        self.initial, self.substeps = initial, substeps
        self.step: float = period / nodes / substeps
        self.delay_steps: int = whole_steps("ActiveRing", delay, self.step)
        size = MASK + nodes * channels
        limits = not_negative(size, math.inf if bounded else 1.0)
        theta = ThetaSpec(size, partial(start_from, (gain, bias, phase), size, scale), *limits)
        cost = cost if cost is not None else Cost(programming=1e-4, row=time * period)
        super().__init__(time, channels, nodes, theta, cost=cost)

    def mode(self, theta: Tensor) -> complex:
        """Return λ of the slowest small wave at the setting (P,), in 1/s: growth Re λ, rotation Im λ in rad/s."""
        loop = self.damping * self.delay
        gain, phase = float(theta[GAIN]), math.remainder(float(theta[PHASE]), 2 * math.pi)
        if not gain:
            return complex(-self.damping)
        # λτ + Γτ = W(Γτ g e^{iφ + Γτ}), the principal branch, which has the rightmost of all roots.
        return (_lambert(math.log(loop * gain) + 1j * phase + loop) - loop) / self.delay

    def rest(self, x: Tensor, theta: Tensor) -> Tensor:
        shape = (*stacked_rows(x, theta), self.delay_steps + 1)
        return torch.full(shape, self.initial, dtype=x.dtype.to_complex(), device=x.device)

    def evolve(self, x: Tensor, theta: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        gain, bias, phase = (theta[..., i : i + 1] for i in (GAIN, BIAS, PHASE))
        drive = masked(x, theta[..., MASK:]).flatten(-2).movedim(-1, 0).repeat_interleave(self.substeps, 0)
        # The drive enters in two halves, before and after the decay.
        loop = gain * torch.complex(phase.cos(), phase.sin()) * (self.damping * self.step / 2)
        kick = self.injection * self.step / 2

        def advance(back: Tensor, now: Tensor, drive: Tensor) -> Tensor:
            returned = self._amplified(back) * loop
            if self.drive is Drive.INJECTED:
                outside = kick * (drive + bias)
                return self._integrate(now, returned[:-1] + outside, returned[1:] + outside)
            first, last = (half * (1 + drive) + kick * bias for half in (returned[:-1], returned[1:]))
            return self._integrate(now, first, last)

        wave, state = around_a_loop(advance, drive, state)
        read = wave[self.substeps - 1 :: self.substeps].movedim(0, -1)
        return (read.real.square() + read.imag.square()).unflatten(-1, self.out_shape), state

    def setting_bytes(self, rows: int) -> int:
        return 8 * self.theta.size + 60 * rows * self.out_shape[0] * self.out_shape[1] * self.substeps

    def _amplified(self, c: Tensor) -> Tensor:
        if math.isinf(self.saturation):
            return c
        return c / (1 + (c.real.square() + c.imag.square()) / self.saturation)

    def _integrate(self, c: Tensor, first: Tensor, last: Tensor) -> Tensor:
        """Return the envelope after each step (steps, ..., rows): `first` enters, the wave decays, `last` enters."""
        between = (last[:-1] + first[1:]).unbind(0)
        decayed = [self._decay(c + first[0])]
        for entering in between:
            decayed.append(self._decay(decayed[-1] + entering))
        return torch.stack(decayed) + last

    def _decay(self, c: Tensor) -> Tensor:
        return decay(c, self.damping * self.step, self.nonlinear_damping, self.shift / self.damping)


def _is_bounded(saturation: float, nonlinear_damping: float, gain: float) -> bool:
    """Return whether saturation or nonlinear damping bounds the wave above threshold; if not, gains above 1 are
    refused.
    """
    if not saturation > 0:
        raise ArgumentError(f"`ActiveRing(saturation=...)` must be positive, got {saturation}")
    bounded = math.isfinite(saturation) or nonlinear_damping > 0
    if gain > 1 and not bounded:
        raise ArgumentError(
            f"`ActiveRing(gain={gain:g})` is unstable: above 1 only saturation or nonlinear damping bounds the wave"
        )
    return bounded


def _lambert(log: complex) -> complex:
    """Return the principal branch of w e^w = e^log, by Newton's method on `w + ln w = log`."""
    w = log - cmath.log(log) if log.real > 1 else cmath.log(1 + cmath.exp(log))
    for _ in range(50):
        w -= (w + cmath.log(w) - log) / (1 + 1 / w)
    return w
