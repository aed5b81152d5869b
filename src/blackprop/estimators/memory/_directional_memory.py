"""A memory of perturbations of the device: old measurements serve the present gradient."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from blackprop.core._declaration import Declaration
from blackprop.core._probes import signed
from blackprop.core._procedure import ROUND_BYTES, Procedure
from blackprop.core._query import Purpose, Query
from blackprop.directions import Rademacher
from blackprop.errors import ArgumentError, IncompatibleError
from blackprop.estimators._base import Estimator, positive_step
from blackprop.estimators._credit import ByOutput
from blackprop.estimators.memory._correlation import LENGTHS, TURN, fitted, followed, kept
from blackprop.estimators.memory._correlation import memory_bytes as _memory
from blackprop.estimators.memory._hadamard import HadamardFamily, family_size, shuffled_columns

SKETCH = 64  # projections of θ that measure its distance, to a relative error of 1/√(2·64)
FORGET = 0.99  # decay a step of the evidence about the correlation length


class DirectionalMemory(nn.Module, Estimator):
    """Remembers perturbations of a linear device and reuses them for every later gradient:

    `ĝ = Σ_m w_m s_m u_m / c`, over the last K directions, `w_m = exp(−(|θ − θ_m|/ℓ)²)`, c between P and n,

    with `s_m = ⟨D_m, (GᵀX) V⟩`, the directional derivative of the present loss. `J u = ∂(A(θ)V)/∂θ · u` is a property
    of the device and not of the batch, so a measurement `D_m = (A(θ_m + μ u_m) − A(θ_m)) V / μ` serves later batches
    without queries. V `(d_in, k)` holds the leading directions of the rows of training and follows them. A measurement
    takes k rows at the data's amplitude; all outputs are kept. The u_m are ±1 and orthogonal, from one `HadamardFamily`
    that is never stored. For independent parameters this is the posterior mean of the gradient: K fresh directions give
    the cosine √(K/P), at the price of M a step.

    **Decay.** Every `refresh`-th measurement repeats an old direction. Pairs of old and new readings give the
    correlation length ℓ and the effect of read noise. Distances are root mean squares over the parameters, of a sketch
    of θ. The estimator therefore knows its own `cosine`, `√(Σ w²/c · |GᵀX V|²/|GᵀX|²)`. Wrap the optimizer in
    `bp.optim.SignalScaled`, which scales the steps by it: the missing part of the gradient is the same from step to
    step, and momentum does not average it.

    **Costs** M programmings and `(M + 1)·k` rows a step; at the first step, `start` directions in place of M. Memory
    `4·K·d_out·k` bytes, and `9 P` for the family.

    **Arguments:**

    - `count` (default 4): M, directions measured a step.
    - `size` (default 1000): K, directions remembered.
    - `rank` (default 32): k, rows of a measurement.
    - `step` (units of θ, default 0.01): μ.
    - `start` (default 0): directions measured before the first step.
    - `refresh` (default 8): every how many measurements an old direction is repeated.
    - `credit` (default None): `ByOutput(d_out)` if the coupling allows it. Each output then has K directions of its own
      P/d_out parameters, and K = P/d_out determines them all.

    Holds state: use one for each layer.

    **Raises** `IncompatibleError` for a device that is not linear, where `D_m` would hold only for the rows that it was
    read with, and for a memory larger than half of the machine's.
    """

    D: Tensor
    V: Tensor
    power: Tensor
    places: Tensor
    taken: Tensor
    columns: Tensor
    signs: Tensor
    order: Tensor
    counts: Tensor
    evidence: Tensor
    known: Tensor

    def __init__(
        self,
        count: int = 4,
        size: int = 1000,
        rank: int = 32,
        step: float = 0.01,
        *,
        start: int = 0,
        refresh: int = 8,
        credit: ByOutput | None = None,
    ) -> None:
        super().__init__()
        positive_step(self, step)
        given = {"count": count, "size": size, "rank": rank, "start": start, "refresh": refresh}
        for (name, value), least in zip(given.items(), (1, 1, 1, 0, 2), strict=True):
            if value < least:
                raise ArgumentError(f"`DirectionalMemory({name}=...)` must be at least {least}, got {value}")
        self.count: int = count
        self.size: int = size
        self.rank: int = rank
        self.step: float = step
        self.start: int = start
        self.refresh: int = refresh
        self.credit: ByOutput | None = credit
        self._bound: str | None = None

    @property
    def cosine(self) -> float | None:
        """The expected cosine of the latest estimate to the true gradient, `√(Σ w²/c · |GᵀX V|²/|GᵀX|²)`."""
        return None if self._bound is None else min(1.0, math.sqrt(float(self.known)))

    def diagnosis(self) -> dict[str, float]:
        if self._bound is None:
            return {}
        best, _ = fitted(self.evidence)
        length = self.step * 2 ** (best / 2)
        return {"remembered": float(self._filled), "known": float(self.known), "correlation_length": length}

    @property
    def bias_order(self) -> int | None:
        return 1

    def relative_variance(self, size: int) -> float:
        """Return the power of the forgotten part over that of the remembered part, for K directions at their best."""
        width = size // (self.credit.outputs if self.credit is not None else 1)
        return max(0.0, width / self.size - 1)

    def check(self, spec: Declaration) -> None:
        if not spec.linear or not spec.of_vectors:
            raise IncompatibleError(
                f"`DirectionalMemory` needs a linear device of vectors, and {spec.name} does not declare linearity: "
                "a remembered derivative then holds only at the rows where it was read; use `RandomDirections`"
            )
        if self.credit is not None:
            self.credit.check(self, spec)
        spec.theta.check_reach(self.step)

    def bind(self, spec: Declaration) -> None:
        if self._bound is not None:
            raise IncompatibleError(f"this DirectionalMemory already serves {self._bound}; make one memory a layer")
        self.check(spec)
        blocks, k = self.credit.outputs if self.credit is not None else 1, min(self.rank, spec.d_in)
        width = spec.theta.size // blocks
        n = family_size(width)
        K = min(self.size, n)
        each = 4 * spec.d_out * k
        if K * each > (room := _memory() / 2):
            raise IncompatibleError(
                f"a memory of {K:,} directions of {spec.name} takes {K * each / 2**30:.3g} GiB, more than half of this "
                f"machine's; `DirectionalMemory(size={int(room / each)})` would fit"
            )
        self._bound = spec.name
        self.register_buffer("D", torch.zeros(K, spec.d_out, k))
        self.register_buffer("V", torch.zeros(spec.d_in, k))
        self.register_buffer("power", torch.zeros(k))  # of the data along V
        self.register_buffer("places", torch.zeros(K, min(SKETCH, n)))  # where each was measured
        self.register_buffer("taken", torch.zeros(K, dtype=torch.int64))  # the direction in each filled slot
        self.register_buffer("columns", torch.zeros(width, dtype=torch.int64))
        self.register_buffer("signs", torch.zeros(blocks, width, dtype=torch.int8))
        self.register_buffer("order", torch.zeros(n, dtype=torch.int64))
        self.register_buffer("counts", torch.zeros(2, dtype=torch.int64))  # steps, directions drawn
        self.register_buffer("known", torch.zeros(()))  # the remembered part of the gradient's power
        self.register_buffer("evidence", torch.zeros(2, LENGTHS))  # ⟨new, old⟩ and |old|² for each length

    def grad_theta(
        self, x: Tensor, theta: Tensor, y: Tensor, grad_y: Tensor, spec: Declaration, generator: torch.Generator
    ) -> Procedure[Tensor]:
        if not self.training:  # eval() changes no state
            return (yield from copy.deepcopy(self).train().grad_theta(x, theta, y, grad_y, spec, generator))
        if self._bound is None:
            self.bind(spec)
        del y
        step = int(self.counts[0])
        family, order = self._drawn_family(generator) if step == 0 else (self._family, self.order)
        basis, power = (
            followed(x, self.V, self.power, int(self.counts[0]) == 0, generator)
            if step % TURN == 0
            else (self.V, self.power)
        )
        slots, indices, fresh = self._chosen(order, generator)
        amplitude = x.square().sum(1).mean().sqrt()
        probes = signed(spec, amplitude * basis.mT)
        rows = probes.rows
        centre = spec.theta.interior(theta, self.step)
        readings: list[Tensor] = []
        base: Tensor | None = None
        together = max(1, ROUND_BYTES // (theta.element_size() * (4 * theta.numel() + 2 * rows.numel())))
        for first in range(0, len(indices), together):
            u = family.directions(indices[first : first + together], theta)
            settings = spec.theta.clamp(centre + self.step * u)
            queries = [Query(rows, t, Purpose.PARAMETER) for t in settings]
            if base is None:
                base, *answers = yield [Query(rows, centre, Purpose.PARAMETER), *queries]
            else:
                answers = yield queries
            readings += answers
        assert base is not None
        found = probes.products(torch.stack([y - base for y in readings])).mT / (self.step * amplitude)  # (M, d_out, k)
        if step == 0:
            self.order.copy_(order)
            self.columns.copy_(family.columns)
            self.signs.copy_(family.signs)
        here = family.project(theta, order[:SKETCH]).sum(0)
        self._remember(basis, power, slots, indices, found, here)
        self.counts += torch.tensor([1, fresh], device=self.counts.device)
        return self._gradient(family, grad_y.mT @ x, self._distances(here))

    def _gradient(self, family: HadamardFamily, whole: Tensor, distances: Tensor) -> Tensor:
        """The estimate from all remembered directions, for `GᵀX` (d_out, d_in), of which the basis holds a part."""
        cotangent, filled = whole @ self.V.to(whole), self._filled
        D, taken = self.D[:filled], self.taken[:filled]
        alone = self.credit is None
        slopes = (D.flatten(1) @ cotangent.flatten())[None] if alone else (D * cotangent).sum(2).mT
        best, amplitude = fitted(self.evidence)
        weights = self._weights(distances[:filled], best)
        seen = cotangent.square().sum() / whole.square().sum()
        self.known.copy_(amplitude * weights.square().sum() / self._mass * seen)
        coefficients = whole.new_zeros(len(slopes), family.size)
        coefficients[:, taken] = slopes * weights
        return family.combine(coefficients) / self._mass

    @property
    def _mass(self) -> float:
        """The divisor of a sum over the remembered directions: P for few of them, n for all."""
        width, n = self.columns.numel(), self.order.numel()
        return width + (n - width) * self._filled / n

    @property
    def _filled(self) -> int:
        return min(int(self.counts[1]), len(self.taken))

    @property
    def _family(self) -> HadamardFamily:
        return HadamardFamily(self.columns, self.signs)

    def _drawn_family(self, generator: torch.Generator) -> tuple[HadamardFamily, Tensor]:
        blocks, width = self.signs.shape
        order = torch.randperm(self.order.numel(), generator=generator, device=generator.device)
        columns = shuffled_columns(width, generator)
        signs = Rademacher().sample(blocks, width, generator, self.signs)
        place = self.columns.device
        return HadamardFamily(columns.to(place), signs), order.to(place)

    def _chosen(self, order: Tensor, generator: torch.Generator) -> tuple[list[int], list[int], int]:
        """The slots to measure next, their directions, and how many of these are new in the family's order.

        New directions are orthogonal to all remembered ones; now and then an old one is repeated.
        """
        steps, drawn = self.counts.tolist()
        K, n = len(self.taken), len(order)
        count = min(n, self.count if steps else max(self.count, self.start))
        coming = {(drawn + m) % K for m in range(count)}
        slots: list[int] = []
        indices: list[int] = []
        for m in range(count):
            old = self._filled
            again = drawn < n and old > self.count and (steps * self.count + m) % self.refresh == self.refresh - 1
            slot = int(torch.randint(old, (), generator=generator, device=generator.device)) if again else None
            if slot is not None and slot not in coming:
                coming.add(slot)
                slots.append(slot)
                indices.append(int(self.taken[slot]))
            else:
                slots.append(drawn % K)
                indices.append(int(order[drawn % n]))
                drawn += 1
        return slots, indices, drawn - int(self.counts[1])

    def _remember(
        self, basis: Tensor, power: Tensor, slots: list[int], indices: list[int], found: Tensor, here: Tensor
    ) -> None:
        """Store the measurements along these directions, at the place `here`, the sketch of θ."""
        if basis is not self.V:
            self.D.copy_(self.D @ (self.V.mT @ basis.to(self.V)))
            self.V.copy_(basis)
            self.power.copy_(power)
        known, distances = self.taken[slots].tolist(), self._distances(here)
        for slot, index, before, new in zip(slots, indices, known, found, strict=True):
            if slot < self._filled and index == before:
                self._compare(new.to(self.D), self.D[slot], distances[slot])
        self.D[slots] = found.to(self.D)
        self.places[slots] = here.to(self.places)
        self.taken[slots] = torch.tensor(indices, device=self.taken.device)
        self.evidence *= FORGET

    def _compare(self, new: Tensor, old: Tensor, distance: Tensor) -> None:
        """Add the evidence of a repeated direction, for every correlation length."""
        share = kept(distance[None], self.step)[:, 0]
        self.evidence += torch.stack((share * (new * old).sum(), share.square() * old.square().sum()))

    def _weights(self, distances: Tensor, length: int) -> Tensor:
        return kept(distances, self.step)[length]

    def _distances(self, here: Tensor) -> Tensor:
        """Root mean square over the parameters, from the place of each measurement to `here`."""
        away = self.places - here.to(self.places)
        return (away.square().sum(1) / (away.shape[1] * self.signs.numel())).sqrt()

    def extra_repr(self) -> str:
        parts = [f"count={self.count}, size={self.size}, rank={self.rank}, step={self.step:g}"]
        parts += [f"{name}={value}" for name, value in (("start", self.start), ("credit", self.credit)) if value]
        return ", ".join(parts)
