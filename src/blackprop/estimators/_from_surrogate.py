"""The gradient for the parameters from a surrogate that models their effect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._procedure import Procedure
from blackprop.errors import ArgumentError
from blackprop.estimators._base import Estimator


@runtime_checkable
class KnowsTheta(Protocol):
    """A surrogate that models `∂f/∂θ` besides `∂f/∂x`."""

    def grad_theta(self, x: Tensor, grad_y: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class FromSurrogate(Estimator):
    """`∂L/∂θ` through the layer's surrogate at the present θ. Makes no queries; as exact as the surrogate.

    **Arguments:**

    - `surrogate`: the object that the layer also gets as its surrogate, a `CalibratedResponse` or a `Twin`.

    **Raises** `ArgumentError` for a surrogate that does not model θ.
    """

    surrogate: KnowsTheta

    def __post_init__(self) -> None:
        if not isinstance(self.surrogate, KnowsTheta):
            raise ArgumentError(f"`FromSurrogate(surrogate=...)`: {type(self.surrogate).__name__} does not model theta")

    @property
    def reads(self) -> object:
        return self.surrogate

    @property
    def bias_order(self) -> int | None:
        return None

    def grad_theta(
        self, x: Tensor, theta: Tensor, y: Tensor, grad_y: Tensor, spec: Declaration, generator: torch.Generator
    ) -> Procedure[Tensor]:
        del theta, y, spec, generator
        return self.surrogate.grad_theta(x, grad_y)
        yield  # a procedure without queries
