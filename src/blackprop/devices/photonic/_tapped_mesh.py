"""A mesh as built: interferometers that lose light, and power taps with noise and a gain of their own."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor
from torch.nn.functional import pad

from blackprop.core.capabilities._read_back import ReadBack, ReadBackField
from blackprop.core.capabilities._taps import Taps
from blackprop.devices._matrix import normal
from blackprop.devices._simulator import Simulator
from blackprop.devices.photonic._light import Factors, inside, powers
from blackprop.devices.photonic._mzi import Mesh
from blackprop.errors import ArgumentError


@final
class TappedMesh(Simulator):
    """A mesh whose interferometers lose light, and whose power taps are noisy and unequal.

    A tap reads `P (1 + gain · n) (1 + noise · n′)`, with n drawn once for each tap and n′ at every reading. Each of the
    two arms behind each of the two phase shifters of an interferometer loses `loss/2 · (1 + spread · n″)` dB, at least
    0. Only the nominal loss and the noise are declared (`Taps`). Readings `y = Re(U x)` are noise-free; wrap the device
    in `Noisy` for noise there.

    **Arguments:**

    - `mesh`: an `MZIMesh`, `ThreeSplitterMesh`, or one of the two with errors. Its errors hold here too.
    - `loss` (dB an interferometer, default 0).
    - `spread` (default 0): relative standard deviation of the loss.
    - `edges` (default True): whether the outermost waveguides lose as much as an interferometer in each odd column,
      which they pass without one. False for edges without loss.
    - `noise` (default 0): relative noise of a tap.
    - `gain` (default 0): relative standard deviation of the taps' gains.
    - `seed` (default 0).

    Sources of the model: Hughes et al., Optica 5, 864 (2018); Pai et al., Science 380, 398 (2023).
    """

    mesh: Mesh
    modes: int
    loss: float

    def __init__(
        self,
        mesh: Mesh,
        *,
        loss: float = 0.0,
        spread: float = 0.0,
        edges: bool = True,
        noise: float = 0.0,
        gain: float = 0.0,
        seed: int = 0,
    ) -> None:
        if not isinstance(mesh, Mesh):
            raise ArgumentError(f"`TappedMesh(mesh)` takes a mesh of interferometers, got {mesh!r}")
        for name, value in (("loss", loss), ("spread", spread), ("noise", noise), ("gain", gain)):
            if not 0 <= value < math.inf:
                raise ArgumentError(f"`TappedMesh({name}=...)` must be finite and not negative, got {value}")
        self.mesh, self.modes, self.loss = mesh, mesh.modes, loss
        blocks = mesh.theta.size // 2
        taps = Taps(mesh.modes, blocks, mesh.combination, self._transmission() if loss else (), noise)
        super().__init__(
            mesh.in_shape,
            mesh.out_shape,
            mesh.theta,
            linear=True,
            cost=mesh.cost,
            capabilities=[ReadBack(), ReadBackField(mesh.modes), taps],
        )
        self.kept_from: int | None = mesh.modes
        self._generator = torch.Generator().manual_seed(seed)
        self._tap_noise = noise
        self.gains: Tensor = 1 + normal(blocks * taps.per_unit, 0.0, gain, self._generator)
        decibels = (loss / 2) * (1 + normal(4 * blocks, 0.0, spread, self._generator)).clamp_min(0)
        self.amplitudes: Tensor = (10 ** (-decibels / 20)).view(2, blocks, 2, 1)  # shifter, block, arm
        self._edge = 10 ** (-loss / 20) if edges else 1.0

    def transfer(self, x: Tensor, theta: Tensor, /) -> Tensor:
        light = pad(x, (0, self.modes - x.shape[-1])).to(theta.dtype.to_complex())
        return self._behind(light, theta).contiguous()

    def setting_bytes(self, rows: int) -> int:
        return 16 * self.theta.size * (rows + 4)  # the field behind each factor of each block, and the factors

    def tap_powers(self, x: Tensor, /) -> Tensor:
        """The powers (rows, K) that the taps read, for fields x (rows, 2, N) at the inputs."""
        with torch.no_grad():
            light = torch.complex(x[:, 0], x[:, 1])
            _, fields = inside(light, self._factors(self._held()), self.modes, self._edge)
            taps = torch.stack([fields[factor][..., arm] for factor, arm in self.mesh.tapped], -1)
            read = powers(taps).flatten(1).to(x) * self.gains.to(x)
            if self._tap_noise:
                drawn = torch.randn(read.shape, generator=self._generator, dtype=read.dtype)
                read = read * (1 + self._tap_noise * drawn.to(read.device))
        return read

    def read_back_field(self, g: Tensor, /) -> Tensor:
        """`z = Uᵀ g` (rows, 2, N) for rows g (rows, d_out) sent into the outputs."""
        theta = self._held()
        with torch.enable_grad():
            x = torch.zeros(len(g), self.modes, dtype=theta.dtype.to_complex(), device=g.device, requires_grad=True)
            (back,) = torch.autograd.grad(self._behind(x, theta), x, g.detach().to(theta))
        return torch.stack((back.real, -back.imag), 1).to(g)  # autograd returns the conjugate

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        self._generator.set_state(state["generator"].cpu())

    def _behind(self, x: Tensor, theta: Tensor) -> Tensor:
        """`Re(U x)` (rows, d_out) of fields x (rows, N), without the light in between."""
        blocks = functools.reduce(lambda before, factor: factor @ before, self._factors(theta))
        field, _ = inside(x, [blocks], self.modes, self._edge)
        return field.real[:, : self.out_shape[0]]

    def _factors(self, theta: Tensor) -> Factors:
        first, second, *rest = self.mesh.factors(theta)
        first_loss, second_loss = self.amplitudes.to(theta)
        return [first_loss * first, second_loss * second, *rest]

    def _held(self) -> Tensor:
        if self._programmed is None:
            raise ArgumentError(f"{self} must be programmed before it is read")
        return self._programmed

    def _transmission(self) -> tuple[tuple[float, ...], ...]:
        """The nominal share of the power at each tap: a run of equal blocks for each column, even ones first."""
        half = self.modes // 2
        columns = [(2 * i, half) for i in range(half)] + [(2 * i + 1, half - 1) for i in range(half) if half > 1]
        passed = [(factor + 1) / 2 for factor, _ in self.mesh.tapped]  # interferometers passed within the column
        return tuple(
            (blocks, *(10 ** (-self.loss * (column + part) / 10) for part in passed)) for column, blocks in columns
        )
