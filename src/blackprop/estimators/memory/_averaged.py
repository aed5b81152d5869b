"""An exponential average of past estimates: the simplest memory, for comparison."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from blackprop.core._declaration import Declaration
from blackprop.core._procedure import Procedure
from blackprop.errors import ArgumentError, IncompatibleError
from blackprop.estimators._base import Estimator


class Averaged(nn.Module, Estimator):
    """The exponential average of another estimator's results,

    `m_t = β m_{t−1} + (1 − β) ĝ_t`, and the estimate is `m_t / (1 − βᵗ)`, a weighted mean of all ĝ so far.

    At a fixed θ and batch its mean is that of the other estimator, and its variance falls by (1 − β)/(1 + β) after
    1/(1 − β) steps. In training the batches and θ move, and the average is over the gradients of some 1/(1 − β) steps.
    The price is that delay, as with momentum in an optimizer.

    **Costs** the queries of the other estimator; memory P.

    **Arguments:**

    - `estimator`: the other estimator.
    - `decay` (default 0.9): β in [0, 1); 0 for no memory.

    Holds state: use one for each layer.

    **Raises** `ArgumentError` for an estimator that makes no queries.
    """

    estimator: Estimator
    decay: float

    average: Tensor
    weight: Tensor

    def __init__(self, estimator: Estimator, decay: float = 0.9) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ArgumentError(f"`Averaged(decay=...)` must be in [0, 1), got {decay}")
        if estimator.reads is not None:
            raise ArgumentError(f"`Averaged` is for estimators that query the device, and {estimator} does not")
        self.estimator, self.decay = estimator, decay
        self._bound: str | None = None

    @property
    def bias_order(self) -> int | None:
        return self.estimator.bias_order

    def relative_variance(self, size: int) -> float:
        """Return the variance at a fixed gradient, after many steps."""
        return self.estimator.relative_variance(size) * (1 - self.decay) / (1 + self.decay)

    def lasting_error(self, spec: Declaration) -> float:
        return self.estimator.lasting_error(spec)

    def trained(self, spec: Declaration) -> Tensor | None:
        return self.estimator.trained(spec)

    def check(self, spec: Declaration) -> None:
        self.estimator.check(spec)

    def bind(self, spec: Declaration) -> None:
        if self._bound is not None:
            raise IncompatibleError(f"this Averaged already serves {self._bound}; make one a layer")
        self.estimator.bind(spec)
        self._bound = spec.name
        self.register_buffer("average", torch.zeros(spec.theta.size))  # m_t
        self.register_buffer("weight", torch.zeros(()))  # 1 − βᵗ

    def diagnosis(self) -> dict[str, float]:
        return self.estimator.diagnosis()

    def grad_theta(
        self, x: Tensor, theta: Tensor, y: Tensor, grad_y: Tensor, spec: Declaration, generator: torch.Generator
    ) -> Procedure[Tensor]:
        fresh = yield from self.estimator.grad_theta(x, theta, y, grad_y, spec, generator)
        average = torch.lerp(fresh, self.average.to(fresh), self.decay)
        weight = 1 - self.decay * (1 - self.weight)
        if self.training:
            self.average.copy_(average)
            self.weight.copy_(weight)
        return average / weight

    def __repr__(self) -> str:
        return f"Averaged({self.estimator}, decay={self.decay})"
