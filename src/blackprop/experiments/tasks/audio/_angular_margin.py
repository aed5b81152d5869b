"""Classification by angles, with a margin for the correct class."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from blackprop.errors import ArgumentError
from blackprop.experiments.tasks._objectives import Objective, confusion, macro_f1


@dataclass(frozen=True)
class AngularMargin(Objective):
    """Additive angular margin: cross-entropy of `scale · cos(θ_c + margin · [c = y])` for cosines `cos θ_c` `(B, C)`
    and class numbers. If `θ_y + margin` exceeds π, where the cosine would rise again, `cos θ_y − margin sin(margin)`.

    The scores are those of `Classification`, by the largest cosine. Source: Deng et al., arXiv 1801.07698.
    """

    margin: float = 0.2
    """The margin in rad."""
    scale: float = 30.0

    metric = "accuracy"
    higher_is_better = True

    def __post_init__(self) -> None:
        if not 0 <= self.margin < math.pi / 2:
            raise ArgumentError(f"`AngularMargin(margin=...)` must be between 0 and π/2 rad, got {self.margin}")
        if not 0 < self.scale < float("inf"):
            raise ArgumentError(f"`AngularMargin(scale=...)` must be positive and finite, got {self.scale}")

    def loss(self, output: Tensor, y: Tensor) -> Tensor:
        y = y.long().unsqueeze(1)
        cosine = output.float().gather(1, y)
        # The square root has no derivative at 0, and rounding may move cosines out of [−1, 1].
        sine = (1 - cosine.square()).clamp(min=1e-12).sqrt()
        shifted = cosine * math.cos(self.margin) - sine * math.sin(self.margin)
        past = cosine < -math.cos(self.margin)
        kept = shifted.where(~past, cosine - self.margin * math.sin(self.margin))
        return F.cross_entropy(self.scale * output.float().scatter(1, y, kept), y.squeeze(1))

    def tally(self, output: Tensor, y: Tensor) -> Tensor:
        return confusion(output, y)

    def scores(self, tally: Tensor) -> dict[str, float]:
        return {"accuracy": float(tally.trace() / tally.sum()), "f1": macro_f1(tally)}
