"""Devices that differ from their design by errors drawn from a seed, hidden from all methods."""

from __future__ import annotations

import math
from typing import ClassVar, final

import torch
from torch import Tensor

from blackprop.core._declaration import Cost
from blackprop.devices._matrix import normal
from blackprop.devices._simulator import apply_matrix
from blackprop.devices.photonic._blocks import Blocks, three_splitters, two_splitters
from blackprop.devices.photonic._light import Factors
from blackprop.devices.photonic._microring import Microring
from blackprop.devices.photonic._mzi import (
    PUSH_PULL,
    SEPARATE,
    Mesh,
    Place,
    mzi_factors,
    three_splitter_factors,
)
from blackprop.errors import ArgumentError

INSIDE = 0.01  # how far the amplitudes of a ring keep from 0 and 1


class ImperfectMesh(Mesh):
    """A mesh with phases `θ + offset` and splitters of the angle `π/4 + ε` in place of π/4.

    The splitter `B(η) = [[cos η, i sin η], [i sin η, cos η]]` halves the power at η = π/4 and transmits about `0.5 ± ε`
    nearby. Without errors each block is the published one.

    **Arguments:**

    - `d_in`, `d_out`: numbers of inputs and outputs.
    - `phase` (rad, default 0.2): standard deviation of the offsets.
    - `splitter` (rad, default 0.05): that of ε.
    - `seed` (default 0): draws them. They are stored as `offset` (P,) and `errors` (blocks, splitters a block), in the
      order of θ.
    - `cost` (default None).
    """

    splitters: int

    def __init__(
        self,
        d_in: int,
        d_out: int,
        *,
        phase: float = 0.2,
        splitter: float = 0.05,
        seed: int = 0,
        cost: Cost | None = None,
    ) -> None:
        super().__init__(d_in, d_out, cost=cost)
        _check_spreads(self, phase=phase, splitter=splitter)
        generator = torch.Generator().manual_seed(seed)
        blocks = self.theta.size // 2
        self.offset: Tensor = normal(self.theta.size, 0.0, phase, generator)
        self.errors: Tensor = normal(blocks * self.splitters, 0.0, splitter, generator).view(blocks, self.splitters)

    def transfer_with(self, x: Tensor, theta: Tensor, offset: Tensor, errors: Tensor) -> Tensor:
        """The same mesh with other errors, differentiable in them too."""
        return self._readings(x, self._erring(theta, offset, errors))

    def _numbers(self, theta: Tensor) -> Tensor:
        return self._erring(theta, self.offset.to(theta), self.errors.to(theta))

    def _erring(self, theta: Tensor, offset: Tensor, errors: Tensor) -> Tensor:
        """Return the parameters of the blocks (..., blocks, 2 phases and the splitters' ε)."""
        phases = (theta + offset).unflatten(-1, (-1, 2))
        return torch.cat((phases, errors.expand(*phases.shape[:-1], self.splitters)), -1)


@final
class ImperfectMZIMesh(ImperfectMesh):
    """`MZIMesh` with errors: the block is

    `−i · diag(e^{iθ}, 1) · B(π/4 + ε₂) · diag(e^{iφ}, e^{−iφ}) · B(π/4 + ε₁)`.
    """

    splitters = 2
    combination: ClassVar[tuple[tuple[float, ...], ...]] = PUSH_PULL
    tapped: ClassVar[tuple[Place, ...]] = ((0, 0), (0, 1), (1, 0))

    def factors(self, theta: Tensor) -> Factors:
        return mzi_factors(theta + self.offset.to(theta), self.errors.to(theta))

    def _blocks(self, theta_phi: Tensor) -> Blocks:
        return two_splitters(theta_phi[..., 0], theta_phi[..., 1], theta_phi[..., 2:])


@final
class ImperfectThreeSplitterMesh(ImperfectMesh):
    """`ThreeSplitterMesh` with errors: for `B_k = B(π/4 + ε_k)` the block is

    `B₃ · diag(i e^{iθ}, 1) · B₂ · diag(−i e^{iφ}, 1) · B₁`.
    """

    splitters = 3
    combination: ClassVar[tuple[tuple[float, ...], ...]] = SEPARATE
    tapped: ClassVar[tuple[Place, ...]] = ((0, 0), (1, 0))

    def factors(self, theta: Tensor) -> Factors:
        return three_splitter_factors(theta + self.offset.to(theta), self.errors.to(theta))

    def _blocks(self, theta_phi: Tensor) -> Blocks:
        return three_splitters(theta_phi[..., 0], theta_phi[..., 1], theta_phi[..., 2:])


@final
class ImperfectMicroring(Microring):
    """`Microring` with different rings: `a_ij = a (1 + spread · n)`, `r_ij = r (1 + spread · n′)`, within (0.01, 0.99).

    The phases are `φ + phase · n″`. All n ~ N(0, 1) are drawn from `seed`.

    **Arguments:**

    - `d_in`, `d_out`: numbers of inputs and outputs.
    - `a` (default 0.8), `r` (default 0.9): nominal round-trip amplitude and self-coupling.
    - `spread` (default 0.05), `phase` (rad, default 0).
    - `seed` (default 0).
    - `cost` (default None).
    """

    amplitudes: Tensor
    couplings: Tensor

    def __init__(
        self,
        d_in: int,
        d_out: int,
        *,
        a: float = 0.8,
        r: float = 0.9,
        spread: float = 0.05,
        phase: float = 0.0,
        seed: int = 0,
        cost: Cost | None = None,
    ) -> None:
        super().__init__(d_in, d_out, a=a, r=r, cost=cost)
        _check_spreads(self, spread=spread, phase=phase)
        generator = torch.Generator().manual_seed(seed)
        drawn = [normal(self.theta.size, mean, std, generator) for mean, std in ((a, a * spread), (r, r * spread))]
        self.amplitudes, self.couplings = (each.clamp(INSIDE, 1 - INSIDE) for each in drawn)
        self.offset: Tensor = normal(self.theta.size, 0.0, phase, generator)

    def transfer(self, x: Tensor, theta: Tensor, /) -> Tensor:
        return apply_matrix(self.coefficients(theta), x)

    def coefficients(self, theta: Tensor, /) -> Tensor:
        return self._matrix(theta, *(each.to(theta) for each in (self.amplitudes, self.couplings, self.offset)))

    def transfer_with(self, x: Tensor, theta: Tensor, a: Tensor, r: Tensor, offset: Tensor) -> Tensor:
        """The same bank with other rings, each of `a`, `r` and `offset` (P,), differentiable in them too."""
        return apply_matrix(self._matrix(theta, a, r, offset), x)

    def _matrix(self, theta: Tensor, a: Tensor, r: Tensor, offset: Tensor) -> Tensor:
        # The formula of `Microring` as a sum of squares: rings at a = r answer 0 at resonance, and never less.
        beat = 4 * r * a * ((theta + offset) / 2).sin().square()
        t = (((a - r).square() + beat) / ((1 - r * a).square() + beat)).clamp_min(torch.finfo(theta.dtype).tiny).sqrt()
        return (2 * t - 1).unflatten(-1, (*self.out_shape, *self.in_shape))


def _check_spreads(device: object, **spreads: float) -> None:
    for name, value in spreads.items():
        if not 0 <= value < math.inf:
            raise ArgumentError(f"`{type(device).__name__}({name}=...)` must be finite and not negative, got {value}")
