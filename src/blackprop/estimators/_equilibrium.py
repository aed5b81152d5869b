"""The gradient of a device that settles where an energy is least, from how it settles when it is nudged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._procedure import Procedure
from blackprop.core._query import Purpose, Query
from blackprop.errors import ArgumentError, IncompatibleError
from blackprop.estimators._base import Estimator, positive_step


@runtime_checkable
class Nudgeable(Protocol):
    """What must be known of an energy `E(θ, x, s)`: where it can be pushed, and what of it each parameter can see.

    `row`, `nodes` and `count` are the sizes of a row, a reading and θ.
    """

    @property
    def row(self) -> int: ...
    @property
    def nodes(self) -> int: ...
    @property
    def count(self) -> int: ...

    def nudged(self, x: Tensor, grad_y: Tensor, step: float) -> Tensor:
        """The rows that add `step · ⟨∂ℓ/∂y, y⟩` to the energy."""
        ...

    def contrast(self, x: Tensor, plus: Tensor, minus: Tensor, span: float) -> Tensor:
        """`Σ_b [∂E/∂θ(plus) − ∂E/∂θ(minus)] / span` (P,) between two readings, from local quantities alone."""
        ...

    def contrast_rows(self, theta: Tensor, plus: Tensor, minus: Tensor, span: float) -> Tensor:
        """`[∂E/∂x(plus) − ∂E/∂x(minus)] / span` (B, row)."""
        ...


@dataclass(frozen=True)
class EquilibriumPropagation(Estimator):
    """`∂L/∂θ = (1/2β) Σ_b [∂E/∂θ at +β − ∂E/∂θ at −β]`: what the device reads at rest when its energy is tilted by
    `±β ∂L/∂y`. For a conductance g it is `(1/4β) [(ΔV^{+β})² − (ΔV^{−β})²]`, of the voltages at its own two ends.

    No setting is written and nothing of the device is differentiated or modelled: only its branches are known, the
    energy that each parameter sees. **Costs** 2 rows a training row at the setting that the forward pass wrote, and
    error O(β²); one-sided, `centred=False`, 1 row against the reading at rest that is paid for already, and O(β).
    Where currents nudge a network of ideal diodes, a centred estimate has no error at all until a diode switches.

    **Arguments:** `branches`, those of the network (`network.branches`); `step`, β, which multiplies `∂L/∂y` as
    autograd hands it over: a loss that is a mean over B rows takes B times the β of one that is a sum. Sources:
    Scellier and Bengio, arXiv 1602.05179; Kendall et al., arXiv 2006.01981; Laborieux et al., arXiv 2006.03824.
    """

    branches: Nudgeable
    step: float = 1.0
    centred: bool = True

    def __post_init__(self) -> None:
        positive_step(self, self.step)
        if not isinstance(self.branches, Nudgeable):
            raise ArgumentError(
                f"`EquilibriumPropagation(branches=...)` takes the branches of a network, got {self.branches!r}"
            )

    @property
    def bias_order(self) -> int | None:
        return 2 if self.centred else 1

    def relative_variance(self, size: int) -> float:
        del size
        return 0.0

    def check(self, spec: Declaration) -> None:
        ours = (self.branches.row,), (self.branches.nodes,), self.branches.count
        theirs = spec.in_shape, spec.out_shape, spec.theta.size
        if ours != theirs:
            raise IncompatibleError(
                "equilibrium propagation needs a device whose nodes it can nudge and read: these branches take rows "
                f"{ours[0]}, read {ours[1]} and have {ours[2]} parameters; {spec.name} takes {theirs[0]}, answers "
                f"{theirs[1]} and has {theirs[2]}"
            )

    def vjp(
        self, x: Tensor, theta: Tensor, y: Tensor, grad_y: Tensor, spec: Declaration, generator: torch.Generator
    ) -> Procedure[Tensor]:
        del spec, generator
        plus, minus, span = yield from self._nudges(x, theta, y, grad_y)
        return self.branches.contrast(x, plus, minus, span)

    def gradients(self, x: Tensor, theta: Tensor, y: Tensor, grad_y: Tensor) -> Procedure[tuple[Tensor, Tensor]]:
        """`∂L/∂θ` (P,) and, of the same nudges, `∂L/∂x` (B, row), for whoever trains what stands before the device."""
        plus, minus, span = yield from self._nudges(x, theta, y, grad_y)
        return self.branches.contrast(x, plus, minus, span), self.branches.contrast_rows(theta, plus, minus, span)

    def _nudges(self, x: Tensor, theta: Tensor, y: Tensor, grad_y: Tensor) -> Procedure[tuple[Tensor, Tensor, float]]:
        steps = (self.step, -self.step) if self.centred else (self.step,)
        rows = [self.branches.nudged(x, grad_y, step) for step in steps]
        plus, *rest = yield [Query(each, theta, Purpose.PARAMETER) for each in rows]
        return (plus, rest[0], 2 * self.step) if rest else (plus, y, self.step)
