"""Stochastic zeroth-order gradients: differences along random directions, the published estimator."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._probes import signed
from blackprop.core._procedure import ROUND_BYTES, Procedure
from blackprop.core._query import Purpose, Query
from blackprop.directions import Directions, Gaussian
from blackprop.errors import ArgumentError
from blackprop.estimators._base import Estimator, positive_step
from blackprop.estimators._credit import Credit, Whole
from blackprop.estimators._differences import Contraction, Difference, Forward


@dataclass(frozen=True)
class RandomDirections(Estimator):
    """Differences along M random directions u_m, the same for the whole batch,

    `ĝ = (1/M) Σ_m [φ(θ + μ u_m) − φ(θ)]/μ · u_m` with `φ(θ) = Σ_b ⟨f(x_b; θ), ∂L/∂y_b⟩`

    for forward differences, and likewise for central ones. Mean: the gradient, within O(μ) (forward) or O(μ²)
    (central). Variance: the family's law, (P + 1)/M · |g|² for Gaussian directions.

    **Costs** M programmings (2M central), each with the rows of the batch or of its contraction. Forward differences
    use the rows of the forward pass as their base. They read the base rows again with a contraction, and where θ is so
    near a limit that the perturbations are centred inside it (which costs a programming).

    **Arguments:**

    - `count` (default 10): M.
    - `step` (units of θ, default 1e-4): μ.
    - `directions` (default `Gaussian()`): a family of `bp.directions`.
    - `difference` (default `Forward()`): or `Central()`.
    - `contraction` (default None): a shorter set of rows, for linear devices.
    - `credit` (default `Whole()`): `ByOutput(d_out)` if the coupling allows it.
    - `fraction` (default 1): the part of the batch that each direction is measured on, drawn anew for each direction
      and scaled back to the whole.

    Source: arXiv 2509.15113.

    >>> import torch, blackprop as bp
    >>> layer = bp.PhysicalLayer(bp.devices.MZIMesh(8, 4), bp.estimators.RandomDirections(5, step=1e-3))
    >>> layer(torch.ones(3, 8)).sum().backward()
    >>> layer.ledger.total_programmings, layer.ledger.total_rows  # 1 + 5 settings, 3 rows each
    (6, 18)
    """

    count: int = 10
    step: float = 1e-4
    directions: Directions = field(default_factory=Gaussian)
    difference: Difference = field(default_factory=Forward)
    contraction: Contraction | None = None
    credit: Credit = field(default_factory=Whole)
    fraction: float = 1.0

    def __post_init__(self) -> None:
        positive_step(self, self.step)
        if self.count < 1:
            raise ArgumentError(f"`RandomDirections(count=...)` must be at least 1, got {self.count}")
        if not 0 < self.fraction <= 1:
            raise ArgumentError(f"`RandomDirections(fraction=...)` must be in (0, 1], got {self.fraction}")

    @property
    def bias_order(self) -> int | None:
        return self.difference.order

    def relative_variance(self, size: int) -> float:
        """Return the law of the directions; a `fraction` under 1 adds the sampling variance of the batch over M."""
        return self.credit.relative_variance(self.directions, self.count, size)

    def check(self, spec: Declaration) -> None:
        spec.theta.check_reach(self.step * self.directions.reach(spec.theta.size))
        self.credit.check(self, spec)
        if self.contraction is not None:
            self.contraction.check(self, spec)

    def grad_theta(
        self, x: Tensor, theta: Tensor, y: Tensor, grad_y: Tensor, spec: Declaration, generator: torch.Generator
    ) -> Procedure[Tensor]:
        asked = max(1, round(self.fraction * len(x)))
        centre = spec.theta.interior(theta, self.step * self.directions.reach(theta.numel()))
        base: Tensor | None = y if torch.equal(centre, theta) else None
        if self.contraction is not None and (shorter := self.contraction.rows(x, grad_y, asked)) is not None:
            (wanted, cotangents), base = shorter, None
            probes = signed(spec, wanted)
            x, grad_y = probes.rows, probes.cotangents(cotangents)
            asked = len(x)
        grad = torch.zeros_like(theta)
        sample, P = self.directions.sample, theta.numel()
        whole = sample(self.count, P, generator, theta) if self.directions.joint else None
        for done, size in self._rounds(theta, asked * math.prod(y.shape[1:])):
            u = sample(size, P, generator, theta) if whole is None else whole[done : done + size]
            picks = _draw_picks(size, asked, len(x), generator, x.device) if asked < len(x) else None
            rows = [x] * size if picks is None else [x[pick] for pick in picks]
            queries: Sequence[Query] = []
            for sign in self.difference.signs:
                settings = spec.theta.clamp(torch.add(centre, u, alpha=sign * self.step))
                queries += [Query(row, t, Purpose.PARAMETER) for row, t in zip(rows, settings, strict=True)]
            if self.difference.based and base is None:
                base, *readings = yield [Query(x, centre, Purpose.PARAMETER), *queries]
            else:
                readings = yield queries
            values = torch.stack(readings).unflatten(0, (len(self.difference.signs), size)).transpose(0, 1)
            at_theta = None if base is None else _picked(base, picks)
            slopes = self.difference.slope(values, at_theta) * _picked(grad_y, picks)
            grad += self.credit.gradient(slopes, u)
        return grad * (len(x) / (asked * self.step * self.count))

    def _rounds(self, theta: Tensor, outputs: int) -> Iterator[tuple[int, int]]:
        """Yield the number of finished directions and the size of the next round, for this many output numbers each."""
        held = theta.element_size() * len(self.difference.signs) * (3 * theta.numel() + 2 * outputs)
        size = max(1, ROUND_BYTES // held)
        for start in range(0, self.count, size):
            yield start, min(size, self.count - start)


def _draw_picks(count: int, asked: int, total: int, generator: torch.Generator, place: torch.device) -> list[Tensor]:
    return [torch.randperm(total, generator=generator, device=generator.device)[:asked].to(place) for _ in range(count)]


def _picked(rows: Tensor, picks: list[Tensor] | None) -> Tensor:
    """The rows that each direction is measured on, stacked in front where they differ."""
    return rows if picks is None else torch.stack([rows[pick] for pick in picks])
