"""The gradient by autograd through a simulator: for comparison, never for training a real device."""

from __future__ import annotations

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._procedure import Procedure
from blackprop.errors import IncompatibleError
from blackprop.surrogates._base import Surrogate


class Oracle(Surrogate):
    """`∂L/∂x` by autograd through the simulator's transfer, without noise or queries. Accepts simulators only."""

    theta: Tensor

    def check(self, spec: Declaration) -> None:
        if spec.oracle is None:
            raise IncompatibleError(f"`surrogates.Oracle()` needs a simulator to differentiate; {spec.name} is not one")

    def _allocate(self, spec: Declaration) -> None:
        self.register_buffer("theta", torch.zeros(spec.theta.size))

    def start(self, theta: Tensor, generator: torch.Generator) -> Procedure[None]:
        yield from self.track(theta, theta, generator)

    def track(self, theta_old: Tensor, theta_new: Tensor, generator: torch.Generator) -> Procedure[None]:
        del theta_old, generator
        self.theta.copy_(theta_new)
        return
        yield  # a procedure without queries

    def grad_x(self, x: Tensor, grad_y: Tensor) -> Tensor:
        transfer = self.spec.oracle
        assert transfer is not None
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            output = transfer(x, self.theta)
        (grad,) = torch.autograd.grad(output, x, grad_y)
        return grad
