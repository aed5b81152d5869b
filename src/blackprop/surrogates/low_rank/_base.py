"""A linear device held as three thin factors."""

from __future__ import annotations

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._procedure import Procedure
from blackprop.core._query import Purpose, Query
from blackprop.errors import ArgumentError, IncompatibleError
from blackprop.surrogates._base import Surrogate


class LowRankSurrogate(Surrogate):
    """`A ≈ U S V` with U `(d_out, r)`, S `(r, r)`, V `(r, d_in)`, so `∂L/∂X ≈ G U S V`.

    `start` reads the d_in unit rows once and truncates the exact singular value decomposition. Subclasses define how
    the factors follow θ. `treat_as_linear` accepts a device that is not declared linear and treats it as a matrix, as
    the published code does; the gradient then depends on the rows that were read, and may be wrong.
    """

    U: Tensor
    S: Tensor
    V: Tensor

    def __init__(self, rank: int, treat_as_linear: bool = False) -> None:
        super().__init__()
        if rank < 1:
            raise ArgumentError(f"`{type(self).__name__}(rank=...)` must be at least 1, got {rank}")
        self.rank = rank
        self.treat_as_linear = treat_as_linear

    def check(self, spec: Declaration) -> None:
        name = type(self).__name__
        if not spec.linear and not self.treat_as_linear:
            raise IncompatibleError(
                f"`surrogates.{name}` needs a linear device and {spec.name} is not declared linear; "
                "`treat_as_linear=True` treats it as linear"
            )
        if self.rank > min(spec.d_in, spec.d_out):
            raise IncompatibleError(
                f"`{name}(rank={self.rank})` is above min(d_in, d_out) = {min(spec.d_in, spec.d_out)} of {spec.name}"
            )

    def _allocate(self, spec: Declaration) -> None:
        self.register_buffer("U", torch.zeros(spec.d_out, self.rank))
        self.register_buffer("S", torch.zeros(self.rank, self.rank))
        self.register_buffer("V", torch.zeros(self.rank, spec.d_in))

    def matrix(self) -> Tensor:  # (d_out, d_in)
        """`U S V`."""
        return self.U @ self.S @ self.V

    def grad_x(self, x: Tensor, grad_y: Tensor) -> Tensor:
        grad = grad_y.flatten(1) @ self.U @ self.S @ self.V
        return grad.reshape(x.shape)

    def start(self, theta: Tensor, generator: torch.Generator) -> Procedure[None]:
        del generator
        yield from self._rebuild(theta)

    def _rebuild(self, theta: Tensor) -> Procedure[None]:
        """Read the best rank-r factors of the device at theta, from the d_in unit rows."""
        matrix = yield from self._read_matrix(theta)
        u, s, v = torch.linalg.svd(matrix, full_matrices=False)
        r = self.rank
        self._hold(u[:, :r], s[:r].diag(), v[:r])

    def _query(self, x: Tensor, theta: Tensor) -> Query:
        return Query(x.unflatten(1, self.spec.in_shape), theta, Purpose.SURROGATE)

    def _hold(self, u: Tensor, s: Tensor, v: Tensor) -> None:
        with torch.no_grad():
            self.U.copy_(u)
            self.S.copy_(s)
            self.V.copy_(v)

    def extra_repr(self) -> str:
        return f"rank={self.rank}"
