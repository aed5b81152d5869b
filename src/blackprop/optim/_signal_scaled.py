"""Steps of the devices' settings, scaled by the signal in their gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from blackprop.errors import ArgumentError, CheckpointError
from blackprop.nn._diagnostics import SignalMeter, among_digital
from blackprop.nn._layer import PhysicalLayer
from blackprop.optim._wrapping import WrappingOptimizer

SAMPLE = 2**14  # digital gradients that the reference is measured on
COHERENT = 19  # gradients that a momentum of 0.9 averages, (1 + β)/(1 − β)
WORTHWHILE = 0.1  # a shorter step is skipped: 99 % of its power would be noise
LEAST = 0.01  # lower bound of the share of signal in the digital gradients


class SignalScaled(WrappingOptimizer):
    """Wraps an optimizer and scales its steps of θ by the signal in them: `θ ← θ_old + w (θ_new − θ_old)`.

    Adam and similar optimizers divide by the gradient's magnitude and so move θ as far on noise as on signal. The
    device wanders, and the digital layers around it lose more by that than its training gains. Here

    `w = √(n s / (1 + (n − 1) s))`

    with s the part of the power of one θ-gradient that is not noise of the device. It is at most `1/(1 + v)`, v the
    declared `relative_variance` of the layer's estimator, 0 for one that knows the device. It is also at most `(ρ_θ + 2
    errors)/ρ_digital`, ρ the share of signal (`SignalMeter`) measured in the gradients of the device and of all other
    parameters. The latter are exact except for the sampling of batches, and so separate that effect. A momentum of 0.9
    averages n = 19 gradients. w is then the cosine of the averaged gradient to the noise-free one, and the best length
    of a step along a direction of that accuracy. A step with w below 0.1, of which 99 % would be noise, is skipped.

    If devices hold nearly all parameters, with less than a tenth as many digital ones beside them, their steps are not
    scaled (w = 1): their wandering costs little there, and their training is everything.

    An estimator that knows its `cosine` to the true gradient, as `DirectionalMemory` does, supplies it in every case:
    the part that it lacks is the same from step to step, and averaging cannot remove it.

    Makes no queries. With accumulated gradients ρ_θ is that of one backward pass, and w slightly too small. Errors that
    are the same at every step (a wrong twin) do not count as noise.

    **Arguments:**

    - `optimizer`: over the parameters of `model`.
    - `model`: its physical layers are scaled.

    Schedulers, `GradScaler`, closures and `state_dict` treat it like the inner optimizer.

    **Raises** `ArgumentError` if the optimizer has the θ of none of the layers, or is scaled already.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
        if isinstance(optimizer, SignalScaled):
            raise ArgumentError("`SignalScaled(optimizer=...)`: that one is scaled by its signal already")
        super().__init__(optimizer)
        layers = {id(m.theta): m for m in model.modules() if isinstance(m, PhysicalLayer)}
        held = [p for group in optimizer.param_groups for p in group["params"]]
        self.layers: list[PhysicalLayer] = [layers[id(p)] for p in held if id(p) in layers]
        self.digital: list[nn.Parameter] = [p for p in model.parameters() if p.requires_grad and id(p) not in layers]
        if not self.layers:
            raise ArgumentError("`SignalScaled(model=...)`: the optimizer holds the theta of none of its layers")
        digital = sum(p.numel() for p in self.digital)
        self._stride = max(1, digital // SAMPLE)
        like = self.layers[0].theta
        self._reference = SignalMeter(len(self._sample())).to(like.device, like.dtype)
        self._among_digital = among_digital(sum(layer.theta.numel() for layer in self.layers), digital)
        self.weights: list[float] = [1.0] * len(self.layers)
        """The w of the latest step, for each θ."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Make the inner optimizer's step, with that of θ scaled."""
        before = [layer.theta.detach().clone() for layer in self.layers]
        loss = self.inner.step() if closure is None else self.inner.step(closure)
        self._reference.add(self._sample())
        for index, (layer, old) in enumerate(zip(self.layers, before, strict=True)):
            if (chosen := layer.estimator.advance(old, layer.theta, self._rate(layer))) is not layer.theta:
                layer.theta.copy_(chosen)
            self.weights[index] = weight = self._weight(layer)
            if weight < 1:
                layer.theta.lerp_(old, 1 - weight)
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the inner optimizer's state and the measurements of the digital gradients.

        Those of the devices are in their layers' states.
        """
        return {**super().state_dict(), "signal": self._reference.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        inner = dict(state_dict)
        try:
            self._reference.load_state_dict(inner.pop("signal"))
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"this is not the state of a `SignalScaled` of these parameters: {error}") from error
        super().load_state_dict(inner)

    def _rate(self, layer: PhysicalLayer) -> float:
        """The learning rate of a device's parameters."""
        return next(group["lr"] for group in self.param_groups if any(p is layer.theta for p in group["params"]))

    def _weight(self, layer: PhysicalLayer) -> float:
        """Return the w of one device."""
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
        """Return about `SAMPLE` of the digital gradients: the first entries of each parameter."""
        theta = self.layers[0].theta
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.digital]
        parts = [grad.flatten()[: -(-grad.numel() // self._stride)].to(theta) for grad in grads]
        return torch.cat([theta.new_zeros(0), *parts])
