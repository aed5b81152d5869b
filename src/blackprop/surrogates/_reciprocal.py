"""The input gradient that the device itself computes, read backwards."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._procedure import Procedure, in_rounds
from blackprop.core._query import Purpose, Query
from blackprop.core.capabilities._drives import require_linear
from blackprop.core.capabilities._read_back import ReadBack
from blackprop.errors import ArgumentError, BlackpropWarning, IncompatibleError
from blackprop.surrogates._base import Surrogate

COMPARED = 16  # rows of a batch
APART = 0.5  # of the products' size, beyond which they contradict each other
UNDECLARED = 0.05  # noise that is allowed for beside the declared one
SIGMAS = 4.0
IN_TURN = 5  # batches that contradict each other before it is said


class Reciprocal(Surrogate):
    """`∂L/∂x = A(θ)ᵀ ∂L/∂y`, read from the device as it is at that moment: no model, no calibration, no drift.

    The device must be linear and declare `ReadBack`. With `G = U S Vᵀ` the rows of Vᵀ are sent into the outputs in
    place of those of G, and `∂L/∂X = U S (A Vᵀ)`: exact with as many rows as G has singular values above `tolerance`
    of the largest, at most `min(B, d_out)`.

    **Costs** these rows in every backward pass in which the input needs a gradient (booked as `SURROGATE`), at the
    setting that the forward pass wrote, so no programming. Tracking costs no query.

    **Checks.** `⟨∂L/∂y_i, y_j⟩ = ⟨∂L/∂x_i, x_j⟩` for the rows i and j of a batch: readings forwards and backwards must
    agree, which costs no query. Five batches in turn that contradict it by half, beyond the noise, are told once, by a
    `BlackpropWarning`. `testing.check_device` finds smaller faults.

    - `probes` (default None): the most rows of a backward pass. With fewer than the rank of G the gradient is that of
      the nearest G of this rank.
    - `tolerance` (default 1e-6): singular values below this fraction of the largest are left out.

    Source: Hughes et al., Optica 5, 864 (2018), for optics; in crossbars it is the usual backward read.
    """

    probes: int | None
    tolerance: float
    contradictions: int
    """Batches in turn whose readings forwards and backwards contradict each other."""

    asks = True

    def __init__(self, probes: int | None = None, tolerance: float = 1e-6) -> None:
        super().__init__()
        if probes is not None and not (isinstance(probes, int) and probes >= 1):
            raise ArgumentError(f"`Reciprocal(probes=...)` must be a whole number from 1 or None, got {probes!r}")
        if not 0 <= tolerance < 1:
            raise ArgumentError(f"`Reciprocal(tolerance=...)` must be from 0 to below 1, got {tolerance}")
        self.probes, self.tolerance = probes, tolerance
        self.contradictions = 0
        self._seen: tuple[Tensor, Tensor] | None = None

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
        found = (left[:, :count] * (values[:count] / size)) @ read.flatten(1)
        if self.probes is None:
            self._compare(x, g, found)
        return found.reshape(x.shape)

    def observe(self, x: Tensor, y: Tensor) -> None:
        self._seen = (x, y)

    def _compare(self, x: Tensor, g: Tensor, found: Tensor) -> None:
        """Compare the readings of the batch forwards with those backwards, and warn of a lasting contradiction."""
        seen, self._seen = self._seen, None
        if seen is None or seen[0].data_ptr() != x.data_ptr() or seen[0].shape != x.shape:
            return
        y, x, g, found = (each.flatten(1)[:COMPARED].to(found) for each in (seen[1], x, g, found))
        ahead = g @ y.mT
        apart, size = float((ahead - found @ x.mT).norm()), float(ahead.norm())
        noise = SIGMAS * (self.spec.noise + UNDECLARED) / min(self.spec.d_in, self.spec.d_out) ** 0.5
        strong = max(float(g.norm() * y.norm()), float(found.norm() * x.norm()))
        self.contradictions = self.contradictions + 1 if apart > max(APART * size, noise * strong) else 0
        if self.contradictions == IN_TURN:
            warnings.warn(
                f"{self.spec.name} declares that it is read backwards, and its readings of {IN_TURN} batches "
                f"contradict it: ⟨g, y⟩ and ⟨Aᵀ g, x⟩ differ by {apart / max(size, 1e-30):.0%}. The gradients of the "
                "layers before it are then wrong. `testing.check_device` finds the cause; "
                "`devices.Declared(device, without=[core.ReadBack])` trains without",
                BlackpropWarning,
                stacklevel=2,
            )

    def extra_repr(self) -> str:
        return "" if self.probes is None else f"probes={self.probes}"
