"""The gradient of parameters that are not trained."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._procedure import Procedure
from blackprop.estimators._base import Estimator


@dataclass(frozen=True)
class Still(Estimator):
    """`ĝ = 0`: θ stays as it is, and the layers around the device are trained through it. Makes no queries.

    A zero gradient estimates no other, so the `cosine` that it declares is 0. Weight decay would move θ all the same:
    put θ into a group without it, as `bp.param_groups` does.
    """

    @property
    def bias_order(self) -> int | None:
        return None

    def relative_variance(self, size: int) -> float:
        del size
        return 0.0

    @property
    def cosine(self) -> float | None:
        return 0.0

    def grad_theta(
        self, x: Tensor, theta: Tensor, y: Tensor, grad_y: Tensor, spec: Declaration, generator: torch.Generator
    ) -> Procedure[Tensor]:
        del x, y, grad_y, spec, generator
        return torch.zeros_like(theta)
        yield  # a procedure without queries
