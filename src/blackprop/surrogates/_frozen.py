"""The initial matrix of a device."""

from __future__ import annotations

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._procedure import Procedure
from blackprop.errors import IncompatibleError
from blackprop.surrogates._base import Surrogate


class Frozen(Surrogate):
    """The whole matrix, read once from d_in rows. Exact for a linear device that is not trained.

    **Raises** `IncompatibleError` for a device that is not declared linear.
    """

    A: Tensor

    def check(self, spec: Declaration) -> None:
        if not spec.linear:
            raise IncompatibleError(f"`surrogates.Frozen` needs a linear device and {spec.name} is not declared linear")

    def _allocate(self, spec: Declaration) -> None:
        self.register_buffer("A", torch.zeros(spec.d_out, spec.d_in))

    def start(self, theta: Tensor, generator: torch.Generator) -> Procedure[None]:
        del generator
        matrix = yield from self._read_matrix(theta)
        self.A = matrix.contiguous()

    def track(self, theta_old: Tensor, theta_new: Tensor, generator: torch.Generator) -> Procedure[None]:
        del theta_old, theta_new, generator
        return
        yield  # a procedure without queries

    def predict(self, x: Tensor) -> Tensor | None:
        return self._through(self.A, x)

    def grad_x(self, x: Tensor, grad_y: Tensor) -> Tensor:
        return (grad_y.flatten(1) @ self.A).reshape(x.shape)
