"""Methods that train a whole network, its reservoir included, from the losses of forward passes alone."""

from __future__ import annotations

import abc
from dataclasses import dataclass

import torch
from torch import nn

from blackprop.devices import Device
from blackprop.layer import PhysicalLayer
from blackprop.optim import ForwardOnly, HomodyneGradient, MultiplexedGradientDescent, PerturbativeGradient
from blackprop.recipes.methods import Method
from blackprop.substitute import param_groups

BETAS = (0.9, 0.999)  # of Adam, by which all of them scale their steps


class ByLoss(Method):
    """Trains all parameters, digital ones and θ, by asking for the loss at displaced ones. Takes no gradient."""

    def layer(self, device: Device, generator: torch.Generator) -> PhysicalLayer:
        return PhysicalLayer(device, generator=generator)

    @abc.abstractmethod
    def optimizer(self, model: nn.Module, lr: float, device_lr: float, generator: torch.Generator) -> ForwardOnly:
        """The one that trains `model`, its digital parameters at the rate `lr` and θ at `device_lr`."""


@dataclass(frozen=True)
class Perturbative(ByLoss):
    """Sparse integer perturbations of all parameters: `2 directions` passes a step."""

    directions: int = 1
    delta: float = 1e-2
    levels: int = 1
    keep: float = 0.5
    name: str = "perturbative"

    def optimizer(self, model: nn.Module, lr: float, device_lr: float, generator: torch.Generator) -> ForwardOnly:
        how = {"delta": self.delta, "levels": self.levels, "keep": self.keep, "directions": self.directions}
        return PerturbativeGradient(
            param_groups(model, lr, device_lr), lr, **how, betas=BETAS, generator=generator, model=model
        )


@dataclass(frozen=True)
class Multiplexed(ByLoss):
    """Random signs for all parameters at once, each batch with a baseline of its own: `perturbations + 1` passes."""

    perturbations: int = 1
    integration: int = 1
    delta: float = 1e-2
    name: str = "multiplexed"

    def optimizer(self, model: nn.Module, lr: float, device_lr: float, generator: torch.Generator) -> ForwardOnly:
        how = {"delta": self.delta, "perturbations": self.perturbations, "integration": self.integration}
        return MultiplexedGradientDescent(
            param_groups(model, lr, device_lr), lr, **how, betas=BETAS, generator=generator, model=model
        )


@dataclass(frozen=True)
class Homodyne(ByLoss):
    """A sinusoid for each parameter, found again by lock-in: four passes a parameter, for small networks."""

    delta: float = 1e-2
    name: str = "homodyne"

    def optimizer(self, model: nn.Module, lr: float, device_lr: float, generator: torch.Generator) -> ForwardOnly:
        del generator  # nothing in it is random
        return HomodyneGradient(param_groups(model, lr, device_lr), lr, self.delta, betas=BETAS, model=model)
