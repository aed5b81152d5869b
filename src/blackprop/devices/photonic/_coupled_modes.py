"""Coupled nonlinear resonators, each with a port of its own, in their steady state."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from operator import index
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import pad

from blackprop.core._declaration import Cost
from blackprop.core._theta import ThetaSpec
from blackprop.core.capabilities._fields import Fields, as_complex
from blackprop.core.capabilities._read_back import ReadBack
from blackprop.devices._matrix import normal
from blackprop.devices._simulator import Simulator
from blackprop.devices.photonic._steady_state import steady_state
from blackprop.errors import ArgumentError


@final
class CoupledModes(Simulator):
    """`y = Re(in + √κ a)` at the outputs, in the steady state of `ȧ = −κ a/2 − i J a − i g |a|² a − √κ in`.

    N modes a, each with a port of the rate κ, which is an entrance and an exit. A row drives the first d_in modes with
    the phase 0; the last d_out modes are read in one quadrature. J is real and symmetric. Its entries `J_jl` of the
    edges are θ, in units of a rate as κ is, and the others are 0: `(j, j)` is the detuning of a mode, `(j, l)` the
    coupling of two. θ starts from N(0, κ²/N).

    The state is the one that follows a drive that is raised slowly from 0. With g = 0 the device is linear. At a strong
    drive modes may become bistable or oscillate: `ReadingError`.

    **Declares** `Fields`: a drive of any phase at every mode, and the field of every mode. The error by the
    nonlinearity is declared as `8 g/κ²`, which is `(2/κ) g |a|²` of a mode that an input of size 1 drives in resonance,
    and above the errors seen at random settings. With g = 0 `ReadBack`, too.

    **Arguments:**

    - `d_in`, `d_out`: numbers of inputs and outputs.
    - `modes` (default d_in + d_out): N, at least each of them. With fewer than their sum some modes are both.
    - `edges` (default all pairs j ≤ l): the entries of J that are parameters, pairs of modes.
    - `kappa` (1/s or any unit of a rate, default 1): κ.
    - `kerr` (the same unit by a photon, default 0): g.
    - `cost` (default None).

    **Raises** `ReadingError` if the modes do not settle.

    Source: arXiv 2508.11750.
    """

    kappa: float
    kerr: float

    stacks = True

    def __init__(
        self,
        d_in: int,
        d_out: int,
        *,
        modes: int | None = None,
        edges: Iterable[tuple[int, int]] | None = None,
        kappa: float = 1.0,
        kerr: float = 0.0,
        cost: Cost | None = None,
    ) -> None:
        self.modes: int = d_in + d_out if modes is None else modes
        if not isinstance(self.modes, int) or self.modes < max(d_in, d_out, 1):
            raise ArgumentError(f"`CoupledModes(modes=...)` must be at least {max(d_in, d_out)}, got {modes!r}")
        if not 0 < kappa < math.inf:
            raise ArgumentError(f"`CoupledModes(kappa=...)` must be positive and finite, got {kappa}")
        if not 0 <= kerr < math.inf:
            raise ArgumentError(f"`CoupledModes(kerr=...)` must be finite and not negative, got {kerr}")
        self.kappa, self.kerr = float(kappa), float(kerr)
        self.edges: tuple[tuple[int, int], ...] = _edges(self.modes, edges)
        j, l = torch.tensor(self.edges).unbind(1)  # noqa: E741
        self._elements = j * self.modes + l, l * self.modes + j  # of J, row-major
        fields = Fields(
            ports=self.modes,
            places=self.modes,
            outputs=tuple(range(self.modes - d_out, self.modes)),
            bonds=self.edges,
            asymmetry=8 * self.kerr / self.kappa**2,
            rate=self.kappa,
        )
        size = len(self.edges)
        theta = ThetaSpec(size, partial(normal, size, 0.0, self.kappa / math.sqrt(self.modes)))
        linear = self.kerr == 0
        capabilities = [fields, ReadBack()] if linear else [fields]
        super().__init__(d_in, d_out, theta, linear=linear, cost=cost, capabilities=capabilities)
        self.kept_from: int | None = d_in if linear else None

    def transfer(self, x: Tensor, theta: Tensor, /) -> Tensor:
        drive = pad(x, (0, self.modes - x.shape[-1]))
        a = self._settled(torch.complex(drive, torch.zeros_like(drive)), theta.to(x.dtype))
        return (drive + math.sqrt(self.kappa) * a.real)[..., self.modes - self.out_shape[0] :]

    def read_fields(self, x: Tensor, /) -> Tensor:
        """The fields a (rows, 2, N) of the modes, for drives (rows, 2, N) at their ports."""
        if self._programmed is None:
            raise ArgumentError(f"{self} must be programmed before it is read")
        with torch.no_grad():
            a = self._settled(as_complex(x), self._programmed.to(x.dtype))
        return torch.stack((a.real, a.imag), 1)

    def matrix(self, theta: Tensor) -> Tensor:
        """J (..., N, N) of settings (..., P)."""
        above, below = (element.to(theta.device) for element in self._elements)
        flat = theta.new_zeros(*theta.shape[:-1], self.modes**2)
        flat = flat.index_copy(-1, above, theta).index_copy(-1, below, theta)
        return flat.unflatten(-1, (self.modes, self.modes))

    def setting_bytes(self, rows: int) -> int:
        return 8 * self.theta.size + 16 * (self.modes + rows) * self.modes

    def _settled(self, drive: Tensor, theta: Tensor) -> Tensor:  # (..., rows, N)
        J = self.matrix(theta)
        if J.dim() == 2 and drive.dim() == 2:
            return steady_state(J[None], drive[None], self.kappa, self.kerr)[0]
        settings = J.flatten(0, -3)
        rows = drive.expand(*J.shape[:-2], *drive.shape[-2:]).flatten(0, -3)
        return steady_state(settings, rows, self.kappa, self.kerr).view(*J.shape[:-2], *drive.shape[-2:])


def _edges(modes: int, edges: Iterable[tuple[int, int]] | None) -> tuple[tuple[int, int], ...]:
    """The pairs (j, l), j ≤ l, of the edges, each once."""
    if edges is None:
        return tuple((j, l) for j in range(modes) for l in range(j, modes))  # noqa: E741
    try:
        found = tuple((min(j, l), max(j, l)) for j, l in ((index(j), index(l)) for j, l in edges))  # noqa: E741
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"`CoupledModes(edges=...)` takes pairs of modes, got {edges!r}") from error
    if not found or len(set(found)) < len(found) or min(map(min, found)) < 0 or max(map(max, found)) >= modes:
        raise ArgumentError(
            f"`CoupledModes(edges=...)` takes pairs of the modes 0 to {modes - 1}, each pair once, got {edges!r}"
        )
    return found
