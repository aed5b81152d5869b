"""Steps of the devices' settings that are as long as their gradient is trustworthy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from blackprop.errors import ArgumentError, CheckpointError
from blackprop.nn._diagnostics import SignalMeter, among_digital
from blackprop.nn._layer import PhysicalLayer

SAMPLE = 2**14  # digital gradients that the reference is measured on, of however many there are
COHERENT = 19  # gradients that a momentum of 0.9 averages, (1 + β)/(1 − β)
WORTHWHILE = 0.1  # a shorter step is not made: 99 % of its power would be noise
LEAST = 0.01  # share of signal that the digital gradients are taken to have at least


class SignalScaled(torch.optim.Optimizer):
    """Any optimizer, its steps of θ shortened to what is signal in them: `θ ← θ_old + w (θ_new − θ_old)`.

    Adam and its kin divide by the gradient's magnitude, so they move θ as far on noise as on signal: the device
    wanders, and the digital layers around it lose more by that than its training gains. Here

    `w = √(n s / (1 + (n − 1) s))`

    with s the part of one θ-gradient's power that is no noise of the device's: at most `1/(1 + v)`, v the
    `relative_variance` that the layer's estimator declares, which is 0 for one that knows the device; and at most
    `(ρ_θ + 2 errors)/ρ_digital`, ρ the share of signal (`SignalMeter`) measured in the gradients of the
    device and of all other parameters. The latter are exact but for the batches, and so tell what of the rest is
    due to those. n = 19 gradients is what a momentum of 0.9 averages. w is then the cosine of the averaged gradient to
    the one without noise, the length of the step that is best along a direction known only so well. A step with w
    under 0.1, of which 99 % would be noise, is not made.

    Where devices are nearly all there is to train, with less than a tenth as many digital parameters beside them, they
    are left alone (w = 1): there is little to lose by their wandering, and all to gain by their training.

    An estimator that knows its `cosine` to the true gradient, as `DirectionalMemory` does, is taken at its word, also
    where there is little beside the devices: what it lacks is the same from step to step, and no average mends it.

    Costs no query. With accumulated gradients ρ_θ is that of one backward pass, and w a little too small. What else
    an estimator gets wrong in the same way every step (a wrong twin) is no noise to it.

    **Arguments:** `optimizer`, over the parameters of `model`; `model`, whose physical layers are sought. Schedulers,
    `GradScaler`, closures and `state_dict` see this one as they would the inner one.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise ArgumentError(f"`SignalScaled(optimizer=...)` takes a torch optimizer, got {optimizer!r}")
        if isinstance(optimizer, SignalScaled):
            raise ArgumentError("`SignalScaled(optimizer=...)`: that one is scaled by its signal already")
        layers = {id(m.theta): m for m in model.modules() if isinstance(m, PhysicalLayer)}
        held = [p for group in optimizer.param_groups for p in group["params"]]
        self.inner = optimizer
        super().__init__(optimizer.param_groups, optimizer.defaults)
        self._share_state()
        self.layers = [layers[id(p)] for p in held if id(p) in layers]
        self.digital = [p for p in model.parameters() if p.requires_grad and id(p) not in layers]
        if not self.layers:
            raise ArgumentError("`SignalScaled(model=...)`: the optimizer holds the theta of none of its layers")
        digital = sum(p.numel() for p in self.digital)
        self._stride = max(1, digital // SAMPLE)
        like = self.layers[0].theta
        self._reference = SignalMeter(len(self._sample())).to(like.device, like.dtype)
        self._among_digital = among_digital(sum(layer.theta.numel() for layer in self.layers), digital)
        self.weights = [1.0] * len(self.layers)
        """The w of the latest step, for each θ."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The inner optimizer's step, that of θ shortened."""
        before = [layer.theta.detach().clone() for layer in self.layers]
        loss = self.inner.step() if closure is None else self.inner.step(closure)
        self._reference.add(self._sample())
        for index, (layer, old) in enumerate(zip(self.layers, before, strict=True)):
            self.weights[index] = weight = self._weight(layer)
            if weight < 1:
                layer.theta.lerp_(old, 1 - weight)
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.inner.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """The inner optimizer's, and what the digital parameters' share of signal is measured from; those of the
        devices are in their layers'.
        """
        return {**self.inner.state_dict(), "signal": self._reference.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        inner = dict(state_dict)
        try:
            self._reference.load_state_dict(inner.pop("signal"))
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"this is not the state of a `SignalScaled` of these parameters: {error}") from error
        self.inner.load_state_dict(inner)
        self._share_state()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if hasattr(self, "layers"):
            raise ArgumentError("`SignalScaled` takes no further parameters: add them to the optimizer it wraps, first")
        super().add_param_group(param_group)

    def _share_state(self) -> None:
        """One list of groups and one state for both, so that schedulers and scalers reach the inner optimizer."""
        self.param_groups = self.inner.param_groups
        self.state = self.inner.state

    def _weight(self, layer: PhysicalLayer) -> float:
        """The w of one device."""
        if (cosine := layer.estimator.cosine) is not None:
            return cosine
        if not self._among_digital:
            return 1.0
        share = 1 / (1 + layer.estimator.relative_variance(layer.theta.numel()))
        found, reference = layer.signal, self._reference.share
        if found.share is not None and reference is not None:
            share = min(share, max(0.0, found.share + 2 * found.error) / max(LEAST, reference))
        weight = math.sqrt(COHERENT * share / (1 + (COHERENT - 1) * share))
        return weight if weight >= WORTHWHILE else 0.0

    def _sample(self) -> Tensor:
        """About `SAMPLE` of the digital gradients: of each parameter the first so many."""
        theta = self.layers[0].theta
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.digital]
        parts = [grad.flatten()[: -(-grad.numel() // self._stride)].to(theta) for grad in grads]
        return torch.cat([theta.new_zeros(0), *parts])
