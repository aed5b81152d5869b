"""Steps of pulsed devices, beside the steps of an ordinary optimizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from blackprop.errors import ArgumentError
from blackprop.estimators.pulsed._base import PulsedUpdate
from blackprop.nn._layer import PhysicalLayer
from blackprop.optim._wrapping import WrappingOptimizer

Part = tuple[
    Tensor, Tensor, Tensor
]  # rows (B, d_in), cotangents (B, d_out), and the gradient for θ that came from them
APART = 1e-3  # largest part of the gradient of θ that is not a factor of the one that the layer gave


@dataclass(eq=False)
class Gathered:
    """The parts of the present gradient of one layer, and the tensor that holds their gradient for θ."""

    layer: PhysicalLayer
    method: PulsedUpdate
    parts: list[Part] = field(default_factory=list)
    grad: Tensor | None = None

    def accumulated(self, theta: Tensor) -> None:
        """Take the parts of a backward pass; those before it are dropped if the gradient was set to zero since."""
        new, self.method.kept = self.method.kept, []
        grad = theta.grad
        fresh = grad is None or grad is not self.grad or (bool(new) and torch.equal(_total(new), grad))
        self.parts = new if fresh else self.parts + new
        self.grad, self.method.waiting = grad, bool(self.parts)

    def factor(self) -> float:
        """The factor by which clipping or a loss scaler scaled the gradient of θ after the backward pass."""
        grad, total = self.layer.theta.grad, _total(self.parts)
        assert grad is not None
        size = float(total.square().sum())
        if not size:
            return 1.0
        found = float((grad * total).sum()) / size
        if float((grad - found * total).norm()) > APART * float(grad.norm()) + 1e-30:
            raise ArgumentError(
                "the gradient of θ of a pulsed device was changed other than by a factor, which pulses cannot follow: "
                "add penalties to the loss, and noise to the method"
            )
        return found


class Pulsed(WrappingOptimizer):
    """Wraps an optimizer: its step moves the digital parameters, and sends the pulses of the model's pulsed devices.

    The devices are those whose estimator is a method of `estimators.pulsed`. Their learning rate is that of the group
    of θ, so schedulers act on it; `bp.param_groups(model, lr, device_lr)` makes such groups. θ, the gains of the tiles,
    stays. A gradient that was scaled after the backward pass (`clip_grad_norm_`, `GradScaler`) scales the pulses alike,
    and gradients of several backward passes are added up, as usual. Pulses are counted in the ledger of the layer and
    limited by its budget.

    Without `Pulsed` the cells of a device do not move, and the layer warns.

    - `optimizer`: over the parameters of `model`, the θ of its pulsed devices among them.
    - `model`: contains the layers.

    Schedulers, `GradScaler`, closures and `state_dict` treat it like the inner optimizer. The state of methods and of
    devices is in the `state_dict` of the model.

    **Raises** `ArgumentError` if the model has no pulsed device, and if the optimizer lacks the θ of one.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
        super().__init__(optimizer)
        layers = [m for m in model.modules() if isinstance(m, PhysicalLayer)]
        self.gathered: list[Gathered] = [
            Gathered(m, m.estimator) for m in layers if isinstance(m.estimator, PulsedUpdate)
        ]
        if not self.gathered:
            raise ArgumentError(
                "`Pulsed(model=...)` has no layer that is trained by pulses: give a `PhysicalLayer` around a device "
                "with the capability `pulse` a method of `estimators.pulsed`"
            )
        held = {id(p) for group in self.param_groups for p in group["params"]}
        if len({id(each.layer.theta) for each in self.gathered}) < len(self.gathered):
            raise ArgumentError("`Pulsed(model=...)`: two layers share one θ; give each layer its own device and θ")
        for each in self.gathered:
            if id(each.layer.theta) not in held:
                raise ArgumentError(
                    f"`Pulsed(optimizer=...)` lacks the θ of {each.layer.device}, whose group gives the learning rate: "
                    "make it over `bp.param_groups(model, lr, device_lr)`"
                )
            each.method.attached = True
            each.method.kept = []
            each.layer.theta.register_post_accumulate_grad_hook(each.accumulated)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Send the pulses of all devices, and make the inner optimizer's step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for each in self.gathered:
            parts, each.parts = each.parts, []
            layer, grad = each.layer, each.layer.theta.grad
            if grad is None or not parts or not layer.theta.requires_grad:
                continue
            each.parts = parts
            factor = each.factor()
            each.parts = []
            layer.theta.grad = None
            if factor:
                self._send(each, torch.cat([x for x, _, _ in parts]), factor * torch.cat([g for _, g, _ in parts]))
        for each in self.gathered:
            each.layer.theta.grad = None  # the gains stay
            each.method.waiting = False
        self.inner.step()
        return loss

    def _send(self, each: Gathered, x: Tensor, grad_y: Tensor) -> None:
        layer, rate = each.layer, self._rate(each.layer)
        if rate:
            theta = layer.device.theta.clamp(layer.theta.detach().clone())
            generator = layer.generator
            layer._run(each.method.update(x, grad_y, rate, theta, layer.device.declaration, generator))
            layer.answers.x = None  # its cells have moved, so that old readings do not describe the device

    def _rate(self, layer: PhysicalLayer) -> float:
        rate = float(next(g["lr"] for g in self.param_groups if any(p is layer.theta for p in g["params"])))
        if not rate >= 0:
            raise ArgumentError(f"the learning rate of a pulsed device must not be negative, got {rate}")
        return rate

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none)
        for each in self.gathered:
            each.parts, each.grad, each.method.kept, each.method.waiting = [], None, [], False


def _total(parts: list[Part]) -> Tensor:
    return torch.stack([grad for _, _, grad in parts]).sum(0)
