"""Training by the loss alone along directions of low rank: LOZO, and ZO-Muon with an orthogonal step."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from blackprop.errors import ArgumentError
from blackprop.optim._base import ForwardOnly, Slope
from blackprop.optim._displacement import Place, both_ends

SEEDS = 2**62


class LowRankSteps(ForwardOnly, abc.ABC):
    """Directions that lie in a subspace of each matrix, which is kept for `interval` steps."""

    def __init__(
        self,
        params: Any,
        options: dict[str, Any],
        generator: torch.Generator | None,
        model: nn.Module | None,
    ) -> None:
        for name in ("rank", "interval"):
            if options[name] < 1:
                raise ArgumentError(f"`{type(self).__name__}({name}=...)` must be at least 1, got {options[name]}")
        super().__init__(params, {**options, "basis": 0}, generator, model)
        # A group keeps the seed of its subspaces, so that a saved state has it.
        (self.defaults["basis"],) = self._draw_keys(1)
        for group in self.param_groups:
            group["basis"] = self.defaults["basis"]

    def _kept(self, p: Tensor, group: dict[str, Any], place: Place, rows: int) -> Tensor:
        """Return the normal numbers (rows, rank) of the present subspace of a tensor."""
        seed = (group["basis"] + SEEDS * (1 + place.offset) + self.steps // group["interval"]) % (2**63)
        source = torch.Generator(p.device).manual_seed(seed)
        return torch.randn(rows, group["rank"], generator=source, device=p.device, dtype=p.dtype)

    def _second_moment(self, group: dict[str, Any]) -> float:
        return 1.0

    def _reach(self, group: dict[str, Any]) -> float:
        """Return the largest displacement, for all practical purposes: products of normal numbers have long tails."""
        return 6 * math.sqrt(1 + 10 / group["rank"]) * self._delta(group)


class LOZO(LowRankSteps):
    """`ĝ = u (L(θ + δ u) − L(θ − δ u)) / (2δ)`, `u = U Vᵀ/√r` for a matrix of parameters, with U and V of r columns of
    normal numbers, and `θ ← θ − lr ĝ`. U is new at each step, V is kept for `interval` steps.

    The steps of an interval add up in one subspace of rank r. A vector, as the θ of a device, is folded row by row into
    the most nearly square matrix; a tensor with no side above `rank` has normal directions.

    Mean over V: the gradient within O(δ²); relative variance `P + 1 + 2 (m + n + 1)/r` for a matrix (m, n).

    **Costs** two forward passes a step, and a copy of the parameters during each.

    **Arguments:**

    - `params`, `lr`: as in any torch optimizer.
    - `delta` (units of θ, default 0.01): δ.
    - `rank` (default 2): r.
    - `interval` (steps, default 50): for which V is kept.
    - `momentum`, `betas`, `generator`, `model`: as in `PerturbativeGradient`.

    Source: arXiv 2410.07698.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        delta: float = 1e-2,
        rank: int = 2,
        interval: int = 50,
        *,
        momentum: float = 0.0,
        betas: tuple[float, float] | None = None,
        generator: torch.Generator | None = None,
        model: nn.Module | None = None,
    ) -> None:
        options = {"lr": lr, "delta": delta, "rank": rank, "interval": interval, "momentum": momentum, "betas": betas}
        super().__init__(params, options, generator, model)

    @property
    def passes(self) -> int:
        return 2

    @property
    def bias_order(self) -> int:
        return 2

    def relative_variance(self, size: int) -> float:
        rows, columns = folded(size)
        rank = self.param_groups[0]["rank"]
        return size + 1 + (2 * (rows + columns + 1) / rank if rows > rank else 0.0)

    def _direction(self, p: Tensor, group: dict[str, Any], place: Place) -> Tensor:
        rows, columns = shape_of(p)
        source, rank = place.source(p.device), group["rank"]
        if rows <= rank:
            return torch.randn(p.shape, generator=source, device=p.device, dtype=p.dtype)
        left = torch.randn(rows, rank, generator=source, device=p.device, dtype=p.dtype)
        return (left @ self._kept(p, group, place, columns).T).view(p.shape) / math.sqrt(rank)

    def _probe(self, loss_at: Callable[..., float], tick: int) -> tuple[list[Slope], float]:
        return both_ends(loss_at, *self._draw_keys(1))


class ZOMuon(LowRankSteps):
    """`θ ← θ − lr · B msign((1/M) Σ_m Ψ_m (L(θ + δ B Ψ_m) − L(θ))/δ)` for a matrix θ (m, n) of parameters.

    B (m, r) has orthonormal columns and is kept for `interval` steps, Ψ_m (r, n) are normal, and `msign(U S Vᵀ) = U Vᵀ`
    makes the step equally long in all r directions of the subspace, whatever the noise of the estimate. A vector, as
    the θ of a device, is folded row by row into the most nearly square matrix; a tensor of at most `rank` rows moves
    along its normalised estimate. `lr` is thus in units of θ: a step has the length `lr √r`.

    `estimate` returns the orthogonal step. Its mean is not the gradient, so no law of its variance is declared.

    **Costs** `directions + 1` forward passes a step, and a copy of the parameters during each.

    **Arguments:**

    - `params`, `lr`: as in any torch optimizer.
    - `delta` (units of θ, default 0.01): δ.
    - `directions` (default 4): M.
    - `rank` (default 8): r.
    - `interval` (steps, default 50): for which B is kept.
    - `momentum`, `generator`, `model`: as in `PerturbativeGradient`.

    Source: arXiv 2602.17155. The sign of the matrix comes from a singular value decomposition in place of iterations.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        delta: float = 1e-2,
        directions: int = 4,
        rank: int = 8,
        interval: int = 50,
        *,
        momentum: float = 0.0,
        generator: torch.Generator | None = None,
        model: nn.Module | None = None,
    ) -> None:
        if directions < 1:
            raise ArgumentError(f"`ZOMuon(directions=...)` must be at least 1, got {directions}")
        self.directions = directions
        options = {"lr": lr, "delta": delta, "rank": rank, "interval": interval, "momentum": momentum}
        super().__init__(params, options, generator, model)

    @property
    def passes(self) -> int:
        return self.directions + 1

    @property
    def bias_order(self) -> int:
        return 0

    def relative_variance(self, size: int) -> float:
        return math.inf

    def _direction(self, p: Tensor, group: dict[str, Any], place: Place) -> Tensor:
        rows, columns = shape_of(p)
        source = place.source(p.device)
        if rows <= group["rank"]:
            return torch.randn(p.shape, generator=source, device=p.device, dtype=p.dtype)
        inner = torch.randn(group["rank"], columns, generator=source, device=p.device, dtype=p.dtype)
        return (self._basis(p, group, place, rows) @ inner).view(p.shape) * math.sqrt(rows / group["rank"])

    def _basis(self, p: Tensor, group: dict[str, Any], place: Place, rows: int) -> Tensor:
        return torch.linalg.qr(self._kept(p, group, place, rows)).Q

    def _shaped(self, grad: Tensor, group: dict[str, Any]) -> Tensor:
        rows, columns = shape_of(grad)
        if rows <= group["rank"]:
            return grad / grad.norm().clamp(min=torch.finfo(grad.dtype).tiny)
        u, s, v = torch.linalg.svd(grad.view(rows, columns), full_matrices=False)
        rank = int((s[: group["rank"]] > torch.finfo(grad.dtype).eps * columns * s[0]).sum())
        return (u[:, :rank] @ v[:rank]).view(grad.shape)

    def _probe(self, loss_at: Callable[..., float], tick: int) -> tuple[list[Slope], float]:
        here = loss_at()
        return [(key, loss_at(key) - here) for key in self._draw_keys(self.directions)], here


def folded(size: int) -> tuple[int, int]:
    """Return the sides (m, n), m ≤ n, of the most nearly square matrix of so many numbers."""
    rows = next(n for n in range(math.isqrt(size), 0, -1) if size % n == 0) if size else 1
    return rows, size // rows


def shape_of(p: Tensor) -> tuple[int, int]:
    """Return the sides of a tensor as a matrix: its first dimension and the others, or those of a folded vector."""
    if p.dim() < 2:
        return folded(p.numel())
    rows = p.shape[0]
    return rows, p.numel() // rows
