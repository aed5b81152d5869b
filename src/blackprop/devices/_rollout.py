"""A solver of differential equations as a device: a state in, its trajectory out."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor, nn

from blackprop.core._declaration import Cost
from blackprop.core._flattened import Flattened
from blackprop.core._theta import ThetaSpec
from blackprop.devices._base import Device
from blackprop.errors import ArgumentError, ReadingError

Tendency = Callable[[Tensor], Tensor]
Solver = Callable[[Tensor, Tendency], Tensor]


@final
class Rollout(Device):
    """`u_{j+1} = Ψ(u_j; M_θ)`, j = 0 … steps − 1: a row is a state u_0 (d,), its reading (u_1, …, u_steps) (steps, d).

    Ψ is a solver, with step h, of `u̇ = F(u) + M_θ(u)`. Only the solver knows F; M is a model of the terms missing in
    F, and its parameters are the device's settings. A climate model is thus a device, and the neglected terms are
    trained within it. `estimators.EulerGradient` trains it. With `steps=1`, layers between two steps may be digital,
    and rows are states.

    **Arguments:**

    - `solver`: Ψ, a function of states (rows, d) and of M, a function from states to tendencies (rows, d), which it may
      call anywhere and any number of times. Any program; autograd does not run through it.
    - `model`: M, whose parameters are the initial θ and stay unchanged.
    - `state`: d.
    - `steps` (default 1): of h.
    - `differentiable` (default False): True if the solver is written in PyTorch; it is then offered to the `Oracle`
      classes.
    - `cost` (default None): of a row of all steps.

    **Raises** `ReadingError`, with the step, for a state that is no longer finite.

    Source of the problem: Ouala et al., arXiv 2311.10665.
    """

    solver: Solver
    steps: int
    differentiable: bool

    def __init__(
        self,
        solver: Solver,
        model: nn.Module,
        *,
        state: int,
        steps: int = 1,
        differentiable: bool = False,
        cost: Cost | None = None,
    ) -> None:
        if not callable(solver):
            raise ArgumentError(f"`Rollout(solver=...)` takes a function of states and of M, got {solver!r}")
        if not isinstance(steps, int) or steps < 1:
            raise ArgumentError(f"`Rollout(steps=...)` must be a whole number of at least 1, got {steps}")
        self._model = Flattened(model)
        self.solver, self.steps, self.differentiable = solver, steps, differentiable
        super().__init__(state, (steps, state), ThetaSpec(self._model.size, lambda _: self._model.initial()), cost=cost)
        self._setting: Tensor | None = None

    def program(self, theta: Tensor, /) -> None:
        self._setting = theta.detach().clone()

    def read(self, x: Tensor, /) -> Tensor:
        if self._setting is None:
            raise ArgumentError(f"{self} must be programmed before it is read")
        with torch.no_grad():
            return self._run(x.detach(), self._setting, check=True)

    def oracle(self) -> Callable[[Tensor, Tensor], Tensor] | None:
        return self._run if self.differentiable else None

    def _run(self, u: Tensor, theta: Tensor, check: bool = False) -> Tensor:
        states = []
        for step in range(1, self.steps + 1):
            u = self.solver(u, lambda v: self._model(v, theta))
            if check:
                self._check(u, step)
            states.append(u)
        return torch.stack(states, -2)

    def _check(self, u: Tensor, step: int) -> None:
        bad = (~u.isfinite()).flatten(1).any(1).nonzero()
        if len(bad):
            raise ReadingError(
                f"{self} diverged at step {step} of {self.steps}, first in row {int(bad[0])} of {len(u)}: its state is "
                "no longer finite; take a smaller step, a shorter rollout, or a smaller learning rate of theta"
            )
