"""In-memory computing as an ordinary differential equation: cells charge a line from the spike of their input on."""

from __future__ import annotations

import math
from functools import partial
from typing import final

import torch
from torch import Tensor

from blackprop.core._declaration import Cost, Coupling
from blackprop.core._theta import ThetaSpec
from blackprop.devices._matrix import uniform
from blackprop.devices._simulator import Simulator
from blackprop.errors import ArgumentError

SMALL = 1e-3  # below this a series of (1 − e^−z)/z to z³ is exact in float32 and better than the quotient


@final
class InMemoryODE(Simulator):
    """A line of cells, `dv/dt = g(t) − f(t) v` from v(0) = 0 to t = 1, with inputs coded in time, `t_j = 1 − x_j`:

    `g = Σ_j w_ij Θ(t − t_j)`, `f = Σ_j (w_ij / E±) Θ(t − t_j)`, E₊ for positive weights and E₋ for negative ones.

    Each cell pulls v to its reversal potential, so that f ≥ 0 bends the sum of products: for |E| → ∞, `v(1) = Σ_j w_ij
    x_j`. The output spikes at `clip(1 − v(1), 0, 1)`. It is coded as the inputs are, so that the reading is `y =
    clip(v(1), 0, 1)`, and layers stack.

    Solved exactly: between two spikes f and g are constant, and for `Z_k = Π_{q>k} exp(−f_q Δt_q)`, `v(1) = Σ_k
    (g_k/f_k)(Z_k − Z_{k−1})`. Inputs outside [0, 1] are clipped. θ holds the weights, row-major. Starts from
    U(±√(3/d_in)).

    **Arguments:**

    - `d_in`, `d_out`: numbers of inputs and outputs.
    - `reversal` (units of v, default (4, −4)): (E₊, E₋), E₊ > 0 > E₋; infinite values are allowed.
    - `spread` (default 0): relative standard deviation of the actual weights, `w (1 + spread · n)`, hidden from all
      methods.
    - `seed` (default 0): draws them.
    - `cost` (default None).

    Source: Sakemi et al., arXiv 2412.09010.
    """

    stacks = True

    def __init__(
        self,
        d_in: int,
        d_out: int,
        *,
        reversal: tuple[float, float] = (4.0, -4.0),
        spread: float = 0.0,
        seed: int = 0,
        cost: Cost | None = None,
    ) -> None:
        positive, negative = reversal
        if not negative < 0 < positive:
            raise ArgumentError(f"`InMemoryODE(reversal=...)` takes (E₊, E₋) with E₋ < 0 < E₊, got {reversal}")
        if not 0 <= spread < math.inf:
            raise ArgumentError(f"`InMemoryODE(spread=...)` must be finite and not negative, got {spread}")
        size, bound = d_in * d_out, math.sqrt(3 / d_in)
        theta = ThetaSpec(size, partial(uniform, size, -bound, bound))
        super().__init__(d_in, d_out, theta, coupling=Coupling.ROW, cost=cost)
        self.reversal: tuple[float, float] = (positive, negative)
        self._factors = 1 + spread * torch.randn(size, generator=torch.Generator().manual_seed(seed))

    def transfer(self, x: Tensor, theta: Tensor, /) -> Tensor:
        return self.potential(x, theta).clamp(0, 1)

    def potential(self, x: Tensor, theta: Tensor) -> Tensor:
        """Return v(1) (..., rows, d_out) of the rows x (..., rows, d_in), exactly."""
        w = self._weights(theta)
        times, order = (1 - x.clamp(0, 1)).sort(-1)
        if w.dim() == 3 and x.dim() == 2:
            times, order = times.unsqueeze(0), order.expand(len(w), *order.shape)
        cells = torch.cat((w, self._leaks(w)), -2).mT  # the contributions of input j to g and f, (..., d_in, 2 d_out)
        settings = () if w.dim() == 2 else (torch.arange(len(w), device=w.device).unsqueeze(-1),)
        lengths = torch.cat((times, torch.ones_like(times[..., :1])), -1).diff(dim=-1)
        both = cells.new_zeros(())
        v = cells.new_zeros(())
        for j, length in zip(order.unbind(-1), lengths.unbind(-1), strict=True):
            both = both + cells[(*settings, j)]
            g, f = both.chunk(2, -1)
            v = _later(v, g, f, length.unsqueeze(-1))
        return v

    def on_grid(self, x: Tensor, theta: Tensor, points: int, offset: float = 0.5) -> Tensor:
        """Return v(1) (..., rows, d_out) with every spike shared by its two neighbours on a grid, linearly in time.

        The grid is 0, (k + offset)/points and 1, 0 < offset < 1. Its error falls as 1/(points² |E|), and it costs
        points + 1 matrix products in place of sorting all spikes.
        """
        if points < 1 or not 0 < offset < 1:
            raise ArgumentError(f"a grid takes at least 1 point and an offset within (0, 1), got {points} and {offset}")
        w, times = self._weights(theta), 1 - x.clamp(0, 1)
        inner = [(k + offset) / points for k in range(points)]
        grid = torch.tensor([0.0, *inner, 1.0], dtype=x.dtype, device=x.device)
        lengths = grid.diff()
        # The part of each spike that is there in each interval, (..., intervals · rows, d_in).
        there = ((grid[1:, None, None] - times.unsqueeze(-3)) / lengths[:, None, None]).clamp(0, 1)
        intervals, rows = there.shape[-3:-1]
        there = there.flatten(-3, -2)
        drive, leak = ((there @ each.mT).unflatten(-2, (intervals, rows)) for each in (w, self._leaks(w)))
        v = drive.new_zeros(())
        for g, f, length in zip(drive.unbind(-3), leak.unbind(-3), lengths, strict=True):
            v = _later(v, g, f, length)
        return v

    def _weights(self, theta: Tensor) -> Tensor:
        return (theta * self._factors.to(theta)).unflatten(-1, (*self.out_shape, *self.in_shape))

    def _leaks(self, w: Tensor) -> Tensor:
        positive, negative = self.reversal
        return w.relu() / positive + (w - w.relu()) / negative


def _later(v: Tensor, g: Tensor, f: Tensor, length: Tensor) -> Tensor:
    """Return v after `length` of constant g and f ≥ 0: `v + (g − f v) (1 − e^{−f Δt})/f`."""
    decay = f * length
    small = decay < SMALL
    safe = torch.where(small, 1.0, decay)
    mean = torch.where(small, 1 - decay / 2 + decay.square() / 6, -torch.expm1(-safe) / safe)
    return v + (g - f * v) * length * mean
