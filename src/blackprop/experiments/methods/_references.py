"""The references of every comparison: gradients that a laboratory does not have, and devices that stay as drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from blackprop import presets
from blackprop.core._declaration import Coupling
from blackprop.core._ledger import Ledger
from blackprop.core._metered import metered
from blackprop.core._procedure import read, run
from blackprop.core._query import Purpose, Query
from blackprop.core._theta import ThetaSpec
from blackprop.core.capabilities._pulse import Pulse
from blackprop.devices import Device
from blackprop.devices._simulator import Simulator, apply_matrix
from blackprop.experiments.methods._methods import TrainingMethod
from blackprop.nn._layer import PhysicalLayer


@final
class DigitalMatrix(Simulator):
    """A matrix `A = θ` that starts from given weights (d_out, d_in)."""

    stacks = True

    def __init__(self, weights: Tensor) -> None:
        d_out, d_in = weights.shape
        start = weights.detach().flatten()
        theta = ThetaSpec(d_in * d_out, lambda generator: start.to(generator.device, copy=True))
        super().__init__(d_in, d_out, theta, linear=True, coupling=Coupling.ELEMENT)

    def transfer(self, x: Tensor, theta: Tensor, /) -> Tensor:
        return apply_matrix(theta.unflatten(-1, (*self.out_shape, *self.in_shape)), x)


def in_digital_form(device: Device) -> Device:
    """Return a digital matrix with the weights of a device that is moved by pulses; other devices as they are."""
    if not device.declaration.has(Pulse):
        return device
    spec = device.declaration
    query = Query(torch.eye(spec.d_in), spec.theta.draw(torch.Generator()), Purpose.EVALUATE)
    return DigitalMatrix(run(read(query), metered(device, Ledger())).mT)


@dataclass(frozen=True)
class OracleReference(TrainingMethod):
    """The upper reference: both gradients by autograd through the simulator, without queries.

    A device that is moved by pulses is replaced by a digital matrix that starts from its weights.
    """

    signal_scaled: ClassVar[bool] = False

    name: str = "oracle"

    def arranged(self, device: Device) -> Device:
        return in_digital_form(device)

    def layer(self, device: Device, generator: torch.Generator) -> PhysicalLayer:
        return PhysicalLayer(device, *presets.oracle(), generator=generator)


@dataclass(frozen=True)
class FrozenReference(TrainingMethod):
    """The lower reference: θ keeps its initial value. The digital parameters are trained with exact gradients through
    the simulator, without queries. A device that is moved by pulses keeps its weights.
    """

    signal_scaled: ClassVar[bool] = False
    rates: ClassVar[tuple[str, ...]] = ("lr",)

    name: str = "frozen"

    def arranged(self, device: Device) -> Device:
        return in_digital_form(device)

    def layer(self, device: Device, generator: torch.Generator) -> PhysicalLayer:
        layer = PhysicalLayer(device, *presets.oracle(), generator=generator)
        layer.theta.requires_grad_(False)
        return layer
