"""What an estimator owes: the gradient for the device's parameters, from queries alone."""

from __future__ import annotations

import abc

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._procedure import Procedure
from blackprop.errors import ArgumentError


class Estimator(abc.ABC):
    """A way to find `∂L/∂θ = Σ_b (∂f(x_b; θ)/∂θ)ᵀ ∂L/∂y_b` by asking the device.

    Subclasses are frozen dataclasses. They yield queries and are sent readings; they never see the device, only its
    declaration. What they declare of themselves, `bias_order` and `relative_variance`, `bp.testing.check_estimator`
    holds them to.
    """

    @property
    @abc.abstractmethod
    def bias_order(self) -> int | None:
        """The order q of a bias that is O(step^q), None where there is none but rounding."""

    @abc.abstractmethod
    def relative_variance(self, size: int) -> float:
        """`E|ĝ − E ĝ|² / |g|²` for P = `size` parameters on a noise-free device; 0 for a deterministic estimator."""

    @property
    def reads(self) -> object | None:
        """The surrogate whose knowledge this estimator uses, which must then be the layer's; None for most."""
        return None

    @property
    def cosine(self) -> float | None:
        """The cosine to the true gradient that it knows its latest one to have; None where it cannot tell."""
        return None

    def check(self, spec: Declaration) -> None:
        """Raise `IncompatibleError` where this estimator cannot serve the device."""
        del spec

    def bind(self, spec: Declaration) -> None:
        """Take on a device: refuse one that cannot be served. One that remembers makes its buffers here."""
        self.check(spec)

    def diagnosis(self) -> dict[str, float]:
        """What it knows of how well it does, by name, for `bp.diagnose`; nothing where it knows nothing."""
        return {}

    @abc.abstractmethod
    def vjp(
        self,
        x: Tensor,  # (B, *in_shape)
        theta: Tensor,  # (P,)
        y: Tensor,  # (B, *out_shape): the rows as the forward pass read them at theta
        grad_y: Tensor,  # (B, *out_shape)
        spec: Declaration,
        generator: torch.Generator,
    ) -> Procedure[Tensor]:  # (P,)
        """The procedure that returns `∂L/∂θ`."""


def positive_step(owner: object, step: float) -> None:
    """Refuse a step that no difference can be divided by."""
    if not 0 < step < float("inf"):
        raise ArgumentError(f"`{type(owner).__name__}(step=...)` must be positive and finite, got {step}")
