"""Multiplexed gradient descent: all parameters perturbed at once, correlated with the cost, integrated over time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from blackprop.errors import ArgumentError
from blackprop.optim._base import ForwardOnly, Slope
from blackprop.optim._displacement import Place, random_signs


class MultiplexedGradientDescent(ForwardOnly):
    """`G = (1/N) Σ_t (C(θ + δ u_t) − C₀) u_t / δ` over N perturbations, `u_t = ±1` in every parameter; `θ ← θ − lr G`.

    The clocks, in perturbations (τ_p = 1): a step is one sample, τ_x = `perturbations` long, with its own baseline C₀;
    G is integrated over `integration` steps, τ_θ = N = `perturbations · integration`, and then θ moves.

    Random signs: mean the gradient within O(δ), relative variance (P − 1)/N. `walsh`: parameter i has the i-th Walsh
    sequence of length n, the power of two that is at least P, with its sign reversed every other pass, and N must be
    whole passes. The gradient of a linear loss is then exact, and the error O(δ), over pairs of passes O(δ²). If the
    steps have different samples, it is the mean over them only if each sample sees whole passes.

    **Costs** `perturbations + 1` forward passes a step, and a copy of the parameters during each.

    **Arguments:**

    - `params`: as in any torch optimizer.
    - `lr`: the rate.
    - `delta` (units of θ, default 0.01): the amplitude of each parameter, Δ/√P of the published Δ.
    - `perturbations` (default 1), `integration` (default 10): the clocks.
    - `walsh` (default False): Walsh sequences in place of random signs.
    - `momentum`: the low-pass of the analogue form, with time constant τ_θ/(1 − momentum).
    - `betas`, `generator`, `model`: as in `PerturbativeGradient`.

    Source: McCaughan et al., APL Mach. Learn. 1 (2023) 026118. There G is the sum and not the mean, and the code
    divides by Δ²/P in place of Δ²: a mean of gradient/P a perturbation. Here its mean is the gradient for any N and P.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        delta: float = 1e-2,
        perturbations: int = 1,
        integration: int = 10,
        *,
        walsh: bool = False,
        momentum: float = 0.0,
        betas: tuple[float, float] | None = None,
        generator: torch.Generator | None = None,
        model: nn.Module | None = None,
    ) -> None:
        for name, value in (("perturbations", perturbations), ("integration", integration)):
            if value < 1:
                raise ArgumentError(f"`MultiplexedGradientDescent({name}=...)` must be at least 1, got {value}")
        self.perturbations = perturbations
        self.integration = integration
        self.walsh = walsh
        super().__init__(params, {"lr": lr, "delta": delta, "momentum": momentum, "betas": betas}, generator, model)

    @property
    def passes(self) -> int:
        return self.perturbations + 1

    @property
    def bias_order(self) -> int:
        return 2 if self.walsh and self._constant % (2 * self._cycle) == 0 else 1

    def relative_variance(self, size: int) -> float:
        return 0.0 if self.walsh else (size - 1) / self._constant

    @property
    def _constant(self) -> int:
        """τ_θ, in perturbations."""
        return self.perturbations * self.integration

    @property
    def _cycle(self) -> int:
        """Perturbations in one pass through the Walsh sequences."""
        return 1 << (self.size - 1).bit_length()

    def _direction(self, p: Tensor, group: dict[str, Any], place: Place) -> Tensor:
        if not self.walsh:
            return random_signs(p, place)
        bits = torch.arange(place.offset, place.offset + p.numel(), device=p.device) & place.key
        for shift in (32, 16, 8, 4, 2, 1):
            bits ^= bits >> shift  # the parity of all bits, in the lowest
        sign = -1 if place.key // self._cycle % 2 else 1
        return (sign * (1 - 2 * (bits & 1))).reshape(p.shape).to(p.dtype)

    def _second_moment(self, group: dict[str, Any]) -> float:
        return 1.0

    def _probe(self, loss_at: Callable[..., float], tick: int) -> tuple[list[Slope], float]:
        first, count = tick * self.perturbations, self.perturbations
        keys = list(range(first, first + count)) if self.walsh else self._draw_keys(count)
        loss = loss_at()
        return [(key, loss_at(key) - loss) for key in keys], loss

    def _check_size(self) -> None:
        if self.walsh and self._constant % self._cycle:
            raise ArgumentError(
                f"`MultiplexedGradientDescent(walsh=True)` needs `perturbations * integration` in multiples of "
                f"{self._cycle}, a whole pass for {self.size} parameters, got {self._constant}"
            )
