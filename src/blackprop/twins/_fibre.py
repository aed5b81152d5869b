"""A model of a multimode fibre whose launch, camera and power are not known."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from blackprop.devices import Device, Wrapper
from blackprop.devices.photonic._multimode_fibre import MultimodeFibre
from blackprop.errors import ArgumentError
from blackprop.twins._physical import PhysicalTwin


class MultimodeFibreTwin(PhysicalTwin):
    """A fibre as it was bought, and what nobody measured of it: an `offset` (P,) of the mask's phases; how the modes
    are mixed where light enters and where it leaves, `mixing` (2, modes, modes); how strong the Kerr effect is,
    `e^strength` times what the data sheet and the power meter say.

    Several of these do the same to a reading; what is fitted are the readings. A pulse through the model takes as many
    split steps as one through the simulator, so a fit of 100 steps takes seconds to minutes.

    **Argument:** `device`, the fibre, of which all is read that its maker and the laboratory know, and nothing that is
    hidden.
    """

    def __init__(self, device: Device) -> None:
        while isinstance(device, Wrapper):
            device = device.device
        if not isinstance(device, MultimodeFibre):
            raise ArgumentError(f"`MultimodeFibreTwin(device)` takes a MultimodeFibre, got {device!r}")
        design = device.unmixed()
        super().__init__(design)
        self._fibre = design
        self.offset = nn.Parameter(torch.zeros(design.theta.size))
        self.mixing = nn.Parameter(torch.zeros_like(design.mixing))
        self.strength = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, theta: Tensor) -> Tensor:
        return self._fibre.transfer_with(x, theta + self.offset, self.mixing, self.strength.exp())
