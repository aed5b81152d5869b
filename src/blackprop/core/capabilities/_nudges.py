"""The capability of a device that settles where an energy is least, and whose energy can be tilted."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from blackprop.core.capabilities._capability import Capability


@dataclass(frozen=True)
class Nudges(Capability):
    """Rows that tilt an energy `E(θ, x, s)`, and the terms of it that each parameter sees.

    A device that settles at the state s of least energy declares an instance of a subclass. A nudged row has the shape
    of an ordinary row, and is read as one. Source: Scellier and Bengio, arXiv 1602.05179.
    """

    name: ClassVar[str] = "nudges"
    per_parameter: ClassVar[bool] = True

    @abc.abstractmethod
    def nudged(self, x: Tensor, grad_y: Tensor, step: float) -> Tensor:
        """Return the rows that add `step · ⟨∂ℓ/∂y, y⟩` to the energy."""

    @abc.abstractmethod
    def contrast(self, x: Tensor, plus: Tensor, minus: Tensor, span: float) -> Tensor:
        """`Σ_b [∂E/∂θ(plus) − ∂E/∂θ(minus)] / span` (P,) between two readings, from local quantities alone."""

    @abc.abstractmethod
    def contrast_rows(self, theta: Tensor, plus: Tensor, minus: Tensor, span: float) -> Tensor:
        """`[∂E/∂x(plus) − ∂E/∂x(minus)] / span` (B, row)."""

    def perform(self, device: Any, x: Tensor, /) -> Tensor:
        return device.read(x)
