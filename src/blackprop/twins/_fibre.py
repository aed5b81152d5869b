"""A model of a multimode fibre with unknown launch, camera and power."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from blackprop.devices import Device
from blackprop.devices._wrapper import unwrapped
from blackprop.devices.photonic._multimode_fibre import MultimodeFibre
from blackprop.errors import ArgumentError
from blackprop.twins._physical import PhysicalTwin


class MultimodeFibreTwin(PhysicalTwin):
    """A fibre by its data sheet, with unknown parameters:

    - `offset` (P,): of the mask's phases;
    - `mixing` (2, modes, modes): of the modes where light enters and where it leaves;
    - `strength`: the Kerr effect is `e^strength` times the value of data sheet and power meter.

    Several of these have the same effect on a reading; the fit is to the readings. A pulse through the model takes as
    many split steps as one through the simulator, so a fit of 100 steps takes seconds to minutes.

    **Arguments:**

    - `device`: the fibre, of which only the properties known to its maker and the laboratory are read.
    """

    def __init__(self, device: Device) -> None:
        device = unwrapped(device)
        if not isinstance(device, MultimodeFibre):
            raise ArgumentError(f"`MultimodeFibreTwin(device)` takes a MultimodeFibre, got {device!r}")
        design = device.unmixed()
        super().__init__(design)
        self._fibre = design
        self.offset: nn.Parameter = nn.Parameter(torch.zeros(design.theta.size))
        self.mixing: nn.Parameter = nn.Parameter(torch.zeros_like(design.mixing))
        self.strength: nn.Parameter = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, theta: Tensor) -> Tensor:
        return self._fibre.transfer_with(x, theta + self.offset, self.mixing, self.strength.exp())
