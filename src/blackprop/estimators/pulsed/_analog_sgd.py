"""Stochastic gradient descent by pulses, in place."""

from __future__ import annotations

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._procedure import Procedure
from blackprop.estimators.pulsed._base import PulsedUpdate


class AnalogSGD(PulsedUpdate):
    """`W ← W − α Σ_b g_b x_bᵀ` by pulses on the main tile, which is the last.

    **Errors.** With steps of different size up and down it does not minimise f but `f + ⟨E|∇f|, ∫ G/F⟩`, F and G the
    symmetric and the asymmetric part of the step: noise in the gradient drags the weights to the symmetric point. For a
    quadratic with its minimum at b, and soft bounds ±τ, it stops at `b/(1 + E|∇f|/τ)`.

    **Costs** at most `B · longest` pulses a step, and no row.

    Source: Gokmen and Vlasov, Front. Neurosci. 10, 333 (2016); the error: Wu et al., arXiv 2406.12774.
    """

    def _update(
        self, x: Tensor, grad_y: Tensor, rate: float, theta: Tensor, spec: Declaration, generator: torch.Generator
    ) -> Procedure[None]:
        del generator
        yield [self._descend(len(theta) - 1, x, rate * theta[-1] * grad_y, theta, spec)]
