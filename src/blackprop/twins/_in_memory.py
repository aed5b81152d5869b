"""The twin of in-memory computing as an ODE: the same line on a grid in time, with unknown weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from blackprop.devices._base import Device
from blackprop.devices._wrapper import unwrapped
from blackprop.devices.electronic._in_memory import InMemoryODE
from blackprop.errors import ArgumentError
from blackprop.twins._physical import PhysicalTwin

EDGE = 1e-3  # distance of a grid's offset from 0 and 1, where two of its points would coincide


class InMemoryTwin(PhysicalTwin):
    """The line with an unknown `slope` (P,) of every weight, `w = (1 + slope) θ`, and its spikes on a grid in time.

    In `train()` the grid has an offset drawn for every batch, in `eval()` one half. A layer costs points + 1 matrix
    products. In the source, 3 points on a grid that moves train about as well as 15.

    **Arguments:**

    - `device`: of which only the sizes and the reversal potentials are read.
    - `points` (default 3): of the grid.
    - `generator`: draws the offsets.
    """

    points: int

    def __init__(self, device: Device, *, points: int = 3, generator: torch.Generator) -> None:
        device = unwrapped(device)
        if not isinstance(device, InMemoryODE):
            raise ArgumentError(f"`InMemoryTwin(device)` takes an InMemoryODE, got {device!r}")
        if points < 1:
            raise ArgumentError(f"`InMemoryTwin(points=...)` must be at least 1, got {points}")
        design = InMemoryODE(*device.in_shape, *device.out_shape, reversal=device.reversal)
        super().__init__(design)
        self._line, self.points, self._generator = design, points, generator
        self.slope: nn.Parameter = nn.Parameter(torch.zeros(design.theta.size))

    def forward(self, x: Tensor, theta: Tensor) -> Tensor:
        offset = 0.5
        if self.training:
            offset = EDGE + (1 - 2 * EDGE) * float(torch.rand((), generator=self._generator))
        return self._line.on_grid(x, (1 + self.slope) * theta, self.points, offset).clamp(0, 1)
