"""Spin waves that scatter in a waveguide, excited and read at all cells at once."""

from __future__ import annotations

import math
from functools import partial
from typing import final

import torch
from torch import Tensor

from blackprop.core._declaration import Cost
from blackprop.core._theta import ThetaSpec
from blackprop.devices.reservoirs._reservoir import (
    Reservoir,
    check_counts,
    check_finite,
    check_not_negative,
    check_positive,
    decay,
    masked,
    not_negative,
    stacked_rows,
    start_from,
)

POWER, MASK = range(2)  # places in θ; a detuning for each node follows the mask


@final
class SpinWaveScatterer(Reservoir):
    """A waveguide as a chain of resonant cells, all driven and read in parallel: the envelopes a_n of the cells obey

    `ȧ_n = −(Γ + i Γδ_n + i N|a_n|²) a_n − i (J_n a_{n+1} + J_{n−1} a_{n−1}) + κ (Σ_c m_nc u_c + p)`,

    and a diode at each of the `nodes` cells reads |a_n|² at the end of a sample, which is held for `period`. The
    couplings J_n differ by `disorder`, so that waves scatter; the ends reflect. If all are J, a wave of wave number k
    has the frequency 2J cos k and travels at most 2J cells a second. θ holds the pump p ≥ 0, the antennas' mask m, node
    by node, `(nodes, channels)`, then the detunings δ, one a cell, in linewidths Γ. From rest, a = `initial`. Cells do
    not amplify: a wave decays by e^{−Γt} after t, and is remembered in interference until then.

    **Integration** by Strang splitting, error O(h²) for h = period / substeps: half of the drive; half a step of
    damping and shifts, exact; a step of the coupling, exact and unitary; and the same in reverse. Stable for every h.

    **Arguments:**

    - `time` (samples), `channels` (default 1), `nodes` (default 50).
    - `period` (s, default 100e-9); `substeps` (default 4).
    - `damping` Γ, `coupling` J (rad/s); `shift` N (rad/s per unit of |a|²).
    - `disorder` (default 0.2): standard deviation of ln J_n, drawn from `seed`.
    - `injection` (1/s): κ.
    - `pump` (default 0.3): initial p. The mask starts from U(−`scale`, `scale`) and the detunings from U(−1, 1).
    - `cost` (default: time · period seconds a row).
    """

    damping: float
    shift: float
    injection: float
    initial: complex
    substeps: int
    step: float

    strength = "pump"

    def __init__(
        self,
        time: int,
        channels: int = 1,
        nodes: int = 50,
        *,
        period: float = 100e-9,
        substeps: int = 4,
        damping: float = 2 * math.pi * 1e6,
        coupling: float = 2 * math.pi * 3e6,
        disorder: float = 0.2,
        shift: float = -2 * math.pi * 1e6,
        injection: float = 2 * math.pi * 1e6,
        pump: float = 0.3,
        scale: float = 1.0,
        initial: complex = 0.0,
        seed: int = 0,
        cost: Cost | None = None,
    ) -> None:
        check_counts("SpinWaveScatterer", time=time, channels=channels, nodes=nodes, substeps=substeps)
        check_positive("SpinWaveScatterer", period=period, damping=damping, injection=injection, scale=scale)
        check_not_negative("SpinWaveScatterer", coupling=coupling, disorder=disorder, pump=pump)
        check_finite("SpinWaveScatterer", shift=shift, initial=initial)
        self.damping, self.shift, self.injection = damping, shift, injection
        self.initial, self.substeps, self.step = initial, substeps, period / substeps
        generator = torch.Generator().manual_seed(seed)
        neighbours = coupling * (disorder * torch.randn(nodes - 1, generator=generator, dtype=torch.float64)).exp()
        self.couplings: Tensor = torch.diag(neighbours, 1) + torch.diag(neighbours, -1)
        self._hop = torch.linalg.matrix_exp(-1j * self.step * self.couplings)
        size = MASK + nodes * channels + nodes
        theta = ThetaSpec(size, partial(_initial, pump, scale, nodes, size), *not_negative(size))
        cost = cost if cost is not None else Cost(programming=1e-4, row=time * period)
        super().__init__(time, channels, nodes, theta, cost=cost)

    def rest(self, x: Tensor, theta: Tensor) -> Tensor:
        shape = (*stacked_rows(x, theta), self.out_shape[-1])
        return torch.full(shape, self.initial, dtype=x.dtype.to_complex(), device=x.device)

    def evolve(self, x: Tensor, theta: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        nodes = self.out_shape[-1]
        pump, mask, detuning = theta.split([MASK, theta.shape[-1] - MASK - nodes, nodes], -1)
        half = self.step / 2
        drive = (masked(x, mask) + pump.unsqueeze(-2).unsqueeze(-2)) * (self.injection * half)
        turn = (-self.damping * half * detuning).unsqueeze(-2)
        turn, hop = torch.complex(turn.cos(), turn.sin()), self._hop.to(state).mT
        readings = []
        for entering in drive.unbind(-2):
            for _ in range(self.substeps):
                state = self._decay(state + entering) * turn
                state = self._decay(state @ hop * turn) + entering
            readings.append(state.real.square() + state.imag.square())
        return torch.stack(readings, -2), state

    def setting_bytes(self, rows: int) -> int:
        return 16 * self.theta.size + 16 * rows * (self.out_shape[0] + 4) * self.out_shape[1]

    def _decay(self, state: Tensor) -> Tensor:
        return decay(state, self.damping * self.step / 2, 0.0, self.shift / self.damping)


def _initial(pump: float, scale: float, nodes: int, size: int, generator: torch.Generator) -> Tensor:
    theta = start_from((pump,), size, 1.0, generator)
    theta[MASK:-nodes] *= scale
    return theta
