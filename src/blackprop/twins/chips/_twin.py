"""The model of a chip: its design, with everything that it hides as parameters."""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor, nn

from blackprop.devices import Device
from blackprop.devices._wrapper import unwrapped
from blackprop.devices.photonic._imperfect import ImperfectMZIMesh, ImperfectThreeSplitterMesh
from blackprop.devices.photonic._mzi import MZIMesh, ThreeSplitterMesh
from blackprop.devices.photonic.chips import Build, Chip, Rectangular
from blackprop.errors import ArgumentError
from blackprop.twins._physical import SPLITS, PhysicalTwin

FITTED = ("offset", "splitters")


class ChipTwin(PhysicalTwin):
    """A chip of a known design, of which everything else is unknown: offsets, splitters, slopes, losses, detectors.

    Starts as the chip without errors. `take(build)` sets the build that a calibration found; a fit changes `offset`
    (P,) in rad and `splits` (blocks, splitters a block) in units of 0.25 rad, and leaves the rest as it is.

    **Argument:** `device`, a `Chip`, or a published mesh, or wrappers around one. Only the design, the ports, the
    nominal law of the heaters, the nominal losses and the kind of readout are read.
    """

    def __init__(self, device: Device) -> None:
        chip = drawing(device)
        super().__init__(chip)
        self.chip = chip
        self.offset: nn.Parameter = nn.Parameter(torch.zeros(chip.theta.size))
        self.splits: nn.Parameter = nn.Parameter(torch.zeros(chip.build.splitters.shape))
        for each in fields(Build):
            if each.name not in FITTED:
                self.register_buffer(each.name, getattr(chip.build, each.name).to(self.offset.dtype))

    @property
    def build(self) -> Build:
        """The twin's present estimate of the chip's hidden parameters."""
        parts = {each.name: getattr(self, each.name) for each in fields(Build) if each.name != "splitters"}
        return Build(splitters=SPLITS * self.splits, **parts)

    def take(self, build: Build) -> None:
        """Believe in `build`."""
        with torch.no_grad():
            for each in fields(Build):
                name, value = each.name, getattr(build, each.name)
                if name == "splitters":
                    name, value = "splits", value / SPLITS
                getattr(self, name).copy_(value)

    def forward(self, x: Tensor, theta: Tensor) -> Tensor:
        return self.chip.transfer_with(x, theta, self.build)


def drawing(device: Device) -> Chip:
    """The chip as designed, with its nominal losses and no errors.

    Raises `ArgumentError` for a device that is not a mesh.
    """
    device = unwrapped(device)
    if isinstance(device, Chip):
        return device.drawing()
    if isinstance(device, (MZIMesh, ImperfectMZIMesh, ThreeSplitterMesh, ImperfectThreeSplitterMesh)):
        design = Rectangular(2 if isinstance(device, (MZIMesh, ImperfectMZIMesh)) else 3)
        return Chip(design, *device.in_shape, *device.out_shape, offset=0, splitter=0, cost=device.cost)
    raise ArgumentError(f"`ChipTwin(device)` takes a Chip, an MZIMesh or a ThreeSplitterMesh, got {device!r}")
