"""The input gradient that the device itself computes, read backwards."""

from __future__ import annotations

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._procedure import Procedure, in_rounds
from blackprop.core._query import Purpose, Query
from blackprop.core.capabilities._drives import require_linear
from blackprop.core.capabilities._read_back import ReadBack
from blackprop.errors import ArgumentError, IncompatibleError
from blackprop.surrogates._base import Surrogate


class Reciprocal(Surrogate):
    """`∂L/∂x = A(θ)ᵀ ∂L/∂y`, read from the device as it is at that moment: no model, no calibration, no drift.

    The device must be linear and declare `ReadBack`. With `G = U S Vᵀ` the rows of Vᵀ are sent into the outputs in
    place of those of G, and `∂L/∂X = U S (A Vᵀ)`: exact with as many rows as G has singular values above `tolerance`
    of the largest, at most `min(B, d_out)`.

    **Costs** these rows in every backward pass in which the input needs a gradient (booked as `SURROGATE`), at the
    setting that the forward pass wrote, so no programming. Tracking costs no query.

    - `probes` (default None): the most rows of a backward pass. With fewer than the rank of G the gradient is that of
      the nearest G of this rank.
    - `tolerance` (default 1e-6): singular values below this fraction of the largest are left out.

    Source: Hughes et al., Optica 5, 864 (2018), for optics; in crossbars it is the usual backward read.
    """

    probes: int | None
    tolerance: float

    asks = True

    def __init__(self, probes: int | None = None, tolerance: float = 1e-6) -> None:
        super().__init__()
        if probes is not None and not (isinstance(probes, int) and probes >= 1):
            raise ArgumentError(f"`Reciprocal(probes=...)` must be a whole number from 1 or None, got {probes!r}")
        if not 0 <= tolerance < 1:
            raise ArgumentError(f"`Reciprocal(tolerance=...)` must be from 0 to below 1, got {tolerance}")
        self.probes, self.tolerance = probes, tolerance

    def check(self, spec: Declaration) -> None:
        require_linear("surrogates.Reciprocal", spec)
        spec.capability(ReadBack)

    def start(self, theta: Tensor, generator: torch.Generator) -> Procedure[None]:
        yield from self.track(theta, theta, generator)

    def track(self, theta_old: Tensor, theta_new: Tensor, generator: torch.Generator) -> Procedure[None]:
        del theta_old, theta_new, generator
        return
        yield  # a procedure that makes no queries

    def grad_x(self, x: Tensor, grad_y: Tensor) -> Tensor:
        del x, grad_y
        raise IncompatibleError("`surrogates.Reciprocal` reads its gradient from the device: use `read_grad_x`")

    def read_grad_x(self, x: Tensor, grad_y: Tensor, theta: Tensor) -> Procedure[Tensor]:
        g = grad_y.flatten(1)
        left, values, right = torch.linalg.svd(g, full_matrices=False)
        count = int((values > self.tolerance * values[0]).sum()) if len(values) else 0
        count = count if self.probes is None else min(count, self.probes)
        if not count:
            return torch.zeros_like(x)
        # Rows as large as the mean row of G, so that a detector's noise is met as it would be by G.
        size = g.norm() / len(g) ** 0.5
        if (limit := self.spec.capability(ReadBack).limit) is not None:  # or as large as the sources send
            size = size.minimum(limit / right[:count].abs().max())
        rows = (size * right[:count]).unflatten(1, self.spec.out_shape)
        (read,) = yield from in_rounds([Query(rows, theta, Purpose.SURROGATE, ReadBack)], self.spec.d_in)
        return ((left[:, :count] * (values[:count] / size)) @ read.flatten(1)).reshape(x.shape)

    def extra_repr(self) -> str:
        return "" if self.probes is None else f"probes={self.probes}"
