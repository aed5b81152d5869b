"""Light through a layer of paint: a fixed random matrix of very large size, behind a programmable mask."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from blackprop.core._declaration import Cost
from blackprop.core._theta import ThetaSpec
from blackprop.devices._matrix import normal, uniform
from blackprop.devices._simulator import Simulator
from blackprop.devices.photonic._light_modulator import FRAME


class ScatteringMedium(Simulator):
    """`y = |(x ⊙ e^{iθ}) R|²`, read by a camera; with `linear`, `y = Re((x ⊙ e^{iθ}) R)`, read as a hologram.

    x is the signed amplitude on a modulator, and θ a phase mask behind it, in rad, one pixel for each of x, of period
    2π; it starts flat, at θ = 0. R `(d_in, d_out)` is complex, its real and imaginary parts N(0, 1/d_in). A row of unit
    pixels therefore reads 2 on average, and with `linear` has a variance of 1. The camera's answer is not linear in x:
    `f(c x) = c² f(x)`.

    A phase moves all outputs, so the device declares no coupling. For a medium that ages, wrap it in `Drifting`: a walk
    of the paths' phases at its entrance. A frame takes 1/60 s, for the mask and for a row alike.

    **Arguments:**

    - `d_in`, `d_out`: numbers of pixels of the mask and the camera.
    - `linear` (default False): a hologram.
    - `seed` (default 0): draws R.
    - `cost` (default: as above).

    Sources: Saade et al., ICASSP 2016 (arXiv 1510.06664); linear, Launay et al., arXiv 2012.06373.
    """

    stacks = True

    def __init__(self, d_in: int, d_out: int, *, linear: bool = False, seed: int = 0, cost: Cost | None = None) -> None:
        theta = ThetaSpec(d_in, partial(uniform, d_in, 0.0, 0.0), period=2 * math.pi)  # a flat phase
        cost = cost if cost is not None else Cost(programming=FRAME, row=FRAME)
        super().__init__(d_in, d_out, theta, linear=linear, cost=cost)
        if linear:
            self.kept_from: int | None = 16  # rows that cost more than the matrix
        parts = normal(2 * d_in * d_out, 0.0, d_in**-0.5, torch.Generator().manual_seed(seed)).view(2, d_in, d_out)
        real, imaginary = parts
        # Real and imaginary parts of the field, side by side, from those of x e^{iθ}: one real product.
        both = torch.cat((torch.cat((real, imaginary), 1), torch.cat((-imaginary, real), 1)))
        self._matrix = both[:, :d_out].contiguous() if linear else both
        self._placed: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    @property
    def medium(self) -> Tensor:  # (d_in, d_out), complex
        """R, which is unknown in a laboratory."""
        d_in, d_out = self.declaration.d_in, self.declaration.d_out
        return torch.complex(self._matrix[:d_in, :d_out], -self._matrix[d_in:, :d_out])

    def transfer(self, x: Tensor, theta: Tensor, /) -> Tensor:
        theta = theta.unsqueeze(-2)
        field = torch.cat((x * theta.cos(), x * theta.sin()), -1) @ self._beside(x)
        if self.linear:
            return field
        real, imaginary = field.chunk(2, -1)
        return real.square() + imaginary.square()

    def coefficients(self, theta: Tensor, /) -> Tensor:
        """The matrix (d_out, d_in) of a hologram."""
        real, imaginary = self._beside(theta).chunk(2)
        theta = theta.unsqueeze(-1)
        return (theta.cos() * real + theta.sin() * imaginary).mT

    def setting_bytes(self, rows: int) -> int:
        return 8 * self.theta.size + 4 * rows * (3 * self.theta.size + 5 * self.declaration.d_out)

    def _beside(self, x: Tensor) -> Tensor:
        """R in x's precision, where x is."""
        key = (x.device, x.dtype)
        if key not in self._placed:
            with torch.inference_mode(False):  # kept for training, too
                self._placed[key] = self._matrix.to(x.device, x.dtype)
        return self._placed[key]
