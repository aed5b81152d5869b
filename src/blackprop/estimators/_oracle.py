"""The gradient by autograd through a simulator: for comparison, never for training a real device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._procedure import Procedure
from blackprop.errors import IncompatibleError
from blackprop.estimators._base import Estimator


@dataclass(frozen=True)
class Oracle(Estimator):
    """`∂L/∂θ` by autograd through the simulator's transfer, without noise or queries. Accepts simulators only."""

    @property
    def bias_order(self) -> int | None:
        return None

    def check(self, spec: Declaration) -> None:
        if spec.oracle is None:
            raise IncompatibleError(f"`estimators.Oracle()` needs a simulator to differentiate; {spec.name} is not one")

    def grad_theta(
        self, x: Tensor, theta: Tensor, y: Tensor, grad_y: Tensor, spec: Declaration, generator: torch.Generator
    ) -> Procedure[Tensor]:
        del y, generator
        assert spec.oracle is not None
        with torch.enable_grad():
            theta = theta.detach().requires_grad_()
            output = spec.oracle(x.detach(), theta)
        (grad,) = torch.autograd.grad(output, theta, grad_y)
        return grad
        yield  # a procedure without queries
