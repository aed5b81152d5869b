"""Steps in a random subspace of the parameters whose derivatives are measured once and held."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from blackprop.core._declaration import Declaration
from blackprop.core._probes import signed
from blackprop.core._procedure import Procedure, in_rounds
from blackprop.core._query import Purpose, Query
from blackprop.directions import Rademacher
from blackprop.errors import ArgumentError, IncompatibleError
from blackprop.estimators._base import Estimator, positive_step
from blackprop.estimators.memory._hadamard import HadamardFamily, family_size, shuffled_columns

TRAVEL = 1.5  # correlation lengths that θ moves in all while a subspace is held
DECAY = (0.9, 0.999)  # of the two moments of the steps of z


class HeldSubspace(nn.Module, Estimator):
    """`θ = θ₀ + Σ_k z_k u_k / √K`: K random orthogonal directions u_k, `D_k = ∂(A(θ)V)/∂θ · u_k` measured at θ₀ once,
    and the projection of the gradient on them at every step: `ĝ = Σ_k s_k u_k / P`, `s_k = ⟨D_k, (GᵀX) V⟩`.

    V `(d_in, rank)` are the leading directions of the rows at θ₀. After `hold` gradients K other directions are
    measured where θ then is. For linear devices whose parameters have no known place: half of the programmings measure,
    the other half are steps. Held derivatives are worth most where they change little on the way: `length` is that
    distance (root mean square over θ), as `bp.planning.correlation_length` measures it.

    With a `length`, steps are made in z: `bp.optim.SignalScaled` hands them to `advance`, which takes Adam's steps of
    z, times the root mean square of these steps: 1 where gradients agree, less where they do not. θ moves by at most
    1.5 lengths while a subspace is held, at half of the first rate on average. Of the optimizer, only the schedule of
    its rate counts.

    **Costs** K + 1 programmings and `(K + 1)·rank` rows every `hold` steps, and none between. Memory `4·K·d_out·rank`
    bytes.

    **Arguments:**

    - `count`: K, at most P (or the next power of two).
    - `hold`: gradients between two measurements.
    - `rank`: rows of a measurement, k; 32 by default.
    - `step`: of the differences, in θ's units; 0.02 by default.
    - `length`: the correlation length ℓ of the derivatives, in θ's units; None (the default) leaves steps to the
      optimizer.

    Holds state: one serves one layer. Raises `ArgumentError` for numbers out of range, `IncompatibleError` for a device
    that is not declared linear and of vectors.
    """

    D: Tensor
    V: Tensor
    slopes: Tensor
    moments: Tensor
    taken: Tensor
    columns: Tensor
    signs: Tensor
    counts: Tensor
    unit: Tensor
    seen: Tensor

    def __init__(
        self, count: int = 100, hold: int = 100, rank: int = 32, step: float = 0.02, *, length: float | None = None
    ) -> None:
        super().__init__()
        positive_step(self, step)
        for name, value in (("count", count), ("hold", hold), ("rank", rank)):
            if value < 1:
                raise ArgumentError(f"`HeldSubspace({name}=...)` must be at least 1, got {value}")
        if length is not None and not 0 < length < math.inf:
            raise ArgumentError(f"`HeldSubspace(length=...)` must be positive and finite, got {length}")
        self.count, self.hold, self.rank, self.step, self.length = count, hold, rank, step, length
        self._bound: str | None = None

    @property
    def bias_order(self) -> int | None:
        return 1

    def relative_variance(self, size: int) -> float:
        """`P/K − 1`: the power of the gradient outside the subspace, relative to the power inside."""
        return max(0.0, size / self.count - 1)

    @property
    def cosine(self) -> float | None:
        """`√(K/P · |GᵀX V|²/|GᵀX|²)` where θ₀ is near; None where steps are made in z: these stay in the subspace."""
        if self._bound is None or self.length is not None:
            return None
        return min(1.0, math.sqrt(float(self.seen) * len(self.taken) / len(self.columns)))

    def diagnosis(self) -> dict[str, float]:
        return {} if self._bound is None else {"held": float(len(self.taken)), "seen": float(self.seen)}

    def check(self, spec: Declaration) -> None:
        if not spec.linear or len(spec.in_shape) != 1 or len(spec.out_shape) != 1:
            raise IncompatibleError(
                f"`HeldSubspace` needs a linear device of vectors, and {spec.name} does not declare that; use "
                "`RandomDirections`"
            )
        spec.theta.check_reach(self.step)

    def bind(self, spec: Declaration) -> None:
        if self._bound is not None:
            raise IncompatibleError(f"this HeldSubspace already serves {self._bound}; make one a layer")
        self.check(spec)
        self._bound = spec.name
        P, k = spec.theta.size, min(self.rank, spec.d_in)
        K = min(self.count, family_size(P))
        self.register_buffer("D", torch.zeros(K, spec.d_out, k))
        self.register_buffer("V", torch.zeros(spec.d_in, k))
        self.register_buffer("slopes", torch.zeros(K))  # of the loss along u_k, since z last moved
        self.register_buffer("moments", torch.zeros(2, K))  # Adam's, of z
        self.register_buffer("taken", torch.zeros(K, dtype=torch.int64))  # which of the family the u_k are
        self.register_buffer("columns", torch.zeros(P, dtype=torch.int64))
        self.register_buffer("signs", torch.zeros(1, P, dtype=torch.int8))
        self.register_buffer("counts", torch.zeros(2, dtype=torch.int64))  # gradients, steps of z; of this subspace
        self.register_buffer("unit", torch.zeros(()))  # the optimizer's first rate
        self.register_buffer("seen", torch.zeros(()))  # share of the latest GᵀX that V sees

    def grad_theta(
        self, x: Tensor, theta: Tensor, y: Tensor, grad_y: Tensor, spec: Declaration, generator: torch.Generator
    ) -> Procedure[Tensor]:
        if not self.training:  # a copy learns in eval()
            return (yield from copy.deepcopy(self).train().grad_theta(x, theta, y, grad_y, spec, generator))
        if self._bound is None:
            self.bind(spec)
        del y
        if int(self.counts[0]) % self.hold == 0:
            yield from self._measure(x, theta, spec, generator)
        whole = grad_y.mT @ x
        part = whole @ self.V.to(whole)
        slopes = self.D.flatten(1).to(part) @ part.flatten()
        self.seen.copy_(part.square().sum() / whole.square().sum().clamp_min(torch.finfo(whole.dtype).tiny))
        self.slopes += slopes.to(self.slopes)
        self.counts[0] += 1
        n, P = self._family.size, theta.numel()
        return self._along(slopes) / (P + (n - P) * len(slopes) / n)

    def advance(self, old: Tensor, new: Tensor, rate: float) -> Tensor:
        """Return θ after Adam's step of z; its length follows the optimizer's `rate` and the agreement of gradients."""
        if self.length is None or not bool(self.slopes.any()) or not rate > 0:
            return new
        if not bool(self.unit):
            self.unit.fill_(rate)
        self.counts[1] += 1
        step = int(self.counts[1])
        powers = torch.stack((self.slopes, self.slopes.square()))
        weights = 1 - torch.tensor(DECAY, dtype=powers.dtype, device=powers.device)[:, None]
        self.moments.lerp_(powers, weights.expand_as(powers))
        mean, power = (moment / (1 - decay**step) for moment, decay in zip(self.moments, DECAY, strict=True))
        change = mean / power.sqrt().clamp_min(torch.finfo(power.dtype).tiny)
        agreement = float(change.square().mean().sqrt())
        size = 2 * TRAVEL * self.length / self.hold * agreement * rate / float(self.unit)
        self.slopes.zero_()
        return old - self._along((size * change).to(old)) / math.sqrt(len(change))

    def _measure(self, x: Tensor, theta: Tensor, spec: Declaration, generator: torch.Generator) -> Procedure[None]:
        """Draw K directions, and measure the derivatives along them where θ is."""
        P, K, k = theta.numel(), len(self.taken), self.V.shape[1]
        columns = shuffled_columns(P, generator).to(theta.device)
        signs = Rademacher().sample(1, P, generator, self.signs)
        order = torch.randperm(family_size(P), generator=generator, device=generator.device)[:K]
        family = HadamardFamily(columns, signs)
        # A batch of few rows leaves the rest of the basis to chance.
        noise = torch.randn(k, x.shape[1], generator=generator, device=generator.device, dtype=x.dtype).to(x)
        _, _, basis = torch.linalg.svd(torch.cat((x, 1e-3 * x.square().mean().sqrt() * noise)), full_matrices=False)
        amplitude = x.square().sum(1).mean().sqrt()
        probes = signed(spec, amplitude * basis[:k])
        centre = spec.theta.interior(theta, self.step)

        def queries() -> list[Query]:
            settings = (spec.theta.clamp(centre + self.step * u) for u in family.directions(order.tolist(), theta))
            return [Query(probes.rows, setting, Purpose.PARAMETER) for setting in (centre, *settings)]

        base, *answers = yield from in_rounds(queries(), spec.d_out)
        found = probes.products(torch.stack([y - base for y in answers])).mT / (self.step * amplitude)
        self.D.copy_(found)
        self.V.copy_(basis[:k].mT)
        self.columns.copy_(columns)
        self.signs.copy_(signs)
        self.taken.copy_(order)
        for fresh in (self.counts, self.moments, self.slopes):
            fresh.zero_()

    @property
    def _family(self) -> HadamardFamily:
        return HadamardFamily(self.columns, self.signs)

    def _along(self, coefficients: Tensor) -> Tensor:
        """`Σ_k a_k u_k` (P,)."""
        whole = coefficients.new_zeros(1, self._family.size)
        whole[0, self.taken] = coefficients
        return self._family.combine(whole)

    def extra_repr(self) -> str:
        length = f", length={self.length:.3g}" if self.length is not None else ""
        return f"count={self.count}, hold={self.hold}, rank={self.rank}, step={self.step:g}{length}"
