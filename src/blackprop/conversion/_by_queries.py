"""Any linear device: search for the setting by queries."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from blackprop.conversion._base import Programmed, Programmer, booked, read_matrix, spanning_probes
from blackprop.core._declaration import Coupling, Declaration
from blackprop.core._procedure import Procedure
from blackprop.core._query import Purpose, Query
from blackprop.errors import ArgumentError
from blackprop.estimators import Estimator
from blackprop.planning._methods import remembered, step_size

MOMENTS = (0.9, 0.99)  # of Adam


@dataclass(frozen=True)
class ByQueries(Programmer):
    """`min_θ |s A(θ) − W|² / |W|²` by Adam, with the gradient of an `estimator` and the best gain s of each step.

    The rate falls to zero along a cosine. Every step reads the whole matrix, so the best setting of all steps is kept.
    If the estimator knows its cosine to the true gradient (`DirectionalMemory`), the steps are scaled by it.

    **Costs** of a step: the rows that span the inputs, one programming, and the estimator's queries for that batch; the
    best setting is read twice more at the end.

    **Arguments:**

    - `estimator` (default: one that suits the device): pass the layer's own, so that its memory serves training.
    - `steps` (default 300).
    - `rate` (rad, default 0.05): length of the first step, with 2π to a period of θ, or to the width of its limits.
    """

    estimator: Estimator | None = None
    steps: int = 300
    rate: float = 0.05

    def __post_init__(self) -> None:
        if self.estimator is not None and not isinstance(self.estimator, Estimator):
            raise ArgumentError(f"`ByQueries(estimator=...)` takes an Estimator, got {self.estimator!r}")
        if self.estimator is not None and self.estimator.reads is not None:
            raise ArgumentError(
                f"`ByQueries(estimator=...)` needs one that queries, and {self.estimator} reads a surrogate"
            )
        if self.steps < 1:
            raise ArgumentError(f"`ByQueries(steps=...)` must be at least 1, got {self.steps}")
        if not 0 < self.rate < math.inf:
            raise ArgumentError(f"`ByQueries(rate=...)` must be positive and finite, got {self.rate}")

    def program(
        self, wanted: Tensor, theta: Tensor, spec: Declaration, generator: torch.Generator
    ) -> Procedure[Programmed]:
        estimator = self.estimator or remembered(spec, credited=spec.coupling is not Coupling.NONE)
        rate = self.rate * 100 * step_size(replace(spec, noise=0.0))  # which is a hundredth of a radian
        probes, moments = spanning_probes(spec, theta), torch.zeros(2, theta.numel()).to(theta)
        rows = probes.rows
        best: Programmed | None = None
        for step in range(self.steps + 1):
            (y,) = yield [Query(rows, theta, Purpose.CALIBRATE)]
            matrix = probes.matrix(y)
            found = Programmed.of(wanted, theta, matrix[None])
            best = found if best is None or found.error < best.error else best
            if step == self.steps:
                break
            grad_y = probes.cotangents(_cotangent(matrix, wanted).mT)
            asked = estimator.grad_theta(rows, theta, y, grad_y, spec, generator)
            grad = yield from booked(asked, Purpose.CALIBRATE)
            part = estimator.cosine if estimator.cosine is not None else 1.0
            length = part * rate * (1 + math.cos(math.pi * step / self.steps)) / 2
            change, moments = _adam(grad, moments, step + 1)
            theta = spec.theta.clamp(theta - length * change)
        assert best is not None
        return Programmed.of(wanted, best.theta, (yield from read_matrix(spec, best.theta, readings=2)))


def _cotangent(matrix: Tensor, wanted: Tensor) -> Tensor:
    """Return `∂/∂A |s A − W|² / 2|W|²` (d_out, d_in), at the best s."""
    power = matrix.square().sum()
    gain = (wanted * matrix).sum() / power.clamp_min(torch.finfo(power.dtype).tiny)
    return gain * (gain * matrix - wanted) / wanted.square().sum()


def _adam(grad: Tensor, moments: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """Return the direction of Adam's step, and its new moments."""
    keep = torch.tensor(MOMENTS).to(moments)[:, None]
    moments = keep * moments + (1 - keep) * torch.stack((grad, grad * grad))
    mean, power = moments / (1 - keep**step)
    return mean / (power.sqrt() + torch.finfo(power.dtype).tiny ** 0.5), moments
