"""Differences along one parameter at a time: expensive, and exact except for the step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._procedure import ROUND_BYTES, Procedure
from blackprop.core._query import Purpose, Query
from blackprop.estimators._base import Estimator, positive_step
from blackprop.estimators._differences import Central, Contraction, Difference


@dataclass(frozen=True)
class Coordinate(Estimator):
    """`ĝ_i = [φ(θ + μ e_i) − φ(θ − μ e_i)] / 2μ` for every parameter i, or forward differences.

    The reference for small devices. Deterministic, error O(μ²) (central) or O(μ) (forward). Within a step of a limit,
    the difference is taken about the nearest setting that leaves room, and its error is then O(μ).

    **Costs** 2P programmings (P forward), each with the rows of the batch or of its contraction; forward differences
    with a contraction read their base rows too.

    **Arguments:**

    - `step` (units of θ, default 1e-3): μ.
    - `difference` (default `Central()`): or `Forward()`.
    - `contraction` (default None): a shorter set of rows, for linear devices.
    """

    step: float = 1e-3
    difference: Difference = field(default_factory=Central)
    contraction: Contraction | None = None

    def __post_init__(self) -> None:
        positive_step(self, self.step)

    @property
    def bias_order(self) -> int | None:
        return self.difference.order

    def check(self, spec: Declaration) -> None:
        spec.theta.check_reach(self.step)
        if self.contraction is not None:
            self.contraction.check(self, spec)

    def grad_theta(
        self, x: Tensor, theta: Tensor, y: Tensor, grad_y: Tensor, spec: Declaration, generator: torch.Generator
    ) -> Procedure[Tensor]:
        del generator
        centre = spec.theta.interior(theta, self.step)
        base: Tensor | None = y if torch.equal(centre, theta) else None
        if self.contraction is not None and (shorter := self.contraction.rows(x, grad_y, len(x))) is not None:
            (x, grad_y), base = shorter, None
        outputs = len(x) * math.prod(y.shape[1:])
        held = theta.element_size() * len(self.difference.signs) * (2 * theta.numel() + 2 * outputs)
        grad = torch.zeros_like(theta)
        for block in torch.arange(theta.numel()).split(max(1, ROUND_BYTES // held)):
            queries: Sequence[Query] = []
            for sign in self.difference.signs:
                settings = centre.repeat(len(block), 1)
                settings[torch.arange(len(block)), block] += sign * self.step
                queries += [Query(x, t, Purpose.PARAMETER) for t in spec.theta.clamp(settings)]
            if self.difference.based and base is None:
                base, *readings = yield [Query(x, centre, Purpose.PARAMETER), *queries]
            else:
                readings = yield queries
            values = torch.stack(readings).unflatten(0, (len(self.difference.signs), len(block))).transpose(0, 1)
            grad[block] = (self.difference.slope(values, base) * grad_y).flatten(1).sum(1) / self.step
        return grad
