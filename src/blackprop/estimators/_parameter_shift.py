"""Exact derivatives of sinusoidal devices, from large shifts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._procedure import Procedure
from blackprop.errors import ArgumentError, IncompatibleError
from blackprop.estimators._base import Estimator
from blackprop.estimators._coordinate import Coordinate
from blackprop.estimators._differences import Contraction


@dataclass(frozen=True)
class ParameterShift(Estimator):
    """`∂φ/∂θ_i = ω [φ(θ + s e_i) − φ(θ − s e_i)] / (2 sin ωs)`, ω = 2π/period.

    Exact if each output is a sinusoid (plus a constant) in each parameter, as for a phase shifter that light passes
    once. The shift s is large, so read noise is divided by a large number. Light modulators and both meshes are such
    devices; a microring, in which light circulates, is not. `ThetaSpec(harmonics=...)` declares it, and the estimator
    cannot detect a missing declaration.

    **Costs** 2P programmings, each with the rows of the batch or of its contraction.

    **Arguments:**

    - `turns` (periods, default 0.25): s; a quarter gives the least noise.
    - `contraction` (default None): a shorter set of rows, for linear devices.

    **Raises** `IncompatibleError` for a device without a period, or with several harmonics.

    Source: arXiv 1803.00745.
    """

    turns: float = 0.25
    contraction: Contraction | None = None

    def __post_init__(self) -> None:
        if not 0 < self.turns < 0.5:
            raise ArgumentError(f"`ParameterShift(turns=...)` must be between 0 and 1/2, got {self.turns}")

    @property
    def bias_order(self) -> int | None:
        return None

    def check(self, spec: Declaration) -> None:
        if spec.theta.period is None:
            raise IncompatibleError(f"`ParameterShift` needs a device that declares a period, and {spec.name} does not")
        if spec.theta.harmonics not in {None, 1}:
            raise IncompatibleError(
                f"`ParameterShift` is exact for one harmonic a parameter and {spec.name} declares "
                f"{spec.theta.harmonics}; use `RandomDirections` or `Coordinate`"
            )
        self._differences(spec).check(spec)

    def _differences(self, spec: Declaration) -> Coordinate:
        assert spec.theta.period is not None
        return Coordinate(self.turns * spec.theta.period, contraction=self.contraction)

    def grad_theta(
        self, x: Tensor, theta: Tensor, y: Tensor, grad_y: Tensor, spec: Declaration, generator: torch.Generator
    ) -> Procedure[Tensor]:
        chord = yield from self._differences(spec).grad_theta(x, theta, y, grad_y, spec, generator)
        angle = 2 * math.pi * self.turns
        return chord * (angle / math.sin(angle))
