"""Light, a modulator and a fibre: the optoelectronic delay reservoir."""

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
    around_a_loop,
    check_counts,
    check_finite,
    check_not_negative,
    check_positive,
    masked,
    not_negative,
    stacked_rows,
    start_from,
    whole_steps,
)

GAIN, PHASE, MASK = range(3)  # places in θ; the mask is the rest


@final
class Ikeda(Reservoir):
    """The optoelectronic delay reservoir: light through a Mach–Zehnder modulator circulates in a fibre, and

    `T ẋ = −x + β sin²(x(t−τ) + m(t) u + φ)`.

    A sample is held for the time τ (`period`, if given), in which the mask m steps through `nodes` values; x is read
    after each: the virtual nodes. θ holds the gain β ≥ 0, the phase φ (rad), then the mask, node by node, `(nodes,
    channels)`. From rest, x = `initial` at all earlier times.

    A fixed point x₀ is stable for every delay while `|β sin 2(x₀ + φ)| < 1`: there the fibre forgets. Beyond, at
    negative slopes, it oscillates with the period 2τ, and then becomes chaotic. It is bounded by β.

    **Integration** by the exact response of the filter to a drive that is linear over a step, h = period / nodes /
    substeps: error O(h²), stable for every h. τ must be a whole number of steps; a delay is one product of matrices.

    **Arguments:**

    - `time` (samples), `channels` (default 1), `nodes` (default 50).
    - `delay` (s, default 20.87e-6): τ; `period` (s, default τ); `response` (s, default 240e-9): T; `substeps` (default
      1).
    - `gain` (default 0.9), `phase` (rad, default 0.3): initial values. The mask starts from U(−`scale`, `scale`), in
      rad.
    - `initial` (default 0).
    - `cost` (default: time · period seconds a row).

    Sources: Larger et al., Opt. Express 20, 3241 (2012), for τ and T; Paquot et al., Sci. Rep. 2, 287 (2012).
    """

    response: float
    initial: float
    substeps: int

    strength = "gain"

    def __init__(
        self,
        time: int,
        channels: int = 1,
        nodes: int = 50,
        *,
        delay: float = 20.87e-6,
        period: float | None = None,
        response: float = 240e-9,
        substeps: int = 1,
        gain: float = 0.9,
        phase: float = 0.3,
        scale: float = 0.3,
        initial: float = 0.0,
        cost: Cost | None = None,
    ) -> None:
        period = delay if period is None else period
        check_counts("Ikeda", time=time, channels=channels, nodes=nodes, substeps=substeps)
        check_positive("Ikeda", delay=delay, period=period, response=response, scale=scale)
        check_finite("Ikeda", phase=phase, initial=initial)
        check_not_negative("Ikeda", gain=gain)
        self.response, self.initial, self.substeps = response, initial, substeps
        self.step: float = period / nodes / substeps
        self.delay_steps: int = whole_steps("Ikeda", delay, self.step)
        size = MASK + nodes * channels
        theta = ThetaSpec(size, partial(start_from, (gain, phase), size, scale), *not_negative(size))
        cost = cost if cost is not None else Cost(programming=1e-4, row=time * period)
        super().__init__(time, channels, nodes, theta, cost=cost)

    def rest(self, x: Tensor, theta: Tensor) -> Tensor:
        return x.new_full((*stacked_rows(x, theta), self.delay_steps + 1), self.initial)

    def evolve(self, x: Tensor, theta: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        gain, phase = theta[..., GAIN : GAIN + 1], theta[..., PHASE : PHASE + 1]
        drive = masked(x, theta[..., MASK:]).flatten(-2).movedim(-1, 0).repeat_interleave(self.substeps, 0) + phase
        steps = torch.arange(self.delay_steps, device=x.device)
        lag = steps.unsqueeze(1) - steps
        keep = math.exp(-self.step / self.response)
        memory = torch.where(lag >= 0, (keep ** lag.clamp_min(0)).to(x), 0)
        mean = (1 - keep) * self.response / self.step  # of e^{−t/T} over a step

        def advance(back: Tensor, now: Tensor, drive: Tensor) -> Tensor:
            first, last = ((light + drive).sin().square() for light in (back[:-1], back[1:]))
            fed = gain * ((mean - keep) * first + (1 - mean) * last)
            fed = torch.cat((fed[:1] + keep * now, fed[1:]))
            return (memory[: len(fed), : len(fed)] @ fed.flatten(1)).view_as(fed)

        light, state = around_a_loop(advance, drive, state)
        return light[self.substeps - 1 :: self.substeps].movedim(0, -1).unflatten(-1, self.out_shape), state
