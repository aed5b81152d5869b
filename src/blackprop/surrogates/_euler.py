"""The input gradient of a short rollout, during which the state hardly moves."""

from __future__ import annotations

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._procedure import Procedure
from blackprop.errors import IncompatibleError
from blackprop.surrogates._base import Surrogate


class Euler(Surrogate):
    """`∂L/∂u_0 = Σ_j ∂L/∂u_j` for a trajectory (u_1, …, u_steps): the solver's flow Jacobian is I + O(h) a step.

    Needs no knowledge of the solver, has no state and makes no queries. Use it beside `estimators.EulerGradient` if the
    loop over steps is yours (`devices.Rollout` with `steps=1`), or if the layers that make the first state are trained.

    **Raises** `IncompatibleError` for a device that is not a rollout.

    Source: the static form of arXiv 2311.10665.
    """

    def check(self, spec: Declaration) -> None:
        if len(spec.out_shape) != 1 + len(spec.in_shape) or spec.out_shape[1:] != spec.in_shape:
            raise IncompatibleError(
                f"`surrogates.Euler` needs a rollout, states in and trajectories out, and {spec.name} takes "
                f"{spec.in_shape} and gives {spec.out_shape}; see `devices.Rollout`"
            )

    def start(self, theta: Tensor, generator: torch.Generator) -> Procedure[None]:
        del theta, generator
        return
        yield  # a procedure without queries

    def track(self, theta_old: Tensor, theta_new: Tensor, generator: torch.Generator) -> Procedure[None]:
        del theta_old, theta_new, generator
        return
        yield  # a procedure without queries

    def grad_x(self, x: Tensor, grad_y: Tensor) -> Tensor:
        return grad_y.sum(1).reshape(x.shape)
