"""Methods that train a network, its reservoir included, from the losses of forward passes."""

from __future__ import annotations

import abc
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import Adam

from blackprop.devices import Device
from blackprop.layer import PhysicalLayer
from blackprop.optim import ForwardOnly, HomodyneGradient, MultiplexedGradientDescent, PerturbativeGradient
from blackprop.recipes.methods import Method
from blackprop.recipes.reservoir.networks import Network
from blackprop.recipes.reservoir.trainers import Backpropagation, Both, FromLosses, Trainer
from blackprop.substitute import param_groups

BETAS = (0.9, 0.999)  # of Adam, by which all of them scale their steps
Groups = list[dict[str, Any]]


class ByLoss(Method):
    """Trains all parameters, digital ones and θ, by asking for the loss at displaced ones. Takes no gradient."""

    def layer(self, device: Device, generator: torch.Generator) -> PhysicalLayer:
        return PhysicalLayer(device, generator=generator)

    def trainer(self, model: Network, lr: float, device_lr: float, generator: torch.Generator) -> Trainer:
        """What trains `model`, its digital parameters at the rate `lr` and θ at `device_lr`."""
        return FromLosses(self.optimizer(model, param_groups(model, lr, device_lr), generator))

    @abc.abstractmethod
    def optimizer(self, model: Network, groups: Groups, generator: torch.Generator) -> ForwardOnly:
        """The one that trains these `groups` of the model's parameters, each at its own rate."""


@dataclass(frozen=True)
class Perturbative(ByLoss):
    """Sparse integer perturbations of all parameters: `2 directions` passes a step."""

    directions: int = 1
    delta: float = 1e-2
    levels: int = 1
    keep: float = 0.5
    name: str = "perturbative"

    def optimizer(self, model: Network, groups: Groups, generator: torch.Generator) -> ForwardOnly:
        how = {"delta": self.delta, "levels": self.levels, "keep": self.keep, "directions": self.directions}
        return PerturbativeGradient(groups, groups[0]["lr"], **how, betas=BETAS, generator=generator, model=model)


@dataclass(frozen=True)
class Mixed(Perturbative):
    """Sparse integer perturbations of what lies before the reservoir and in it, and backpropagation through what lies
    behind it, which is digital: `2 directions + 1` passes a step, and far fewer parameters to be perturbed.
    """

    name: str = "mixed"

    def trainer(self, model: Network, lr: float, device_lr: float, generator: torch.Generator) -> Trainer:
        behind = [id(p) for p in model.behind()]
        before, after = _split(param_groups(model, lr, device_lr), behind)
        return Both(FromLosses(self.optimizer(model, before, generator)), Backpropagation(Adam(after)))


@dataclass(frozen=True)
class Multiplexed(ByLoss):
    """Random signs for all parameters at once, each batch with a baseline of its own: `perturbations + 1` passes."""

    perturbations: int = 1
    integration: int = 1
    delta: float = 1e-2
    name: str = "multiplexed"

    def optimizer(self, model: Network, groups: Groups, generator: torch.Generator) -> ForwardOnly:
        how = {"delta": self.delta, "perturbations": self.perturbations, "integration": self.integration}
        return MultiplexedGradientDescent(groups, groups[0]["lr"], **how, betas=BETAS, generator=generator, model=model)


@dataclass(frozen=True)
class Homodyne(ByLoss):
    """A sinusoid for each parameter, found again by lock-in: four passes a parameter, for small networks."""

    delta: float = 1e-2
    name: str = "homodyne"

    def optimizer(self, model: Network, groups: Groups, generator: torch.Generator) -> ForwardOnly:
        del generator  # nothing in it is random
        return HomodyneGradient(groups, groups[0]["lr"], self.delta, betas=BETAS, model=model)


def _split(groups: Groups, chosen: Iterable[int]) -> tuple[Groups, Groups]:
    """The groups without the parameters of the chosen ids, and those parameters by the same groups."""
    ids = set(chosen)
    parts = tuple(
        [{**g, "params": kept} for g in groups if (kept := [p for p in g["params"] if (id(p) in ids) is inside])]
        for inside in (False, True)
    )
    return parts[0], parts[1]
