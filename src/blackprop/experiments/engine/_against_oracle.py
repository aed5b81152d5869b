"""Compare the gradients of one training step with the oracle's, for diagnosis only: no queries, simulators only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blackprop import estimators, surrogates
from blackprop.core._procedure import run
from blackprop.core._query import Query
from blackprop.nn._layer import PhysicalLayer


@dataclass
class Step:
    """The tensors of a forward and a backward pass through one layer."""

    layer: PhysicalLayer
    x: Tensor = field(default_factory=lambda: torch.zeros(0))
    theta: Tensor = field(default_factory=lambda: torch.zeros(0))
    grad_y: Tensor | None = None  # of the device's readings
    grad_x: Tensor | None = None

    def keep(self, layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        """Record the tensors of a pass; registered as a forward hook."""
        del layer
        self.x = args[0].detach().to(self.layer.theta.dtype)  # autocast may have changed the dtype
        self.theta = self.layer.device.theta.clamp(self.layer.theta.detach()).clone()
        gain = self.layer.gain.detach().clone()
        output.register_hook(lambda grad: setattr(self, "grad_y", gain * grad))
        if args[0].requires_grad:
            args[0].register_hook(lambda grad: setattr(self, "grad_x", grad))

    def cosines(self) -> dict[str, float | None]:
        """Return the cosines between the gradients and the oracle's, for θ and for the input. None if not needed."""
        grad_theta = self.layer.theta.grad
        if self.layer.device.declaration.oracle is None or self.grad_y is None:
            return {"oracle_cosine": None, "oracle_cosine_x": None}
        return {
            "oracle_cosine": None if grad_theta is None else _cosine(grad_theta, self._true_theta(self.grad_y)),
            "oracle_cosine_x": None if self.grad_x is None else _cosine(self.grad_x, self._true_x(self.grad_y)),
        }

    def _true_theta(self, grad_y: Tensor) -> Tensor:
        spec, generator = self.layer.device.declaration, torch.Generator()  # never drawn from
        return run(estimators.Oracle().grad_theta(self.x, self.theta, grad_y, grad_y, spec, generator), _asks_nothing)

    def _true_x(self, grad_y: Tensor) -> Tensor:
        truth = surrogates.Oracle()
        truth.bind(self.layer.device.declaration)
        run(truth.start(self.theta, torch.Generator()), _asks_nothing)
        return truth.grad_x(self.x, grad_y)


@contextmanager
def seen(model: nn.Module) -> Iterator[dict[str, Step]]:
    """Record each physical layer's tensors in the step made inside. Compare before the optimizer changes θ."""
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, PhysicalLayer)}
    steps = {name: Step(layer) for name, layer in layers.items()}
    hooks: list[Any] = [step.layer.register_forward_hook(step.keep) for step in steps.values()]
    try:
        yield steps
    finally:
        for hook in hooks:
            hook.remove()


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(F.cosine_similarity(a.flatten().double(), b.flatten().double(), dim=0))


def _asks_nothing(queries: Sequence[Query]) -> list[Tensor]:
    raise AssertionError(f"an oracle made {len(queries)} queries")
