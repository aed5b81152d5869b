"""Simultaneous perturbation stochastic approximation, in the textbook form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from blackprop.errors import ArgumentError
from blackprop.optim._base import ForwardOnly, Slope
from blackprop.optim._displacement import Place, both_ends, random_signs


class SPSA(ForwardOnly):
    """`θ ← θ − a_k ĝ`, `ĝ = u (L(θ + c_k u) − L(θ − c_k u)) / (2 c_k)`, `u_i = ±1`, with the gains

    `a_k = a/(A + k)^0.602` and `c_k = c/k^0.101`, k = 1, 2, …

    Mean: the gradient within O(c_k²); relative variance P − 1.

    **Costs** two forward passes a step, and a copy of the parameters during each.

    **Arguments:**

    - `params`: as in any torch optimizer.
    - `lr`: a. The gains are the schedule; a scheduler of torch changes a.
    - `delta` (units of θ, default 0.01): c, about the standard deviation of the noise in the loss.
    - `stability` (steps, default 0): A, about a tenth of the planned steps.
    - `alpha` (default 0.602), `gamma` (default 0.101): the exponents; the defaults are the slowest that ensure
      convergence (1 and 1/6 are best in the limit).
    - `generator`, `model`: as in `PerturbativeGradient`.

    Source: Spall, IEEE Trans. Aerosp. Electron. Syst. 34 (1998) 817; Introduction to Stochastic Search (2003), ch. 7.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        delta: float = 1e-2,
        stability: float = 0.0,
        alpha: float = 0.602,
        gamma: float = 0.101,
        *,
        generator: torch.Generator | None = None,
        model: nn.Module | None = None,
    ) -> None:
        for name, value in (("stability", stability), ("alpha", alpha), ("gamma", gamma)):
            if not value >= 0:
                raise ArgumentError(f"`SPSA({name}=...)` must not be negative, got {value}")
        self.stability = stability
        self.alpha = alpha
        self.gamma = gamma
        super().__init__(params, {"lr": lr, "delta": delta}, generator, model)

    @property
    def passes(self) -> int:
        return 2

    @property
    def bias_order(self) -> int:
        return 2

    def relative_variance(self, size: int) -> float:
        return size - 1

    def _direction(self, p: Tensor, group: dict[str, Any], place: Place) -> Tensor:
        return random_signs(p, place)

    def _second_moment(self, group: dict[str, Any]) -> float:
        return 1.0

    def _probe(self, loss_at: Callable[..., float], tick: int) -> tuple[list[Slope], float]:
        return both_ends(loss_at, *self._draw_keys(1))

    def _delta(self, group: dict[str, Any]) -> float:
        return group["delta"] / (self.steps + 1) ** self.gamma

    def _rate(self, group: dict[str, Any]) -> float:
        return group["lr"] / (self.stability + self.steps + 1) ** self.alpha
