"""Low-rank factors kept current by an integrator without a backward substep."""

from __future__ import annotations

import torch
from torch import Tensor

from blackprop.core._probes import signed
from blackprop.core._procedure import Procedure
from blackprop.directions import Directions, Gaussian
from blackprop.errors import ArgumentError
from blackprop.surrogates.low_rank._base import LowRankSurrogate


class BasisUpdate(LowRankSurrogate):
    """`A ≈ U S V` by the augmented basis-update and Galerkin integrator: with `ΔA = A(θ₁) − A(θ₀)`,

    1. `Û = orth [U, U S + ΔA Vᵀ]` 2. `V̂ = orth [Vᵀ, Vᵀ Sᵀ + P]`, `P = Zᵀ (Z ΔAᵀ) U / M` a sketch of `ΔAᵀ U` 3. `Ŝ = Ûᵀ
    A(θ₁) V̂`, read from the 2r rows V̂ᵀ at θ₁, and truncated to rank r by its singular values

    I-PSI carries S along and subtracts a sketch from it; here S is read anew. Errors of the sketch then only cost
    directions, and do not add up over steps.

    **Costs** d_in rows to start; then 2(r + M) + 2r rows a change of θ, r + M of them at the previous setting, which
    takes one programming.

    **Arguments:** as those of `ProjectorSplitting`, without `rebuild_every`.

    Source: Ceruti, Kusch, Lubich, BIT Numer. Math. 62 (2022); step 3 here takes the values of A and not of its
    derivative.
    """

    def __init__(
        self, rank: int = 10, samples: int = 10, *, probes: Directions | None = None, treat_as_linear: bool = False
    ) -> None:
        super().__init__(rank, treat_as_linear)
        if samples < 1:
            raise ArgumentError(f"`BasisUpdate(samples=...)` must be at least 1, got {samples}")
        self.samples = samples
        self.probes: Directions | Gaussian = probes if probes is not None else Gaussian()

    def track(self, theta_old: Tensor, theta_new: Tensor, generator: torch.Generator) -> Procedure[None]:
        U, S, V, r = self.U, self.S, self.V, self.rank
        Z = self.probes.sample(self.samples, self.spec.d_in, generator, V)
        probes = signed(self.spec, torch.cat((V, Z)))
        old, new = yield [self._query(probes.rows, theta_old), self._query(probes.rows, theta_new)]
        change = probes.products((new - old).flatten(1))  # (r + M, d_out)
        left = torch.linalg.qr(torch.cat((U, U @ S + change[:r].mT), 1))[0]
        sketch = Z.mT @ (change[r:] @ U) / self.samples
        right = torch.linalg.qr(torch.cat((V.mT, V.mT @ S.mT + sketch), 1))[0]
        probes = signed(self.spec, right.mT.contiguous())
        (seen,) = yield [self._query(probes.rows, theta_new)]
        u, s, v = torch.linalg.svd(left.mT @ probes.products(seen.flatten(1)).mT, full_matrices=False)
        self._hold(left @ u[:, :r], s[:r].diag(), v[:r] @ right.mT)

    def extra_repr(self) -> str:
        return f"rank={self.rank}, samples={self.samples}, probes={self.probes}"
