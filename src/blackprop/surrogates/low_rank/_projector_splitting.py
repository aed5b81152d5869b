"""The published surrogate: low-rank factors kept current by an implicit projector-splitting integrator."""

from __future__ import annotations

import torch
from torch import Tensor

from blackprop.core._probes import signed
from blackprop.core._procedure import Procedure
from blackprop.directions import Directions, Gaussian
from blackprop.errors import ArgumentError
from blackprop.surrogates.low_rank._base import LowRankSurrogate


def projector_splitting_step(
    U: Tensor,  # (d_out, r)
    S: Tensor,  # (r, r)
    V: Tensor,  # (r, d_in)
    change_on_V: Tensor,  # (d_out, r): ΔA Vᵀ
    probes: Tensor,  # (M, d_in): Z
    change_on_probes: Tensor,  # (M, d_out): Z ΔAᵀ
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of the implicit projector-splitting integrator (I-PSI), from two products with `ΔA = A(θ₁) − A(θ₀)`:

    1. `K = U S + ΔA Vᵀ`, `U₁ S̃ = qr(K)`
    2. `Ŝ = S̃ − U₁ᵀ ΔA Vᵀ`
    3. `L = Vᵀ Ŝᵀ + P₂` with `P₂ = Zᵀ (Z ΔAᵀ) U₁ / M`, an unbiased sketch of `ΔAᵀ U₁` if `E[zzᵀ] = I`
    4. `V₁ᵀ S₁ᵀ = qr(L)`

    Exact for A(θ₀), A(θ₁) of rank at most r if `ZᵀZ/M = I`. Source: arXiv 2509.15113.
    """
    U1, S_tilde = torch.linalg.qr(U @ S + change_on_V)
    S_hat = S_tilde - U1.mT @ change_on_V
    P2 = probes.mT @ (change_on_probes @ U1) / len(probes)
    V1t, S1t = torch.linalg.qr(V.mT @ S_hat.mT + P2)
    return U1, S1t.mT, V1t.mT


class ProjectorSplitting(LowRankSurrogate):
    """`A ≈ U S V` that follows θ by one I-PSI step a change, `projector_splitting_step`.

    The sketch's relative error is about `√((d_in + 1)/M)` for Gaussian probes and 0 for M = d_in orthogonal ones. The
    surrogate follows θ and not the device: it cannot see drift.

    **Costs** d_in rows to start; then 2(r + M) rows a change of θ, half of them at the previous setting, which takes
    one programming.

    **Arguments:**

    - `rank` (default 10): r.
    - `samples` (default 10): M, probes a change.
    - `probes` (default Gaussian): the family of probes, of `bp.directions`.
    - `rebuild_every` (default None, never): k, for an exact rebuild from d_in rows in place of every k-th step (the
      published meshes: 100).
    - `treat_as_linear` (default False): as in `LowRankSurrogate`.

    **Raises** `IncompatibleError` for a device that is not linear, or a rank above min(d_in, d_out).
    """

    steps: Tensor

    def __init__(
        self,
        rank: int = 10,
        samples: int = 10,
        *,
        probes: Directions | None = None,
        rebuild_every: int | None = None,
        treat_as_linear: bool = False,
    ) -> None:
        super().__init__(rank, treat_as_linear)
        if samples < 1:
            raise ArgumentError(f"`ProjectorSplitting(samples=...)` must be at least 1, got {samples}")
        if rebuild_every is not None and rebuild_every < 1:
            raise ArgumentError(f"`ProjectorSplitting(rebuild_every=...)` must be at least 1, got {rebuild_every}")
        self.samples = samples
        self.probes: Directions | Gaussian = probes if probes is not None else Gaussian()
        self.rebuild_every = rebuild_every
        self.register_buffer("steps", torch.tensor(0))

    def track(self, theta_old: Tensor, theta_new: Tensor, generator: torch.Generator) -> Procedure[None]:
        if self.rebuild_every is not None and (int(self.steps) + 1) % self.rebuild_every == 0:
            yield from self._rebuild(theta_new)
        else:
            V = self.V
            Z = self.probes.sample(self.samples, self.spec.d_in, generator, V)
            probes = signed(self.spec, torch.cat((V, Z)))
            old, new = yield [self._query(probes.rows, theta_old), self._query(probes.rows, theta_new)]
            change = probes.products((new - old).flatten(1))  # (r + M, d_out)
            self._hold(*projector_splitting_step(self.U, self.S, V, change[: self.rank].mT, Z, change[self.rank :]))
        self.steps += 1

    def extra_repr(self) -> str:
        return f"rank={self.rank}, samples={self.samples}, probes={self.probes}, rebuild_every={self.rebuild_every}"
