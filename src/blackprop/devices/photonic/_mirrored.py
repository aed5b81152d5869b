"""Light through phase masks in free space, laid out so that the second half is the mirror image of the first."""

from __future__ import annotations

import math
from functools import partial
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import pad

from blackprop.core._declaration import Cost
from blackprop.core._theta import ThetaSpec
from blackprop.core.capabilities._fields import Fields, as_complex
from blackprop.core.capabilities._read_back import ReadBack
from blackprop.devices._matrix import uniform
from blackprop.devices._simulator import Simulator
from blackprop.devices.photonic._diffraction import _hop, _propagator, _side
from blackprop.devices.photonic._light_modulator import FRAME
from blackprop.errors import ArgumentError


@final
class MirroredDiffraction(Simulator):
    """`y = Re(H m_L H … m_2 H m_1 H x)`, with phase masks `m_l = e^{iθ_l}`, mirrored: `m_l = m_{L+1−l}`.

    x and y lie row-major on a grid of the smallest square that holds them, x padded with zeros, y cropped. θ has a
    phase in rad for each pixel of the first ⌈L/2⌉ masks, of period 2π; each mask of the second half is the image of one
    of the first. Starts from U(0, 2π). A hop H is scalar diffraction on a periodic grid, as in `Diffraction`. Light is
    read as a hologram; a plane wave along the axis has the phase 0 at every plane, as its reference. A frame takes 1/60
    s, a camera row 1 ms.

    Light that enters at the output pixels and runs backwards meets the same masks at the same distances as light that
    enters at the input pixels and runs forwards: `Kᵀ = K` for the whole device K.

    **Declares** `ReadBack`, and `Fields`: a field of any phase at every input pixel, read in the middle of every cell
    of the L masks. A camera at the plane behind a mask divides by `e^{iθ/2}` of the mask as written.

    **Arguments:**

    - `d_in`, `d_out`: numbers of inputs and outputs.
    - `planes` (default 1): L.
    - `wavelength` (m, default 632e-9), `pitch` (m, default 1e-4): of the pixels; `distance` (m, default 0.1): one hop.
    - `mismatch` (default 0): the relative error of the distance of the last hop. The device then is not mirrored, and
      does not say so.
    - `cost` (default: as above).

    Source: Xue et al., Nature 632, 280 (2024).
    """

    planes: int
    grid: int

    stacks = True

    def __init__(
        self,
        d_in: int,
        d_out: int,
        *,
        planes: int = 1,
        wavelength: float = 632e-9,
        pitch: float = 1e-4,
        distance: float = 0.1,
        mismatch: float = 0.0,
        cost: Cost | None = None,
    ) -> None:
        if not (isinstance(planes, int) and planes >= 1):
            raise ArgumentError(f"`MirroredDiffraction(planes=...)` must be a whole number from 1, got {planes!r}")
        for name, value in (("wavelength", wavelength), ("pitch", pitch), ("distance", distance)):
            if not 0 < value < math.inf:
                raise ArgumentError(f"`MirroredDiffraction({name}=...)` must be positive and finite, got {value}")
        if pitch < wavelength:
            raise ArgumentError(f"`MirroredDiffraction(pitch=...)`: {pitch:g} m is finer than the wavelength")
        if not -1 < mismatch < math.inf:
            raise ArgumentError(f"`MirroredDiffraction(mismatch=...)` must be finite and above -1, got {mismatch}")
        self.planes, self.grid = planes, _side(max(d_in, d_out))
        self.cells: int = self.grid**2
        hops = [
            _propagator(self.grid, wavelength, pitch * self.grid, distance * scale, torch.float64)
            for scale in (1.0, 1.0 + mismatch)
        ]
        self._hops = [hop * hop[0, 0].conj() for hop in hops]
        self._placed: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
        free = (planes + 1) // 2
        mirrored = planes - 1
        fields = Fields(
            ports=self.cells,
            places=planes * self.cells,
            outputs=tuple(range(d_out)),
            bonds=tuple((self.cells, l * self.cells, 1, (mirrored - l) * self.cells, 1) for l in range(free)),  # noqa: E741
        )
        size = free * self.cells
        super().__init__(
            d_in,
            d_out,
            ThetaSpec(size, partial(uniform, size, 0.0, 2 * math.pi), period=2 * math.pi),
            linear=True,
            cost=cost if cost is not None else Cost(programming=FRAME, row=1e-3),
            capabilities=[fields, ReadBack()],
        )
        self.kept_from: int | None = d_in

    def transfer(self, x: Tensor, theta: Tensor, /) -> Tensor:
        light = pad(x, (0, self.cells - x.shape[-1])).to(x.dtype.to_complex())
        out, _ = self._propagate(light, theta)
        return out.real[..., : self.out_shape[0]].contiguous()

    def read_fields(self, x: Tensor, /) -> Tensor:
        """The fields (rows, 2, L · cells) in the middle of the cells, for fields x (rows, 2, cells) at the inputs."""
        if self._programmed is None:
            raise ArgumentError(f"{self} must be programmed before it is read")
        with torch.no_grad():
            _, inside = self._propagate(as_complex(x), self._programmed.to(x.dtype))
            seen = torch.cat(inside, -1)
        return torch.stack((seen.real, seen.imag), 1)

    def setting_bytes(self, rows: int) -> int:
        return 8 * self.theta.size + 40 * (rows + 1) * self.cells

    def _propagate(self, light: Tensor, theta: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The field (..., rows, cells) at the outputs, and those in the middle of each mask."""
        phases = theta.unflatten(-1, (-1, self.cells)).unbind(-2)
        first, last = self._beside(light)
        inside: list[Tensor] = []
        for plane in range(self.planes):
            half = phases[min(plane, self.planes - 1 - plane)].unsqueeze(-2) / 2
            passed = torch.complex(half.cos(), half.sin())
            inside.append(self._hop(light, first) * passed)
            light = inside[-1] * passed
        return self._hop(light, last), inside

    def _hop(self, light: Tensor, propagator: Tensor) -> Tensor:
        return _hop(light.unflatten(-1, (self.grid, self.grid)), propagator).flatten(-2)

    def _beside(self, light: Tensor) -> list[Tensor]:
        """The propagators in the light's precision, where it is."""
        key = (light.device, light.dtype)
        if key not in self._placed:
            with torch.inference_mode(False):  # kept for training, too
                self._placed[key] = [hop.to(light.device, light.dtype) for hop in self._hops]
        return self._placed[key]
