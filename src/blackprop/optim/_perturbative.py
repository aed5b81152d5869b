"""Perturbative gradient training: sparse integer perturbations of all parameters, two forward passes a direction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from blackprop.errors import ArgumentError
from blackprop.optim._base import ForwardOnly, Slope
from blackprop.optim._displacement import Place


class PerturbativeGradient(ForwardOnly):
    """Differences along M sparse integer perturbations u_m, entries uniform in {−r … r} and kept with probability q,

    `ĝ = (1/M) Σ_m u_m (L(θ + δ u_m) − L(θ − δ u_m)) / (2 δ s)`, `s = E u² = q r (r + 1)/3`,

    and `θ ← θ − lr ĝ`. Trains any model with a loss, including models without autograd.

    Mean: the gradient, within O(δ²); one-sided, against L(θ), within O(δ). Relative variance `(P − 2 + κ)/M`, `κ = E
    u⁴/s² = 3 (3r² + 3r − 1)/(5 q r (r + 1))`: P dominates, and sparseness matters only if few entries remain, q ≈ 1/P.
    On the bowl ½|θ|² a step multiplies the mean of |θ|² by `(1 − lr)² + lr² (P − 2 + κ)/M`, least at `lr = M/(M + P − 2
    + κ)`, about P/M steps for a factor of e.

    **Costs** 2M forward passes a step, `one_sided` M + 1, and a copy of the parameters during each.

    **Arguments:**

    - `params`: as in any torch optimizer; `lr`, `delta`, `levels` and `keep` may differ from group to group.
    - `lr`: the rate.
    - `delta` (units of θ, default 0.01): δ.
    - `levels` (default 1): r.
    - `keep` (default 0.5): q.
    - `directions` (default 1): M.
    - `one_sided` (default False): differences against L(θ).
    - `in_place` (default False): restore the parameters by subtraction, within rounding, instead of from a copy.
    - `momentum` (default 0): as in `torch.optim.SGD`; or `betas` (default None): as in `torch.optim.Adam`.
    - `generator` (default: seeded once, here, from torch's global stream).
    - `model` (default None): its devices' limits are kept.

    Source: arXiv 2506.04523, which updates along u without the division by s: its rate is ours divided by s.
    Perturbations regenerated from a seed: arXiv 2305.17333.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        delta: float = 1e-2,
        levels: int = 1,
        keep: float = 0.5,
        directions: int = 1,
        *,
        one_sided: bool = False,
        in_place: bool = False,
        momentum: float = 0.0,
        betas: tuple[float, float] | None = None,
        generator: torch.Generator | None = None,
        model: nn.Module | None = None,
    ) -> None:
        if directions < 1:
            raise ArgumentError(f"`PerturbativeGradient(directions=...)` must be at least 1, got {directions}")
        self.directions = directions
        self.one_sided = one_sided
        self.in_place = in_place
        options = {"lr": lr, "delta": delta, "levels": levels, "keep": keep, "momentum": momentum, "betas": betas}
        super().__init__(params, options, generator, model)

    @property
    def passes(self) -> int:
        return self.directions + 1 if self.one_sided else 2 * self.directions

    @property
    def bias_order(self) -> int:
        return 1 if self.one_sided else 2

    def relative_variance(self, size: int) -> float:
        group = self.param_groups[0]
        r = group["levels"]
        kurtosis = 3 * (3 * r * r + 3 * r - 1) / (5 * group["keep"] * r * (r + 1))
        return (size - 2 + kurtosis) / self.directions

    def _direction(self, p: Tensor, group: dict[str, Any], place: Place) -> Tensor:
        """Draw one uniform number for each entry: below `keep` it selects one of 2r + 1 levels, above it the entry is
        0.
        """
        r = group["levels"]
        u = torch.rand(p.shape, generator=place.source(p.device), device=p.device)
        u.mul_((2 * r + 1) / group["keep"]).floor_().sub_(r)
        return u.mul_(u <= r).to(p.dtype)

    def _second_moment(self, group: dict[str, Any]) -> float:
        return group["keep"] * group["levels"] * (group["levels"] + 1) / 3

    def _probe(self, loss_at: Callable[..., float], tick: int) -> tuple[list[Slope], float]:
        keys = self._draw_keys(self.directions)
        if self.one_sided:
            loss = loss_at()
            return [(key, loss_at(key) - loss) for key in keys], loss
        ends = [(loss_at(key), loss_at(key, -1.0)) for key in keys]
        slopes = [(key, (above - below) / 2) for key, (above, below) in zip(keys, ends, strict=True)]
        return slopes, sum(above + below for above, below in ends) / (2 * len(ends))

    def _reach(self, group: dict[str, Any]) -> float:
        return group["delta"] * group["levels"]

    def _check_group(self, group: dict[str, Any]) -> None:
        super()._check_group(group)
        levels, keep = group["levels"], group["keep"]
        if not isinstance(levels, int) or levels < 1:
            raise ArgumentError(f"`PerturbativeGradient(levels=...)` must be a whole number from 1, got {levels}")
        if not 0 < keep <= 1:
            raise ArgumentError(f"`PerturbativeGradient(keep=...)` must be in (0, 1], got {keep}")
