"""Homodyne gradient extraction: one sinusoid for each parameter, recovered from the loss by lock-in."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from blackprop.errors import ArgumentError
from blackprop.optim._base import ForwardOnly, Slope
from blackprop.optim._displacement import Place

BLOCK = 2**22  # pairs of channels whose crosstalk is computed at once


@dataclass(frozen=True, eq=False)
class FrequencyPlan:
    """The sinusoid of each parameter, and the duration of a measurement.

    The lock-in of channel i picks up from channel j, with N = time · rate readings at t_n = n/rate,

    `X_ij = (2/N) Σ_n sin(2π f_i t_n) sin(2π f_j t_n)`, which must be δ_ij within `crosstalk`.

    It is exact if every sinusoid makes whole periods in `time`. The contributions of a curved loss at 2 f_i and f_i ±
    f_j are then in quadrature, and are rejected too. With `odd` multiples of 1/time, these products fall on none of the
    channels, whatever the phase lag of a slow instrument.

    **Arguments:**

    - `frequencies` (P,) (Hz).
    - `time` (s).
    - `rate` (Hz): readings of the loss a second.
    - `crosstalk` (default 1e-6).

    **Raises** `ArgumentError` for frequencies that collide, exceed half the rate or exceed the crosstalk.

    Reported for a network of dopants: 0.1 s, spacings of 10 to 40 Hz.
    """

    frequencies: Tensor  # (P,), Hz
    time: float  # s
    rate: float  # Hz
    crosstalk: float = 1e-6

    def __post_init__(self) -> None:
        f = self.frequencies
        if not (0 < self.time < math.inf and 0 < self.rate < math.inf):
            raise ArgumentError(f"`FrequencyPlan` takes a positive time and rate, got {self.time} s and {self.rate} Hz")
        if f.dim() != 1 or not len(f) or not bool(((f > 0) & (f < self.rate / 2)).all()):
            raise ArgumentError(
                f"`FrequencyPlan(frequencies=...)` takes frequencies (P,) between 0 and half the rate, "
                f"{self.rate / 2:g} Hz: higher sinusoids alias to lower ones"
            )
        ordered, order = f.double().sort()
        gaps = ordered.diff()
        if len(gaps) and float(gaps.min()) < (1 - 1e-9) / self.time:
            i = int(gaps.argmin())
            raise ArgumentError(
                f"the frequencies of parameters {int(order[i])} and {int(order[i + 1])} collide: {float(ordered[i]):g} "
                f"and {float(ordered[i + 1]):g} Hz are indistinguishable in {self.time:g} s; keep them "
                f"{1 / self.time:g} Hz apart or measure longer"
            )
        worst, i, j = self._worst()
        if not worst <= self.crosstalk:
            raise ArgumentError(
                f"parameter {i} picks up {worst:.2g} of parameter {j}, and `FrequencyPlan(crosstalk=...)` allows "
                f"{self.crosstalk:g}; let each make whole periods in {self.time:g} s, measure longer, or allow more"
            )

    @classmethod
    def odd(cls, size: int, time: float = 1.0) -> FrequencyPlan:
        """Return the odd multiples of 1/time, read 4 P times: sums, differences and doubles are even, and so are
        aliases.
        """
        return cls((2 * torch.arange(size, dtype=torch.float64) + 1) / time, time, 4 * size / time)

    @property
    def readings(self) -> int:
        """N."""
        return max(1, round(self.time * self.rate))

    def _worst(self) -> tuple[float, int, int]:
        """Return the largest `|X_ij − δ_ij|`, and its channels."""
        f, P = self.frequencies.double(), len(self.frequencies)
        if (
            bool(((f * self.time - (f * self.time).round()).abs() < 1e-9).all())
            and self.readings == self.time * self.rate
        ):
            return 0.0, 0, 0
        rows, found = max(1, BLOCK // P), (0.0, 0, 0)
        for start in range(0, P, rows):
            some = f[start : start + rows, None]
            X = (self._mean_cosine(some - f) - self._mean_cosine(some + f)).abs_()
            X[torch.arange(len(some)), torch.arange(start, start + len(some))] = self._mean_cosine(
                2 * some[:, 0]
            ).abs()  # X_ii − 1
            top = int(X.argmax())
            found = max(found, (float(X.flatten()[top]), start + top // P, top % P))
        return found

    def _mean_cosine(self, f: Tensor) -> Tensor:
        """Return `(1/N) Σ_n cos(2π f n/rate)`, by the sum of the geometric series."""
        N, half = self.readings, math.pi * f / self.rate
        slow = half.sin().abs() < 1e-12
        whole = (N * half).sin() / torch.where(slow, 1.0, N * half.sin())
        return torch.where(slow, 1.0, whole * ((N - 1) * half).cos())


class HomodyneGradient(ForwardOnly):
    """All parameters oscillate at once, each at its own frequency, and a lock-in demodulates the loss:

    `ĝ_i = (2/(δ N)) Σ_n L(θ + δ sin 2πf t_n) sin 2πf_i t_n`, `θ ← θ − lr ĝ`.

    Deterministic: ĝ is the gradient within O(δ²) and the plan's crosstalk, and noise σ in the loss leaves an error of
    `σ √(2/N)/δ` in each parameter.

    **Costs** N forward passes a step, 4 P in the default plan, twice those of central differences, and a copy of the
    parameters during each.

    **Arguments:**

    - `params`: as in any torch optimizer.
    - `lr`: the rate.
    - `delta` (units of θ, default 0.01): δ.
    - `plan` (default `FrequencyPlan.odd` over all parameters, counted in the given order).
    - `momentum`, `betas`, `model`: as in `PerturbativeGradient`.

    Source: Boon et al., Gradient descent in materia through homodyne gradient extraction (arXiv 2105.11233). There the
    output of a material is demodulated and the chain rule leads to the loss; here the loss itself is demodulated.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        delta: float = 1e-2,
        plan: FrequencyPlan | None = None,
        *,
        momentum: float = 0.0,
        betas: tuple[float, float] | None = None,
        model: nn.Module | None = None,
    ) -> None:
        self._given = plan
        generator = torch.Generator().manual_seed(0)  # unused
        super().__init__(params, {"lr": lr, "delta": delta, "momentum": momentum, "betas": betas}, generator, model)

    @property
    def passes(self) -> int:
        return self.plan.readings

    @property
    def bias_order(self) -> int:
        return 2

    def relative_variance(self, size: int) -> float:
        return 0.0

    def _direction(self, p: Tensor, group: dict[str, Any], place: Place) -> Tensor:
        f = self.plan.frequencies[place.offset : place.offset + p.numel()].to(p.device, torch.float64)
        return (f * (2 * math.pi * place.key / self.plan.rate)).sin_().reshape(p.shape).to(p.dtype)

    def _second_moment(self, group: dict[str, Any]) -> float:
        return 0.5

    def _probe(self, loss_at: Callable[..., float], tick: int) -> tuple[list[Slope], float]:
        losses = [loss_at(n) for n in range(self.passes)]
        mean = sum(losses) / len(losses)
        return [(n, loss - mean) for n, loss in enumerate(losses)], mean

    def _check_size(self) -> None:
        self.plan: FrequencyPlan = self._given if self._given is not None else FrequencyPlan.odd(self.size)
        if len(self.plan.frequencies) != self.size:
            raise ArgumentError(
                f"`HomodyneGradient(plan=...)` has {len(self.plan.frequencies)} frequencies for {self.size} parameters"
            )
