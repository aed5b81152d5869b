"""The twin of a memristive crossbar, whose cells differ from the written values."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from blackprop.devices._base import Device
from blackprop.devices._wrapper import unwrapped
from blackprop.devices.electronic._crossbar import Crossbar
from blackprop.errors import ArgumentError
from blackprop.twins._physical import PhysicalTwin


class CrossbarTwin(PhysicalTwin):
    """A crossbar with an unknown response of each cell, `G = (1 + slope) G_wanted + error`, both (cells,).

    A stuck cell has slope −1 and an error, a drifted one a slope below 0. If wires have no resistance, only the
    differences of two cells show, and only these are found. **Costs** as `surrogates.Twin`.

    **Arguments:**

    - `device`: the crossbar, of which only the sizes, the kind of cell, the reference and the line resistance are read.
    """

    def __init__(self, device: Device) -> None:
        device = unwrapped(device)
        if not isinstance(device, Crossbar):
            raise ArgumentError(f"`CrossbarTwin(device)` takes a Crossbar, got {device!r}")
        cell, array = device.memristor, device.array
        line = array.line / cell.g_max
        design = Crossbar(*device.in_shape, *device.out_shape, memristor=cell, reference=array.reference, line=line)
        super().__init__(design)
        self._crossbar = design
        self.slope: nn.Parameter = nn.Parameter(torch.zeros(array.theta.size))
        self.error: nn.Parameter = nn.Parameter(torch.zeros(array.theta.size))

    def forward(self, x: Tensor, theta: Tensor) -> Tensor:
        g = (1 + self.slope) * self._crossbar.wanted(theta) + self.error
        return self._crossbar.array.transfer(x, g)
