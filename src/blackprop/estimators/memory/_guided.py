"""Guided evolution strategies: perturbations that favour the directions of past estimates, for comparison."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from blackprop.core._declaration import Declaration
from blackprop.core._procedure import Procedure
from blackprop.directions import Directions, Gaussian
from blackprop.errors import ArgumentError, IncompatibleError
from blackprop.estimators._base import Estimator, positive_step
from blackprop.estimators._differences import Contraction, Difference, Forward
from blackprop.estimators._random_directions import RandomDirections


class GuidedDirections(nn.Module, Estimator):
    """Differences along directions that are drawn wider in the space of past estimates,

    `ĝ = (1/M) Σ_m ⟨g, u_m⟩ u_m` with `u ~ N(0, C)`, `C = α I + (1 − α)(P/k) Q Qᵀ`, `E|u|² = P`,

    Q `(P, k)` an orthonormal basis of the last k exponential averages `m_t = β m_{t−1} + (1 − β) ĝ_t` of the estimates.
    β = 0 is guided evolution strategies with the estimates as surrogate gradients; β near 1 and k = 1 perturbs along
    the momentum, and k > 1 along the momentum and the last k − 1 estimates.

    **Biased by design:** the mean is `C g` and not g, that is g times α across the subspace and times α + (1 − α)P/k
    within. It is always a descent direction (C is positive definite). It helps if the subspace holds more than its part
    k/P of |g|², and otherwise adds variance. Before the first estimate, C = I, as in Gaussian `RandomDirections`.

    **Costs** as `RandomDirections`: M programmings (2M central). Memory `4·(k + 1)·P` bytes, `k² P` operations a step.

    **Arguments:**

    - `count` (default 10): M.
    - `step` (units of θ, default 1e-4): μ.
    - `memory` (default 10): k.
    - `alpha` (default 0.5): α in (0, 1], the part of |u|² that explores; 1 for no guidance.
    - `decay` (default 0): β.
    - `difference` (default `Forward()`): or `Central()`.
    - `contraction` (default None): a shorter set of rows, for linear devices.

    Holds state: use one for each layer. Source: arXiv 1806.10230.
    """

    count: int
    step: float
    memory: int
    alpha: float
    decay: float

    past: Tensor
    average: Tensor
    steps: Tensor

    def __init__(
        self,
        count: int = 10,
        step: float = 1e-4,
        memory: int = 10,
        alpha: float = 0.5,
        decay: float = 0.0,
        difference: Difference | None = None,
        contraction: Contraction | None = None,
    ) -> None:
        super().__init__()
        positive_step(self, step)
        for name, value in (("count", count), ("memory", memory)):
            if value < 1:
                raise ArgumentError(f"`GuidedDirections({name}=...)` must be at least 1, got {value}")
        if not 0 < alpha <= 1:
            raise ArgumentError(f"`GuidedDirections(alpha=...)` must be in (0, 1], got {alpha}")
        if not 0 <= decay < 1:
            raise ArgumentError(f"`GuidedDirections(decay=...)` must be in [0, 1), got {decay}")
        self.count, self.step, self.memory, self.alpha, self.decay = count, step, memory, alpha, decay
        self.difference: Difference | Forward = difference if difference is not None else Forward()
        self.contraction = contraction
        self._bound: str | None = None

    @property
    def bias_order(self) -> int | None:
        """The order of the differences, about the mean `C g`."""
        return self.difference.order

    def relative_variance(self, size: int) -> float:
        """Return the variance of the first estimate, without memory."""
        return Gaussian().relative_variance(self.count, size)

    def check(self, spec: Declaration) -> None:
        P = spec.theta.size
        self._along(Guided(torch.eye(P, min(self.memory, P)), self.alpha)).check(spec)  # a basis as wide as there is

    def bind(self, spec: Declaration) -> None:
        if self._bound is not None:
            raise IncompatibleError(f"this GuidedDirections already serves {self._bound}; make one a layer")
        self.check(spec)
        self._bound = spec.name
        self.register_buffer("past", torch.zeros(min(self.memory, spec.theta.size), spec.theta.size))  # newest first
        self.register_buffer("average", torch.zeros(spec.theta.size))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def grad_theta(
        self, x: Tensor, theta: Tensor, y: Tensor, grad_y: Tensor, spec: Declaration, generator: torch.Generator
    ) -> Procedure[Tensor]:
        filled = min(int(self.steps), len(self.past))
        family = Guided(_basis(self.past[:filled].to(theta)), self.alpha) if filled else Gaussian()
        grad = yield from self._along(family).grad_theta(x, theta, y, grad_y, spec, generator)
        if self.training and bool(grad.any()):  # a gradient of zero has no direction
            self.average.lerp_(grad.to(self.average), 1 - self.decay)
            self.past.copy_(torch.cat((self.average[None] / self.average.norm(), self.past[:-1])))
            self.steps += 1
        return grad

    def _along(self, directions: Directions) -> RandomDirections:
        return RandomDirections(self.count, self.step, directions, self.difference, self.contraction)

    def extra_repr(self) -> str:
        return (
            f"count={self.count}, step={self.step}, memory={self.memory}, alpha={self.alpha}, decay={self.decay}, "
            f"{self.difference}, contraction={self.contraction}"
        )


@dataclass(frozen=True, eq=False)
class Guided(Directions):
    """`u = √α ε + √((1 − α) n/k) Q ε'`, ε and ε' standard normal, for Q = `basis` (n, k): covariance C, not I.

    The variance law is that about the mean `C g`, for a g across the subspace: `α(n + α)/M`.
    """

    basis: Tensor
    alpha: float

    def reach(self, size: int) -> float:
        widest = float(self.basis.square().sum(1).max())
        return 6 * math.sqrt(self.alpha + (1 - self.alpha) * size / self.basis.shape[1] * widest)

    def sample(self, count: int, size: int, generator: torch.Generator, like: Tensor) -> Tensor:
        k = self.basis.shape[1]
        around = Gaussian().sample(count, size, generator, like)
        within = Gaussian().sample(count, k, generator, like)
        return math.sqrt(self.alpha) * around + math.sqrt((1 - self.alpha) * size / k) * within @ self.basis.mT

    def relative_variance(self, count: int, size: int, part: int | None = None) -> float:
        return self.alpha * ((part or size) + self.alpha) / count


def _basis(past: Tensor) -> Tensor:
    """Orthonormal, of the span of k rows (k, P): (P, k)."""
    return torch.linalg.qr(past.mT).Q
