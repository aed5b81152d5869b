"""Any published device with the errors that its copy in a laboratory has."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from blackprop.core._declaration import Coupling
from blackprop.core._theta import ThetaSpec
from blackprop.devices._base import Device
from blackprop.devices._simulator import Simulator, keeps
from blackprop.devices.photonic._imperfect import ImperfectMicroring
from blackprop.devices.photonic._microring import Microring
from blackprop.devices.photonic._mzi import MZIMesh, ThreeSplitterMesh
from blackprop.devices.photonic.chips._chip import Chip
from blackprop.devices.photonic.chips._design import Rectangular
from blackprop.devices.photonic.chips._readout import Field, Power
from blackprop.devices.photonic.chips._taps import PowerTaps
from blackprop.errors import ArgumentError

DARK = 0.1  # of the output scale: a camera's level without light


def as_built(
    device: Device,
    *,
    seed: int = 0,
    spread: float = 0.05,
    unsigned: bool = False,
    camera: bool = False,
    scale: float = 1.0,
    taps: PowerTaps | None = None,
) -> Simulator:
    """Return the device as a laboratory has it: with errors drawn from `seed`, which its declaration does not show.

    `y = scale · (1 + g) ⊙ f(x; θ + o) [+ d]` with a hidden gain of each output and a hidden offset of each parameter:

    - Offsets are uniform over the period where θ has one; normal, of `spread` times the range, between two limits; and
      normal, of `spread` times the initial values' root mean square, elsewhere. Limits are kept.
    - Elements of a device with element coupling have a gain each, of standard deviation `spread`. Rings differ in their
      loss and coupling, as `ImperfectMicroring` has it.
    - A mesh becomes the `Chip` of its design: offsets anywhere on the circle, splitters that err by `spread` rad.

    **Arguments:**

    - `device`: a simulator.
    - `seed`: of all errors.
    - `spread`: the relative size of errors.
    - `unsigned`: whether inputs below 0 are refused, as light intensities are.
    - `camera`: whether a camera reads: each pixel's sensitivity errs by `spread`, and it has a dark level d of about a
      tenth of `scale`, so that the device is not linear any more. Behind a mesh it reads powers.
    - `scale`: of all outputs: 1e-3 for a dim device.
    - `taps`: a `chips.PowerTaps`, for in-situ backpropagation through a mesh; None for none. Its inputs take fields of
      any phase and its outputs are read by homodyne detectors, so that it is neither `unsigned` nor behind a `camera`.

    The oracle knows the errors. Raises `ArgumentError` for a device that is not a simulator.
    """
    if not isinstance(device, Simulator):
        raise ArgumentError(f"`as_built(device)` takes a simulator, whose transfer is known, got {device!r}")
    if not 0 <= spread < math.inf or not 0 < scale < math.inf:
        raise ArgumentError(f"`as_built(spread=..., scale=...)` must be finite and positive, got {spread} and {scale}")
    generator = torch.Generator().manual_seed(seed)
    shapes = *device.in_shape, *device.out_shape
    if taps is not None and not isinstance(device, (MZIMesh, ThreeSplitterMesh)):
        raise ArgumentError(f"`as_built(taps=...)` is for the phase shifters of a mesh, and {device!r} has none")
    if taps is not None and unsigned:
        raise ArgumentError(
            "`as_built(taps=..., unsigned=True)`: in-situ backpropagation sends fields of any phase, and unsigned "
            "inputs take intensities alone"
        )
    if isinstance(device, (MZIMesh, ThreeSplitterMesh)):
        design = Rectangular(splitters=2 if isinstance(device, MZIMesh) else 3)
        readout = Power(responsivity=spread, dark=DARK) if camera else Field()
        inner = Chip(design, *shapes, splitter=spread, readout=readout, taps=taps, seed=seed, cost=device.cost)
        return _AsBuilt(inner, generator, 0.0, None, False, unsigned, scale)
    if isinstance(device, Microring):
        device = ImperfectMicroring(*shapes, a=device.a, r=device.r, spread=spread, seed=seed, cost=device.cost)
    offset = _offsets(device.theta, spread, generator)
    return _AsBuilt(device, generator, spread, offset, camera, unsigned, scale)


class _AsBuilt(Simulator):
    """A simulator with hidden offsets, gains and dark levels."""

    def __init__(
        self,
        device: Simulator,
        generator: torch.Generator,
        spread: float,
        offset: Tensor | None,
        camera: bool,
        unsigned: bool,
        scale: float,
    ) -> None:
        super().__init__(
            device.in_shape,
            device.out_shape,
            device.theta,
            linear=device.linear and not camera,
            coupling=Coupling.ROW if camera and device.coupling is Coupling.ELEMENT else device.coupling,
            cost=device.cost,
            x_low=0.0 if unsigned and device.x_low is None else device.x_low,
            x_high=device.x_high,
            capabilities=device.capabilities if isinstance(device, Chip) else (),
        )
        self.device, self.stacks = device, device.stacks
        self.scale, self.offset = scale, offset
        spec = self.declaration
        per_element = device.linear and device.coupling is Coupling.ELEMENT
        self.kept_from = 0 if per_element else device.kept_from if keeps(device) else None
        self.elements = 1 + spread * _normal(generator, spec.d_in, spec.d_out) if per_element else None
        self.gain = 1 + spread * _normal(generator, *self.out_shape) if camera else torch.ones(self.out_shape)
        self.dark = DARK * (0.5 + _uniform(generator, *self.out_shape)) if camera else torch.zeros(self.out_shape)

    def transfer(self, x: Tensor, theta: Tensor, /) -> Tensor:
        if self.elements is None:
            return self._read_out(self.device.transfer(x, self._written(theta)))
        return self.answer(x, self.coefficients(theta))

    def coefficients(self, theta: Tensor, /) -> Tensor:
        theta = self._written(theta)
        if self.elements is None:
            return self.device.coefficients(theta)
        unit = torch.eye(len(self.elements), dtype=theta.dtype, device=theta.device).unflatten(1, self.in_shape)
        return self.device.transfer(unit, theta).flatten(-len(self.out_shape)) * self.elements.to(theta)

    def answer(self, x: Tensor, coefficients: Tensor, /) -> Tensor:
        if self.elements is None:
            return self._read_out(self.device.answer(x, coefficients))
        y = x.flatten(-len(self.in_shape)) @ coefficients
        return self._read_out(y.unflatten(-1, self.out_shape))

    def _written(self, theta: Tensor) -> Tensor:
        return theta if self.offset is None else self.theta.clamp(theta + self.offset.to(theta))

    def _read_out(self, y: Tensor) -> Tensor:
        return self.scale * (self.gain.to(y) * y + self.dark.to(y))

    def tap_powers(self, x: Tensor, /) -> Tensor:
        """The powers (rows, K) that the taps read, for fields x (rows, 2, N) at the inputs."""
        return self._chip().tap_powers_at(x, self._held())

    def read_back_field(self, g: Tensor, /) -> Tensor:
        """`z = Uᵀ g` (rows, 2, N) for rows g (rows, *out_shape) sent into the outputs."""
        return self._chip().read_back_field_at(self.scale * g, self._held())

    def _chip(self) -> Chip:
        if not isinstance(self.device, Chip):
            raise ArgumentError(f"{self} has no taps")
        return self.device

    def _held(self) -> Tensor:
        if self._programmed is None:
            raise ArgumentError(f"{self} must be programmed before it is read")
        return self._programmed

    def state_dict(self) -> dict[str, Any]:
        return self.device.state_dict()

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        self.device.load_state_dict(state)

    def drawing(self) -> Device | None:
        return self.device.drawing()

    def setting_bytes(self, rows: int) -> int:
        return self.device.setting_bytes(rows + (0 if self.elements is None else len(self.elements)))

    def __repr__(self) -> str:
        return f"as built: {self.device}"


def _offsets(spec: ThetaSpec, spread: float, generator: torch.Generator) -> Tensor:  # (P,)
    normal = _normal(generator, spec.size)
    low, high = spec.bounds(normal)
    if spec.period is not None and not spec.limited:
        return spec.period * _uniform(generator, spec.size)
    size = spec.draw(torch.Generator().manual_seed(0)).double().square().mean().sqrt()
    return spread * torch.where(low.isfinite() & high.isfinite(), high - low, size) * normal


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _uniform(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.rand(shape, generator=generator, dtype=torch.float64)
