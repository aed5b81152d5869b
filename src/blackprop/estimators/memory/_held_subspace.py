"""Steps in a random subspace of the parameters whose derivatives are measured once and held, or are renewed in turn."""

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
from blackprop.estimators.memory._correlation import TURN, followed
from blackprop.estimators.memory._hadamard import HadamardFamily, family_size, shuffled_columns

TRAVEL = 1.5  # correlation lengths that θ moves in all while a subspace is held
SKETCH = 64  # projections of θ that measure its distance, to a relative error of 1/√(2·64)
DECAY = (0.9, 0.999)  # of the two moments of the steps of z


class HeldSubspace(nn.Module, Estimator):
    """`θ = θ₀ + Σ_k z_k u_k / √K`: K random orthogonal directions u_k, `D_k = ∂(A(θ)V)/∂θ · u_k` measured at θ₀ once,
    and the projection of the gradient on them at every step: `ĝ = Σ_k s_k u_k / P`, `s_k = ⟨D_k, (GᵀX) V⟩`.

    V `(d_in, rank)` are the leading directions of the rows at θ₀. After `hold` gradients K other directions are
    measured where θ then is. For linear devices whose parameters have no known place. Held derivatives are worth most
    where they change little on the way: `length` is that distance ℓ (root mean square over θ), as
    `bp.planning.correlation_length` measures it.

    With `fresh`, the subspace rolls: every gradient measures so many new directions where θ is, in place of the oldest,
    and V follows the rows. A direction that was measured at a distance d counts `w = exp(−(d/ℓ)²)`: `s_k ← w_k s_k`.
    There is then no long wait at the start, and no direction is much farther away than ℓ.

    With a `length`, steps are made in z: `bp.optim.SignalScaled` hands them to `advance`, which takes the momentum of
    the slopes over their root mean square, times the agreement of the gradients: 1 where they agree, less where they do
    not. θ moves by at most 1.5 lengths in `hold` gradients, at half of the first rate on average. A rolling subspace
    moves it by at most `pace · ℓ · √(Σ w²/P)` at a time, the last factor being the cosine of the estimate to the
    gradient: steps are short where few derivatives are known, or hold. Of the optimizer, only the schedule of its rate
    counts.

    **Costs** K + 1 programmings and `(K + 1)·rank` rows every `hold` steps, and none between; with `fresh`, so many
    programmings and `(fresh + 1)·rank` rows a step. Memory `4·K·d_out·rank` bytes.

    **Arguments:**

    - `count`: K, at most P (or the next power of two).
    - `hold`: gradients between two measurements; 100 by default.
    - `rank`: rows of a measurement, k; 32 by default.
    - `step`: of the differences, in θ's units; 0.02 by default.
    - `length`: the correlation length ℓ of the derivatives, in θ's units; None (the default) leaves steps to the
      optimizer.
    - `fresh`: new directions a gradient; 0 (the default) measures K of them every `hold` gradients.
    - `pace`: of a rolling subspace; 2 by default.

    Holds state: one serves one layer. Raises `ArgumentError` for numbers out of range, or for `fresh` without a
    `length`; `IncompatibleError` for a device that is not declared linear and of vectors.
    """

    pace: float

    count: int
    hold: int
    rank: int
    step: float
    length: float | None
    fresh: int
    travel: float

    D: Tensor
    V: Tensor
    slopes: Tensor
    moments: Tensor
    taken: Tensor
    columns: Tensor
    signs: Tensor
    order: Tensor
    counts: Tensor
    unit: Tensor
    seen: Tensor
    power: Tensor
    places: Tensor
    ages: Tensor

    def __init__(
        self,
        count: int = 100,
        hold: int = 100,
        rank: int = 32,
        step: float = 0.02,
        *,
        length: float | None = None,
        fresh: int = 0,
        pace: float = 2.0,
    ) -> None:
        super().__init__()
        positive_step(self, step)
        for name, value, least in (("count", count, 1), ("hold", hold, 1), ("rank", rank, 1), ("fresh", fresh, 0)):
            if value < least:
                raise ArgumentError(f"`HeldSubspace({name}=...)` must be at least {least}, got {value}")
        for name, value in (("length", length), ("pace", pace)):
            if value is not None and not 0 < value < math.inf:
                raise ArgumentError(f"`HeldSubspace({name}=...)` must be positive and finite, got {value}")
        if fresh and length is None:
            raise ArgumentError("`HeldSubspace(fresh=...)` needs a `length`, which tells how much old directions count")
        self.count, self.hold, self.rank, self.step, self.length = count, hold, rank, step, length
        self.fresh, self.pace = fresh, pace
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
        n = family_size(P)
        self.register_buffer("slopes", torch.zeros(K))  # of the loss along u_k, since z last moved
        self.register_buffer("moments", torch.zeros(2, K))  # of the slopes
        self.register_buffer("ages", torch.zeros(K, dtype=torch.int64))  # steps of z since a direction was measured
        self.register_buffer("taken", torch.zeros(K, dtype=torch.int64))  # which of the family the u_k are
        self.register_buffer("places", torch.zeros(K, min(SKETCH, n)))  # sketches of θ, where each was measured
        self.register_buffer("power", torch.zeros(k))  # of the rows along V
        self.register_buffer("columns", torch.zeros(P, dtype=torch.int64))
        self.register_buffer("signs", torch.zeros(1, P, dtype=torch.int8))
        self.register_buffer("order", torch.zeros(n, dtype=torch.int64))  # in which the family is drawn
        self.register_buffer("counts", torch.zeros(2, dtype=torch.int64))  # gradients, directions drawn
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
        if self.fresh or int(self.counts[0]) % self.hold == 0:
            yield from self._measure(x, theta, spec, generator)
        whole, filled = grad_y.mT @ x, self._filled
        part = whole @ self.V.to(whole)
        slopes = self.D[:filled].flatten(1).to(part) @ part.flatten() * self._weights(theta)
        self.seen.copy_(part.square().sum() / whole.square().sum().clamp_min(torch.finfo(whole.dtype).tiny))
        self.slopes[:filled] += slopes.to(self.slopes)
        self.counts[0] += 1
        n, P = self._family.size, theta.numel()
        return self._along(slopes) / (P + (n - P) * filled / n)

    def advance(self, old: Tensor, new: Tensor, rate: float) -> Tensor:
        """Return θ after a step of z; its length follows the optimizer's `rate` and the agreement of gradients."""
        filled = self._filled
        slopes = self.slopes[:filled]
        if self.length is None or not bool(slopes.any()) or not rate > 0:
            return new
        if not bool(self.unit):
            self.unit.fill_(rate)
        self.ages[:filled] += 1
        moments = self.moments[:, :filled]
        powers = torch.stack((slopes, slopes.square()))
        weights = 1 - torch.tensor(DECAY, dtype=powers.dtype, device=powers.device)[:, None]
        moments.lerp_(powers, weights.expand_as(powers))
        mean, power = (m / (1 - decay ** self.ages[:filled]) for m, decay in zip(moments, DECAY, strict=True))
        change = mean / power.mean().sqrt().clamp_min(torch.finfo(power.dtype).tiny)
        agreement = min(1.0, float(change.square().mean().sqrt()))
        part = self._known(old) * self.pace if self.fresh else 2 * TRAVEL / self.hold
        size = part * self.length * agreement * rate / float(self.unit)
        self.slopes.zero_()
        return old - self._along((size * change).to(old)) / math.sqrt(filled)

    def _measure(self, x: Tensor, theta: Tensor, spec: Declaration, generator: torch.Generator) -> Procedure[None]:
        """Measure the derivatives along new directions where θ is: K of a new family, or `fresh` more of this one."""
        first = not (self.fresh and int(self.counts[0]))
        K, drawn = len(self.taken), 0 if first else int(self.counts[1])
        family, order = (self._drawn(theta, generator)) if first else (self._family, self.order)
        turns = first or int(self.counts[0]) % TURN == 0
        V, power = followed(x, self.V, self.power, first, generator) if turns else (self.V, self.power)
        slots = [number % K for number in range(drawn, drawn + min(K, self.fresh or K))]
        chosen = order[[(drawn + place) % len(order) for place in range(len(slots))]]
        amplitude = x.square().sum(1).mean().sqrt()
        probes = signed(spec, amplitude * V.mT.to(x))
        centre = spec.theta.interior(theta, self.step)

        def queries() -> list[Query]:
            settings = (spec.theta.clamp(centre + self.step * u) for u in family.directions(chosen.tolist(), theta))
            return [Query(probes.rows, setting, Purpose.PARAMETER) for setting in (centre, *settings)]

        base, *answers = yield from in_rounds(queries(), spec.d_out)
        found = probes.products(torch.stack([y - base for y in answers])).mT / (self.step * amplitude)
        if first:
            for kept, new in ((self.columns, family.columns), (self.signs, family.signs), (self.order, order)):
                kept.copy_(new)
            for buffer in (self.counts, self.moments, self.slopes, self.ages):
                buffer.zero_()
        elif V is not self.V:
            self.D.copy_(self.D @ (self.V.mT @ V.to(self.V)))
        self.V.copy_(V)
        self.power.copy_(power)
        self.D[slots] = found.to(self.D)
        self.taken[slots] = chosen
        self.places[slots] = self._sketch(theta).to(self.places)
        self.moments[:, slots] = 0
        self.slopes[slots] = 0
        self.ages[slots] = 0
        self.counts[1] += len(slots)

    def _drawn(self, theta: Tensor, generator: torch.Generator) -> tuple[HadamardFamily, Tensor]:
        P = theta.numel()
        columns = shuffled_columns(P, generator).to(theta.device)
        signs = Rademacher().sample(1, P, generator, self.signs)
        order = torch.randperm(family_size(P), generator=generator, device=generator.device)
        return HadamardFamily(columns, signs), order.to(theta.device)

    def _weights(self, theta: Tensor) -> Tensor:
        """The part of each derivative that is left where θ is; 1 where the subspace is held."""
        filled = self._filled
        if not self.fresh or self.length is None:
            return theta.new_ones(filled)
        away = self.places[:filled].to(theta) - self._sketch(theta)
        square = away.square().sum(1) / (away.shape[1] * theta.numel())
        return (-square / self.length**2).exp()

    def _known(self, theta: Tensor) -> float:
        """The cosine of the estimate to the gradient, as far as the rows are seen."""
        return min(1.0, math.sqrt(float(self._weights(theta).square().sum()) / len(self.columns)))

    def _sketch(self, theta: Tensor) -> Tensor:
        return self._family.project(theta, self.order[:SKETCH]).sum(0)

    @property
    def _filled(self) -> int:
        return min(int(self.counts[1]), len(self.taken))

    @property
    def _family(self) -> HadamardFamily:
        return HadamardFamily(self.columns, self.signs)

    def _along(self, coefficients: Tensor) -> Tensor:
        """`Σ_k a_k u_k` (P,)."""
        whole = coefficients.new_zeros(1, self._family.size)
        whole[0, self.taken[: len(coefficients)]] = coefficients
        return self._family.combine(whole)

    def extra_repr(self) -> str:
        length = f", length={self.length:.3g}" if self.length is not None else ""
        fresh = f", fresh={self.fresh}, pace={self.pace:.3g}" if self.fresh else ""
        return f"count={self.count}, hold={self.hold}, rank={self.rank}, step={self.step:g}{fresh}{length}"
