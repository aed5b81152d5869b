"""Light through a diffuser, free space and a programmable mask."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from functools import partial
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from blackprop.core._declaration import Cost
from blackprop.core._theta import ThetaSpec
from blackprop.devices._matrix import uniform
from blackprop.devices._simulator import Simulator
from blackprop.devices.photonic._light_modulator import FRAME
from blackprop.errors import ArgumentError


class Encoding(enum.Enum):
    """The factor by which a pixel of the mask multiplies the field."""

    AMPLITUDE = "amplitude"  # θ
    PHASE = "phase"  # e^{2πiθ}
    PHASE_AMPLITUDE = "phase_amplitude"  # α e^{2πiφ}: θ holds all φ, then all α


@final
class Diffraction(Simulator):
    """`y = pool |H m(θ) H e^{iδ} x|`: diffuser δ, a hop H, mask m, a hop, and the field's magnitude is read.

    **Not linear**: the magnitude makes `f(x) = f(−x)`, so f is not additive. It is homogeneous up to the sign, `f(c x)
    = |c| f(x)`, also in the θ of an amplitude mask. With `double`, half the field goes through each of two masks and
    the magnitudes are subtracted, `y = pool (|H m₁ u| − |H m₂ u|) / 2`: y has a sign, and still `f(x) = f(−x)`.

    x and y are laid out row-major on the smallest squares that hold them (zeros behind x, y cropped), x and mask
    centred on a grid as wide as the larger square. θ has a pixel for each point of the square of x, one mask after the
    other (with both encodings, the phases of all masks come first). Amplitudes are limited to [0, 1]; phases count
    turns and have the period 1. A hop is scalar diffraction on a periodic grid, the angular spectrum times `e^{−2πi z
    √(1/λ² − f_x² − f_y²)}`. `pool` averages with stride 1. Starts from U(0, 1). A frame takes 1/60 s, a camera row 1
    ms.

    **Arguments:**

    - `d_in`, `d_out`: numbers of inputs and outputs.
    - `encoding` (default amplitude): the mask's factor.
    - `double` (default False): two masks.
    - `seed` (default 0): draws the diffuser.
    - `diffuser` (rad, `(grid · grid,)`, default U(0, 2π)): its phases.
    - `wavelength` (m, default 632e-9), `aperture` (m, default 0.01): side of the grid; `distance` (m, default 0.5): one
      hop.
    - `precision` (default `torch.float64`): of the propagator's phase. The published program works in `torch.float32`,
      where f² is lost against 1/λ² (a grid of 4 does not diffract at all); use that to reproduce it.
    - `cost` (default: as above).

    Source: arXiv 2509.15113.
    """

    encoding: Encoding
    double: bool

    Encoding = Encoding
    stacks = True

    def __init__(
        self,
        d_in: int,
        d_out: int,
        *,
        encoding: Encoding = Encoding.AMPLITUDE,
        double: bool = False,
        seed: int = 0,
        diffuser: Tensor | None = None,
        wavelength: float = 632e-9,
        aperture: float = 10e-3,
        distance: float = 0.5,
        precision: torch.dtype = torch.float64,
        cost: Cost | None = None,
    ) -> None:
        if not isinstance(encoding, Encoding):
            raise ArgumentError(
                f"`Diffraction(encoding=...)` must be a member of Diffraction.Encoding, got {encoding!r}"
            )
        for name, value in (("wavelength", wavelength), ("aperture", aperture), ("distance", distance)):
            if not 0 < value < math.inf:
                raise ArgumentError(f"`Diffraction({name}=...)` must be positive, got {value}")
        self.encoding, self.double = encoding, double
        self.sides: tuple[int, int] = _side(d_in), _side(d_out)
        self.grid: int = max(self.sides)
        if aperture / self.grid < wavelength:
            raise ArgumentError(
                f"`Diffraction(aperture=...)`: {self.grid} pixels across {aperture:g} m are finer than the wavelength"
            )
        pixels = self.grid * self.grid
        if diffuser is None:
            diffuser = uniform(pixels, 0.0, 2 * math.pi, torch.Generator().manual_seed(seed))
        if diffuser.numel() != pixels:
            raise ArgumentError(f"`Diffraction(diffuser=...)` must hold {pixels} phases, got {tuple(diffuser.shape)}")
        scatter = torch.polar(torch.ones(pixels, dtype=torch.float64), diffuser.detach().double().cpu().flatten())
        self._optics = (
            scatter.view(self.grid, self.grid),
            _propagator(self.grid, wavelength, aperture, distance, precision),
        )
        self._placed: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}
        cost = cost if cost is not None else Cost(programming=FRAME, row=1e-3)
        super().__init__(d_in, d_out, _theta(encoding, self.sides[0] ** 2, 2 if double else 1), cost=cost)

    def transfer(self, x: Tensor, theta: Tensor, /) -> Tensor:
        diffuser, propagator = self._beside(x)
        field = _hop(self._lay_out(pad(x, (0, self.sides[0] ** 2 - x.shape[-1]))) * diffuser, propagator)
        masks = self._masks(theta)
        if self.double:
            left, right = (_hop(field * mask, propagator).abs() for mask in masks)
            magnitude = (left - right) / 2
        else:
            magnitude = _hop(field * masks[0], propagator).abs()
        side = self.sides[1]
        pooled = avg_pool2d(magnitude.flatten(0, -3), self.grid - side + 1, stride=1)
        return pooled.unflatten(0, magnitude.shape[:-2]).flatten(-2)[..., : self.out_shape[0]]

    def setting_bytes(self, rows: int) -> int:
        return 8 * self.theta.size + (80 if self.double else 40) * (rows + 1) * self.grid**2

    def _masks(self, theta: Tensor) -> list[Tensor]:
        """One (..., 1, grid, grid) for each beam; around its pixels it is dark, or clear if it has no α."""
        beams = 2 if self.double else 1
        if self.encoding is Encoding.AMPLITUDE:
            return [self._lay_out(amplitude).unsqueeze(-3) for amplitude in theta.chunk(beams, -1)]
        parts = theta.chunk(beams if self.encoding is Encoding.PHASE else 2 * beams, -1)
        turns = [self._lay_out(part).unsqueeze(-3) * (2 * math.pi) for part in parts[:beams]]
        masks = [torch.complex(turn.cos(), turn.sin()) for turn in turns]
        amplitudes = [self._lay_out(part).unsqueeze(-3) for part in parts[beams:]]
        return [m * a for m, a in zip(masks, amplitudes, strict=True)] if amplitudes else masks

    def _lay_out(self, square: Tensor) -> Tensor:
        """Values (..., side²) of the square of x, centred on the grid (..., grid, grid)."""
        side = self.sides[0]
        before = (self.grid - side) // 2
        after = self.grid - side - before
        return pad(square.unflatten(-1, (side, side)), (before, after, before, after))

    def _beside(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The diffuser and the propagator in x's precision, where x is."""
        key = (x.device, x.dtype)
        if key not in self._placed:
            with torch.inference_mode(False):  # kept for training, too
                scatter, propagator = (part.to(x.device, x.dtype.to_complex()) for part in self._optics)
            self._placed[key] = scatter, propagator
        return self._placed[key]


def _theta(encoding: Encoding, pixels: int, beams: int) -> ThetaSpec:
    size = pixels * beams * (2 if encoding is Encoding.PHASE_AMPLITUDE else 1)
    initial: Callable[[torch.Generator], Tensor] = partial(uniform, size, 0.0, 1.0)
    if encoding is Encoding.AMPLITUDE:
        return ThetaSpec(size, initial, low=0.0, high=1.0)
    if encoding is Encoding.PHASE:
        return ThetaSpec(size, initial, period=1.0)
    turns, amplitudes = torch.full((size // 2,), math.inf), torch.ones(size // 2)
    return ThetaSpec(size, initial, low=torch.cat((-turns, 0 * amplitudes)), high=torch.cat((turns, amplitudes)))


def _propagator(grid: int, wavelength: float, aperture: float, distance: float, precision: torch.dtype) -> Tensor:
    f = torch.fft.fftfreq(grid, aperture / grid, dtype=precision)  # 1/m
    phase = -2 * math.pi * distance * (1 / wavelength**2 - f[:, None] ** 2 - f**2).sqrt()
    return torch.polar(torch.ones(grid, grid, dtype=torch.float64), phase.double())


def _hop(field: Tensor, propagator: Tensor) -> Tensor:
    return torch.fft.ifft2(torch.fft.fft2(field) * propagator)


def _side(d: int) -> int:
    """The side of the smallest square that holds d."""
    return math.isqrt(d - 1) + 1
