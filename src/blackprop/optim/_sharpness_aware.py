"""Steps against the worst neighbour: flat minima, which errors of a copy harm little."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from blackprop.errors import ArgumentError
from blackprop.nn._layer import PhysicalLayer
from blackprop.optim._wrapping import WrappingOptimizer


class SharpnessAware(WrappingOptimizer):
    """Wraps an optimizer: each step uses the gradients at `θ + ρ g/|g|`, g = ∂L/∂θ of all devices together.

    This descends `max over |e| < ρ of L(θ + e)`, to first order, in the settings of the devices; digital parameters are
    not displaced. A minimum that it finds is flat, so that another chip, whose errors act as displacements of θ, loses
    less. Each layer supplies g by its own method, so that training in place works too.

    **Costs** two forward and backward passes a step, the second at a setting of its own: twice the rows of a step and
    one programming more.

    **Arguments:**

    - `optimizer`: over the parameters of `model`.
    - `model`: its physical layers are displaced.
    - `radius` (units of θ, default 0.3): ρ, the length of the displacement of all settings together. It acts in the
      worst direction: errors of σ in each of P settings are σ √P long and do less harm than a displacement of a fifth
      of that.

    `step` needs a closure, which clears the gradients, evaluates the loss and its gradients, and returns it; the loss
    at θ is returned. Where all g are zero, the step is the inner optimizer's. Schedulers and `state_dict` treat it like
    the inner one.

    **Raises** `ArgumentError` if the optimizer has the θ of none of the layers.

    **Source:** Foret et al., arXiv 2010.01412, for control parameters Nat. Commun. 2026, s41467-026-68470-9.

    >>> import torch, blackprop as bp
    >>> layer = bp.PhysicalLayer(bp.devices.Microring(8, 4))
    >>> optimizer = bp.optim.SharpnessAware(torch.optim.Adam(layer.parameters()), layer, radius=0.1)
    >>> def closure():
    ...     optimizer.zero_grad()
    ...     loss = layer(torch.ones(2, 8)).square().mean()
    ...     loss.backward()
    ...     return loss
    >>> loss = optimizer.step(closure)
    """

    def __init__(self, optimizer: torch.optim.Optimizer, model: nn.Module, radius: float = 0.3) -> None:
        super().__init__(optimizer)
        if not 0 < radius < math.inf:
            raise ArgumentError(f"`SharpnessAware(radius=...)` must be positive and finite, got {radius}")
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        thetas = {id(m.theta): m.theta for m in model.modules() if isinstance(m, PhysicalLayer)}
        self.radius: float = radius
        self.thetas: list[Tensor] = [theta for key, theta in thetas.items() if key in held]
        if not self.thetas:
            raise ArgumentError("`SharpnessAware(model=...)`: the optimizer holds the theta of none of its layers")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Evaluate the closure at θ and at the displaced setting, and make the inner optimizer's step from θ."""
        if closure is None:
            raise ArgumentError("`SharpnessAware.step(closure)` needs a closure, since it evaluates the loss twice")
        with torch.enable_grad():
            loss = closure()
        moved = [theta for theta in self.thetas if theta.grad is not None]
        grads = [theta.grad.clone() for theta in moved if theta.grad is not None]
        length = math.sqrt(sum(float(grad.square().sum()) for grad in grads))
        if 0 < length < math.inf:
            before = [theta.clone() for theta in moved]
            try:
                for theta, grad in zip(moved, grads, strict=True):
                    theta.add_(grad, alpha=self.radius / length)
                with torch.enable_grad():
                    closure()
            finally:
                for theta, old in zip(moved, before, strict=True):
                    theta.copy_(old)
        self.inner.step()
        return loss
