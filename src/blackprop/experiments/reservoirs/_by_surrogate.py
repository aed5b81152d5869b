"""Methods that train a network around a reservoir by backpropagation through a model of the reservoir."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from blackprop.devices import Device
from blackprop.directions import Rademacher
from blackprop.estimators import FromSurrogate, RandomDirections
from blackprop.experiments.methods._methods import TrainingMethod
from blackprop.nn._layer import PhysicalLayer
from blackprop.planning._methods import step_size
from blackprop.surrogates import Streaming, Twin
from blackprop.twins import OffsetTwin


@dataclass(frozen=True)
class LocalLinear(TrainingMethod):
    """The plan's pair for a device without known structure, with fewer perturbations: `directions` random ones of θ on
    the whole batch. A linear map, fitted to the training rows, gives the input gradient.
    """

    directions: int = 4
    name: str = "local-linear"

    def layer(self, device: Device, generator: torch.Generator) -> PhysicalLayer:
        estimator = RandomDirections(self.directions, step_size(device.declaration), Rademacher())
        return PhysicalLayer(device, estimator, Streaming(bias=True, exact_start=False), generator=generator)


@dataclass(frozen=True)
class DesignTwin(TrainingMethod):
    """A twin with the design of the reservoir and an unknown offset of the settings. It is calibrated once and then
    fitted during training. Both gradients come from it.
    """

    settings: int = 32
    rows: int = 4
    fit_steps: int = 200
    name: str = "twin"

    def layer(self, device: Device, generator: torch.Generator) -> PhysicalLayer:
        surrogate = Twin(OffsetTwin(device), settings=self.settings, rows=self.rows, fit_steps=self.fit_steps, lr=3e-3)
        return PhysicalLayer(device, FromSurrogate(surrogate), surrogate, generator=generator)
