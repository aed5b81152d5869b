"""The base class of estimators: the gradient for the device's parameters, from queries alone."""

from __future__ import annotations

import abc
from dataclasses import dataclass

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._procedure import Procedure
from blackprop.errors import ArgumentError


class Estimator(abc.ABC):
    """Computes `∂L/∂θ = Σ_b (∂f(x_b; θ)/∂θ)ᵀ ∂L/∂y_b` from queries.

    Subclasses are frozen dataclasses. They yield queries and receive readings; they see the declaration of the device,
    and never the device. `bp.testing.check_estimator` tests the declared `bias_order` and `relative_variance`.
    """

    @property
    @abc.abstractmethod
    def bias_order(self) -> int | None:
        """The order q of a bias that is O(step^q); None for an estimator without bias, except rounding."""

    def relative_variance(self, size: int) -> float:
        """Return `E|ĝ − E ĝ|² / |g|²` for P = `size` parameters on a noise-free device.

        By default 0, for an estimator that draws no random number.
        """
        del size
        return 0.0

    def lasting_error(self, spec: Declaration) -> float:
        """Return the largest error in the gradient of a row, relative to it, that no step and no repetition removes.

        By default 0. It comes from a property that the device has in part only, and declares so.
        """
        del spec
        return 0.0

    def kept(self, x: Tensor, grad_y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows (k, *in_shape) and cotangents (k, *out_shape) whose gradient the estimate has as its mean.

        By default the batch. An estimator that compresses the batch returns the part that it keeps: the gradient of
        the rest is its bias.
        """
        return x, grad_y

    def trained(self, spec: Declaration) -> Tensor | None:
        """Return a mask (P,) of the parameters whose gradient is computed; that of the others is 0. None for all.

        By default None.
        """
        del spec
        return None

    @property
    def reads(self) -> object | None:
        """The surrogate that this estimator reads, which must be the layer's; None for most estimators."""
        return None

    @property
    def cosine(self) -> float | None:
        """The cosine of the latest estimate to the true gradient, if the estimator knows it; otherwise None."""
        return None

    def check(self, spec: Declaration) -> None:
        """Raise `IncompatibleError` if this estimator cannot serve the device."""
        del spec

    def bind(self, spec: Declaration) -> None:
        """Bind to a device: check it, and make the buffers of an estimator with memory."""
        self.check(spec)

    def advance(self, old: Tensor, new: Tensor, rate: float) -> Tensor:
        """Return θ (P,) to go to after an optimizer's step from `old` to `new` at this learning rate; by default `new`.

        `bp.optim.SignalScaled` asks once a step. An estimator that knows where its gradient holds may choose another
        step.
        """
        del old, rate
        return new

    def diagnosis(self) -> dict[str, float]:
        """Return the estimator's own quality measures by name, for `bp.diagnose`; empty by default."""
        return {}

    @abc.abstractmethod
    def grad_theta(
        self,
        x: Tensor,  # (B, *in_shape)
        theta: Tensor,  # (P,)
        y: Tensor,  # (B, *out_shape): the rows as the forward pass read them at theta
        grad_y: Tensor,  # (B, *out_shape)
        spec: Declaration,
        generator: torch.Generator,
    ) -> Procedure[Tensor]:  # (P,)
        """Return the procedure that computes `∂L/∂θ` (P,).

        **Arguments:**

        - `x` (B, *in_shape): the rows of the batch.
        - `theta` (P,): the setting.
        - `y` (B, *out_shape): the readings of `x` at `theta`, from the forward pass.
        - `grad_y` (B, *out_shape): `∂L/∂y`.
        - `spec`: the declaration of the device.
        - `generator`: the only source of random numbers.
        """


@dataclass(frozen=True)
class Nudged(Estimator):
    """The common part of estimators that compare the device under a nudge of the size `step` with it under another.

    The bias is O(step²) where the nudges are `centred`, and O(step) where one of them is 0.
    """

    step: float = 1.0
    centred: bool = True

    def __post_init__(self) -> None:
        positive_step(self, self.step)

    @property
    def bias_order(self) -> int | None:
        return 2 if self.centred else 1


def positive_step(owner: object, step: float) -> None:
    """Raise `ArgumentError` unless the step is positive and finite."""
    if not 0 < step < float("inf"):
        raise ArgumentError(f"`{type(owner).__name__}(step=...)` must be positive and finite, got {step}")
