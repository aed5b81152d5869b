"""Methods that train a network and its devices from the losses of forward passes."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from blackprop.devices import Device
from blackprop.errors import IncompatibleError
from blackprop.experiments.methods._methods import TrainingMethod
from blackprop.experiments.methods._rule import Backward, Batch, GradientRule
from blackprop.nn._layer import PhysicalLayer
from blackprop.optim import SPSA, ForwardOnly, HomodyneGradient, MultiplexedGradientDescent, PerturbativeGradient

UNUSED = 1.0  # the rate of an optimizer that only estimates gradients


class FromLosses:
    """Compute gradients of the parameters of `optimizer` by its estimate."""

    through_devices = False

    def __init__(self, optimizer: ForwardOnly) -> None:
        self.optimizer = optimizer

    def add_gradients(self, batch: Batch, backward: Backward) -> float:
        del backward
        seen: list[Tensor] = []

        def asked() -> Tensor:
            seen.append(batch.loss().detach())
            return seen[-1]

        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        for p, grad in zip(parameters, self.optimizer.estimate(asked), strict=True):
            p.grad = grad if p.grad is None else p.grad + grad
        self.optimizer.steps += self.optimizer.integration
        return float(torch.stack(seen).mean())

    def passes(self) -> int:
        return self.optimizer.passes * self.optimizer.integration

    def state_dict(self) -> dict[str, Any]:
        return self.optimizer.state_dict()["perturbations"]

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "perturbations": dict(state)})


class MixedGradients:
    """Compute gradients of the parameters before and in the devices from losses, and of those behind them by
    backpropagation, which takes one more pass.
    """

    through_devices = False

    def __init__(self, before: FromLosses) -> None:
        self.before = before

    def add_gradients(self, batch: Batch, backward: Backward) -> float:
        self.before.add_gradients(batch, backward)
        with self.before.optimizer.hidden():
            value = batch.loss()
            backward(value)
        return value.item()

    def passes(self) -> int:
        return self.before.passes() + 1

    def state_dict(self) -> dict[str, Any]:
        return self.before.state_dict()

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        self.before.load_state_dict(state)


class ByLoss(TrainingMethod):
    """Train all parameters, digital ones and θ, from the loss at displaced parameters, without backpropagation."""

    signal_scaled: ClassVar[bool] = False

    def layer(self, device: Device, generator: torch.Generator) -> PhysicalLayer:
        return PhysicalLayer(device, generator=generator)

    def rule(self, model: nn.Module, generator: torch.Generator) -> GradientRule:
        return FromLosses(self.estimating(model, list(model.parameters()), generator))

    @abc.abstractmethod
    def estimating(self, model: nn.Module, parameters: list[nn.Parameter], generator: torch.Generator) -> ForwardOnly:
        """Return the optimizer that estimates the gradients of these `parameters` of the model."""


@dataclass(frozen=True)
class Perturbative(ByLoss):
    """`optim.PerturbativeGradient`: sparse integer perturbations of all parameters, `2 directions` passes a step.

    - `directions` (default 1): M, perturbations a step.
    - `delta` (units of θ, default 0.01): the size of a perturbation.
    - `levels` (default 1): entries are integers up to this value.
    - `keep` (default 0.5): the probability that an entry is kept.
    - `name` (default "perturbative").
    """

    directions: int = 1
    delta: float = 1e-2
    levels: int = 1
    keep: float = 0.5
    name: str = "perturbative"

    def estimating(self, model: nn.Module, parameters: list[nn.Parameter], generator: torch.Generator) -> ForwardOnly:
        how = {"delta": self.delta, "levels": self.levels, "keep": self.keep, "directions": self.directions}
        return PerturbativeGradient(parameters, UNUSED, **how, generator=generator, model=model)


@dataclass(frozen=True)
class Mixed(Perturbative):
    """Sparse integer perturbations of the parameters before and in the devices, and backpropagation through the digital
    layers behind them: `2 directions + 1` passes a step, and far fewer perturbed parameters.
    """

    name: str = "mixed"

    def rule(self, model: nn.Module, generator: torch.Generator) -> GradientRule:
        after = {id(p) for p in behind(model)}
        before = [p for p in model.parameters() if id(p) not in after]
        return MixedGradients(FromLosses(self.estimating(model, before, generator)))


@dataclass(frozen=True)
class Multiplexed(ByLoss):
    """Random signs for all parameters, against a baseline for each batch: `perturbations + 1` passes a step."""

    perturbations: int = 1
    delta: float = 1e-2
    name: str = "multiplexed"

    def estimating(self, model: nn.Module, parameters: list[nn.Parameter], generator: torch.Generator) -> ForwardOnly:
        how = {"delta": self.delta, "perturbations": self.perturbations, "integration": 1}
        return MultiplexedGradientDescent(parameters, UNUSED, **how, generator=generator, model=model)


@dataclass(frozen=True)
class Homodyne(ByLoss):
    """A sinusoid for each parameter, detected by lock-in: four passes a parameter, for small networks."""

    delta: float = 1e-2
    name: str = "homodyne"

    def estimating(self, model: nn.Module, parameters: list[nn.Parameter], generator: torch.Generator) -> ForwardOnly:
        del generator  # the method is deterministic
        return HomodyneGradient(parameters, UNUSED, self.delta, model=model)


@dataclass(frozen=True)
class Spsa(ByLoss):
    """SPSA: random signs for all parameters, two passes a step, with the standard decay of the perturbation."""

    delta: float = 1e-2
    name: str = "spsa"

    def estimating(self, model: nn.Module, parameters: list[nn.Parameter], generator: torch.Generator) -> ForwardOnly:
        return SPSA(parameters, UNUSED, self.delta, generator=generator, model=model)


@runtime_checkable
class TellsBehind(Protocol):
    """A network that tells which of its parameters lie behind its devices."""

    def behind(self) -> list[nn.Parameter]: ...


def behind(model: nn.Module) -> list[nn.Parameter]:
    """Return the digital parameters behind the last device, for which autograd gives the exact gradient of a loss.

    A network tells them by `behind()`. In a chain of modules, they follow from the order.
    """
    if isinstance(model, TellsBehind):
        return model.behind()
    if not isinstance(model, nn.Sequential):
        raise IncompatibleError(
            f"the parameters behind the devices of a {type(model).__name__} are unknown, so it cannot be trained by a "
            "mixed method; use an `nn.Sequential` or a network with a method `behind`"
        )
    modules = list(model)
    devices = [[m for m in module.modules() if isinstance(m, PhysicalLayer)] for module in modules]
    last = max((i for i, found in enumerate(devices) if found), default=None)
    if last is None:
        return [p for module in modules for p in module.parameters()]
    own = [p for layer in devices[last] for p in (layer.gain, layer.bias) if p is not None]
    return [*own, *(p for module in modules[last + 1 :] for p in module.parameters())]
