"""All elements of a matrix device at once, from one shift of all parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from blackprop.core._declaration import Coupling, Declaration
from blackprop.core._probes import spanning
from blackprop.core._procedure import Procedure, in_rounds
from blackprop.core._query import Purpose, Query
from blackprop.directions import Orthogonal
from blackprop.errors import IncompatibleError
from blackprop.estimators._base import Estimator, positive_step
from blackprop.estimators._differences import Central, Difference


@dataclass(frozen=True)
class ElementShift(Estimator):
    """`∂L/∂θ_ij = (GᵀX)_ij [A_ij(θ_ij + μ) − A_ij(θ_ij − μ)] / 2μ`, for element coupling.

    One shift of all θ together gives every derivative. A is read on d_in orthogonal rows of the data's average length.
    Deterministic except for noise; error O(μ²) (central) or O(μ) (forward). `CalibratedResponse` makes these queries
    once in place of every step; use `ElementShift` for a device whose curves change faster than that.

    **Costs** 2 d_in rows and 2 programmings (forward: 1).

    **Arguments:**

    - `step` (units of θ, default 1e-2): μ.
    - `difference` (default `Central()`): or `Forward()`.

    **Raises** `IncompatibleError` for a device without element coupling.
    """

    step: float = 1e-2
    difference: Difference = field(default_factory=Central)

    def __post_init__(self) -> None:
        positive_step(self, self.step)

    @property
    def bias_order(self) -> int | None:
        return self.difference.order

    def check(self, spec: Declaration) -> None:
        spec.theta.check_reach(self.step)
        if spec.coupling is not Coupling.ELEMENT:
            raise IncompatibleError(
                f"`ElementShift` needs a device with element coupling and {spec.name} declares {spec.coupling.value}"
            )

    def grad_theta(
        self, x: Tensor, theta: Tensor, y: Tensor, grad_y: Tensor, spec: Declaration, generator: torch.Generator
    ) -> Procedure[Tensor]:
        del y
        x, grad_y = x.flatten(1), grad_y.flatten(1)
        norm = math.sqrt(float(x.square().sum()) / len(x))
        if norm == 0:  # rows of zeros: the loss does not depend on θ
            return torch.zeros_like(theta)
        amplitude = norm / math.sqrt(spec.d_in)
        rows = Orthogonal().sample(spec.d_in, spec.d_in, generator, x) * amplitude
        probes = spanning(spec, rows, norm**2, amplitude)
        centre = spec.theta.interior(theta, self.step)
        shifts = (*((0,) if self.difference.based else ()), *self.difference.signs)
        settings = [spec.theta.clamp(centre + shift * self.step) for shift in shifts]
        queries = [Query(probes.rows.unflatten(1, spec.in_shape), t, Purpose.PARAMETER) for t in settings]
        readings = yield from in_rounds(queries, spec.d_out)
        base = readings.pop(0) if self.difference.based else None
        slope = self.difference.slope(torch.stack(readings)[None], base)[0].flatten(1) / self.step  # (rows, d_out)
        return ((grad_y.mT @ x) * probes.matrix(slope)).flatten()
