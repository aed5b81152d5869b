"""Models of devices that differ from their design: the design, with its errors as parameters to fit."""

from __future__ import annotations

import copy
import math
from typing import TypeVar

import torch
from torch import Tensor, nn

from blackprop.core._declaration import Declaration
from blackprop.devices import (
    Device,
    Diffraction,
    LightModulator,
    Microring,
    MZIMesh,
    Simulator,
    ThreeSplitterMesh,
)
from blackprop.devices._wrapper import unwrapped
from blackprop.devices.photonic._imperfect import (
    ImperfectMesh,
    ImperfectMicroring,
    ImperfectMZIMesh,
    ImperfectThreeSplitterMesh,
)
from blackprop.errors import ArgumentError

DesignT = TypeVar("DesignT", bound=Simulator)
SPLITS = 0.25  # rad a unit: splitters are built better than phases, and the fit moves all parameters at one rate


class PhysicalTwin(nn.Module):
    """A design with unknown errors, zero at first. Takes settings stacked in front."""

    stacks = True

    def __init__(self, design: Simulator) -> None:
        super().__init__()
        self.design = design

    @property
    def declaration(self) -> Declaration:
        """The declaration of the modelled device."""
        return self.design.declaration

    def extra_repr(self) -> str:
        return str(self.design)


class MeshTwin(PhysicalTwin):
    """A mesh with an unknown `offset` (P,) of every phase and unknown `errors` ε of its splitters (blocks, 2 or 3).

    **Arguments:**

    - `device`: the mesh, of which only the kind and the sizes are read.
    """

    def __init__(self, device: Device) -> None:
        device, mesh = unwrapped(device), None
        if isinstance(device, (MZIMesh, ImperfectMZIMesh)):
            mesh = ImperfectMZIMesh(*device.in_shape, *device.out_shape, phase=0, splitter=0)
        if isinstance(device, (ThreeSplitterMesh, ImperfectThreeSplitterMesh)):
            mesh = ImperfectThreeSplitterMesh(*device.in_shape, *device.out_shape, phase=0, splitter=0)
        if mesh is None:
            raise ArgumentError(f"`MeshTwin(device)` takes an MZIMesh or a ThreeSplitterMesh, got {device!r}")
        super().__init__(mesh)
        self._mesh: ImperfectMesh = mesh
        self.offset: nn.Parameter = nn.Parameter(torch.zeros(mesh.theta.size))
        self.splits: nn.Parameter = nn.Parameter(torch.zeros_like(mesh.errors))

    @property
    def errors(self) -> Tensor:
        return SPLITS * self.splits

    def forward(self, x: Tensor, theta: Tensor) -> Tensor:
        return self._mesh.transfer_with(x, theta, self.offset, self.errors)


class MicroringTwin(PhysicalTwin):
    """A bank of rings with unknown `a` and `r` in (0, 1) of each and an unknown `offset` of its phase, (P,).

    The response is symmetric in a and r, so they may be exchanged in the fit. The fit is of their logits.

    **Arguments:**

    - `device`: the bank, of which only the sizes and the nominal a and r are read.
    """

    def __init__(self, device: Device) -> None:
        device = unwrapped(device)
        if not isinstance(device, Microring):
            raise ArgumentError(f"`MicroringTwin(device)` takes a Microring, got {device!r}")
        bank = ImperfectMicroring(*device.in_shape, *device.out_shape, a=device.a, r=device.r, spread=0)
        super().__init__(bank)
        self._bank = bank
        self.logits: nn.Parameter = nn.Parameter(torch.stack((bank.amplitudes, bank.couplings)).logit())
        self.offset: nn.Parameter = nn.Parameter(torch.zeros(bank.theta.size))

    @property
    def a(self) -> Tensor:  # (P,)
        return self.logits[0].sigmoid()

    @property
    def r(self) -> Tensor:  # (P,)
        return self.logits[1].sigmoid()

    def forward(self, x: Tensor, theta: Tensor) -> Tensor:
        return self._bank.transfer_with(x, theta, self.a, self.r, self.offset)


class LightModulatorTwin(PhysicalTwin):
    """A modulator with an unknown phase curve, common to all pixels, and an unknown `offset` of each pixel (P,):

    `phase(θ) = θ + offset + Σ_k (c_k sin kθ + s_k (1 − cos kθ))`, k up to `harmonics`, `curve` = (c, s).

    **Arguments:**

    - `device`: the modulator, of which only the sizes are read.
    - `harmonics` (default 4).
    """

    def __init__(self, device: Device, *, harmonics: int = 4) -> None:
        device = unwrapped(device)
        if not isinstance(device, LightModulator):
            raise ArgumentError(f"`LightModulatorTwin(device)` takes a LightModulator, got {device!r}")
        if harmonics < 1:
            raise ArgumentError(f"`LightModulatorTwin(harmonics=...)` must be at least 1, got {harmonics}")
        super().__init__(LightModulator(*device.in_shape, *device.out_shape))
        self.curve: nn.Parameter = nn.Parameter(torch.zeros(2, harmonics))
        self.offset: nn.Parameter = nn.Parameter(torch.zeros(device.theta.size))

    def phase(self, theta: Tensor) -> Tensor:
        """Return the phase in rad at the setting theta (..., P)."""
        bent = theta + self.offset
        for k, (c, s) in enumerate(self.curve.unbind(-1), start=1):
            bent = bent + c * (k * theta).sin() + s * (1 - (k * theta).cos())
        return bent

    def forward(self, x: Tensor, theta: Tensor) -> Tensor:
        return self.design.transfer(x, self.phase(theta))


class DiffractionTwin(PhysicalTwin):
    """A diffraction device whose diffuser differs from that of `design` by `offset` (d_in,) rad, pixel by pixel.

    **Arguments:**

    - `design`: the device as believed; the twin copies it, with its diffuser.
    """

    def __init__(self, design: Device) -> None:
        design = unwrapped(design)
        if not isinstance(design, Diffraction):
            raise ArgumentError(f"`DiffractionTwin(design)` takes a Diffraction, got {design!r}")
        super().__init__(_drawing(design))
        self.offset: nn.Parameter = nn.Parameter(torch.zeros(math.prod(design.in_shape)))

    def forward(self, x: Tensor, theta: Tensor) -> Tensor:
        # The diffuser is where the rows enter: its extra phase acts like a phase of the rows.
        return self.design.transfer(x * torch.complex(self.offset.cos(), self.offset.sin()), theta)


class OffsetTwin(PhysicalTwin):
    """`y = gain ⊙ design(x; θ + offset)`: any simulator with unknown offsets (P,) of its settings.

    Each output channel, the last dimension, has an unknown gain. Settings stay within limits.

    **Arguments:**

    - `design`: the device as believed; the twin copies it. Its settings must stack in front (`stacks`).
    """

    def __init__(self, design: Device) -> None:
        design = unwrapped(design)
        if not (isinstance(design, Simulator) and design.stacks):
            raise ArgumentError(f"`OffsetTwin(design)` takes a Simulator whose settings stack, got {design!r}")
        super().__init__(_drawing(design))
        self.offset: nn.Parameter = nn.Parameter(torch.zeros(design.theta.size))
        self.gain: nn.Parameter = nn.Parameter(torch.ones(design.out_shape[-1]))

    def forward(self, x: Tensor, theta: Tensor) -> Tensor:
        return self.gain * self.design.transfer(x, self.design.theta.clamp(theta + self.offset))


def _drawing(design: DesignT) -> DesignT:
    """Copy a design to differentiate it; later changes of the device do not affect the copy."""
    drawing = copy.copy(design)
    for name, value in vars(design).items():
        if isinstance(value, Tensor):
            setattr(drawing, name, value.clone())
    drawing.forget()
    return drawing
