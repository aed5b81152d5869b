"""The gradient of a model inside a black-box solver, as if the solver were Euler's."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from blackprop.core._declaration import Declaration
from blackprop.core._flattened import Flattened
from blackprop.core._procedure import ROUND_BYTES, Procedure
from blackprop.core._query import Purpose, Query
from blackprop.errors import ArgumentError, IncompatibleError
from blackprop.estimators._base import Estimator


@dataclass(frozen=True)
class EulerGradient(Estimator):
    """For `u_{j+1} = Ψ(u_j)`, a step h of any solver of `u̇ = F(u) + M_θ(u)` (`devices.Rollout`):

    `ĝ = Σ_j (h ∂M_θ(u_j)/∂θ)ᵀ λ_{j+1}`, `λ_j = ∂L/∂u_j + J_jᵀ λ_{j+1}`,

    with u_j the states of the solver, and J_j its flow Jacobian `∂Ψ/∂u` at u_j. F is not needed.

    *Static* (`members=None`): J = I. **Costs** no queries beyond the forward pass. For a given number of steps the
    error is O(h²), one order below the gradient itself. Over a given time it does not vanish with h, since the terms
    neglected by J = I add up: use short rollouts.

    *Ensemble*: `J_j = Y Xᵀ (X Xᵀ)⁻¹`, X and Y the deviations of the members from their mean before and after the step.
    One member is the row itself; the others start from normal deviations and roll out beside it. **Costs** `members −
    1` rows for each row of the batch, at least as many as the state has dimensions, and no programming. Error O(h²) a
    step, O(h) over a given time.

    **Arguments:**

    - `model`: M, the module that the device contains.
    - `h` (time units of the solver): its step. The bias depends on it, and it cannot be chosen here, so the estimator
      declares no bias order.
    - `members` (default None, static): members of the ensemble, at least 2.
    - `spread` (default 1e-3): size of the members' deviations, relative to the root mean square of the states.

    **Raises** `IncompatibleError` for a device that is not a rollout of such a model, or with too few members.

    Source: Ouala et al., arXiv 2311.10665.
    """

    model: nn.Module
    h: float
    members: int | None = None
    spread: float = 1e-3

    def __post_init__(self) -> None:
        Flattened(self.model)
        for name, value in (("h", self.h), ("spread", self.spread)):
            if not 0 < value < math.inf:
                raise ArgumentError(f"`EulerGradient({name}=...)` must be positive and finite, got {value}")
        if self.members is not None and self.members < 2:
            raise ArgumentError(f"`EulerGradient(members=...)` must be at least 2, or None, got {self.members}")

    @property
    def bias_order(self) -> int | None:
        return None

    def check(self, spec: Declaration) -> None:
        if len(spec.in_shape) != 1 or len(spec.out_shape) != 2 or spec.out_shape[1:] != spec.in_shape:
            raise IncompatibleError(
                f"`EulerGradient` needs a rollout, states (d,) in and trajectories (steps, d) out, and {spec.name} "
                f"takes {spec.in_shape} and gives {spec.out_shape}; see `devices.Rollout`"
            )
        if (size := Flattened(self.model).size) != spec.theta.size:
            raise IncompatibleError(
                f"`EulerGradient(model=...)` has {size} parameters and {spec.name} {spec.theta.size}; give both one"
            )
        if self.members is not None and self.members - 1 < spec.d_in:
            raise IncompatibleError(
                f"`EulerGradient(members={self.members})`: their {self.members - 1} deviations do not span a state of "
                f"{spec.d_in} dimensions; take at least {spec.d_in + 1}"
            )

    def grad_theta(
        self, x: Tensor, theta: Tensor, y: Tensor, grad_y: Tensor, spec: Declaration, generator: torch.Generator
    ) -> Procedure[Tensor]:
        states = torch.cat((x[:, None], y[:, :-1]), 1)  # (B, steps, d): where each step began
        if self.members is None:
            adjoint = grad_y.flip(1).cumsum(1).flip(1)
        else:
            flow = yield from self._flow(x, theta, y, spec.x_range, generator)
            adjoint = _adjoint(grad_y, flow)
        with torch.enable_grad():
            leaf = theta.detach().requires_grad_()
            work = (Flattened(self.model)(states.flatten(0, 1), leaf) * adjoint.flatten(0, 1)).sum()
        return self.h * torch.autograd.grad(work, leaf)[0]

    def _flow(
        self, x: Tensor, theta: Tensor, y: Tensor, limits: tuple[float, float], generator: torch.Generator
    ) -> Procedure[Tensor]:
        """The Jacobians of all steps but the first (B, steps − 1, d, d): the first state does not depend on θ."""
        assert self.members is not None
        low, high = limits
        (B, d), others, steps = x.shape, self.members - 1, y.shape[1]
        if steps == 1:
            return x.new_zeros(B, 0, d, d)
        size = self.spread * float(x.square().mean().sqrt()) or self.spread
        part = max(1, ROUND_BYTES // (x.element_size() * others * d * (steps + 1)))
        found: list[Tensor] = []
        for rows, base in zip(x.split(part), y.split(part), strict=True):
            shape = (len(rows), others, d)
            away = torch.randn(shape, generator=generator, device=generator.device, dtype=x.dtype).to(x.device)
            beside = rows[:, None] + size * away
            outside = (beside < low) | (beside > high)  # goes to the other side, where there is room
            beside = torch.where(outside, rows[:, None] - size * away, beside).clamp(low, high)
            (readings,) = yield [Query(beside.flatten(0, 1), theta, Purpose.PARAMETER)]
            paths = torch.cat((base[:, None], readings.unflatten(0, (len(rows), others))), 1)  # (b, members, steps, d)
            deviations = (paths - paths.mean(1, keepdim=True)).transpose(1, 2)  # (b, steps, members, d)
            found.append(torch.linalg.lstsq(deviations[:, :-1], deviations[:, 1:]).solution.mT)
        return torch.cat(found)


def _adjoint(grad_y: Tensor, flow: Tensor) -> Tensor:
    """λ_1 … λ_steps (B, steps, d)."""
    last = grad_y[:, -1]
    found = [last]
    for j in range(grad_y.shape[1] - 2, -1, -1):
        last = grad_y[:, j] + (flow[:, j].mT @ last.unsqueeze(-1)).squeeze(-1)
        found.append(last)
    return torch.stack(found[::-1], 1)
