"""The echo-state network: the digital baseline for physical reservoirs."""

from __future__ import annotations

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
    masked,
    not_negative,
    stacked_rows,
    start_from,
)
from blackprop.errors import ArgumentError

RADIUS, LEAK, BIAS, MASK = range(4)  # places in θ; the mask is the rest


@final
class EchoState(Reservoir):
    """The echo-state network, `s_t = (1 − a) s_{t−1} + a tanh(ρ W s_{t−1} + m u_t + b w)`, read at every node.

    W is dense, drawn from U(−1, 1) by `seed` and scaled to the spectral radius 1, w from U(−1, 1). θ holds the spectral
    radius ρ ≥ 0, the leak a in [0, 1], the bias b, then the input weights m, node by node, `(nodes, channels)`. From
    rest, s = `initial`. With ρ < 1 it forgets in practice; with a bias, well beyond.

    **Arguments:**

    - `time` (samples), `channels` (default 1), `nodes` (default 200).
    - `radius` (default 0.9), `leak` (default 1), `bias` (default 0.3): initial values. The input weights start from
      U(−`scale`, `scale`).
    - `initial` (default 0).
    - `seed` (default 0).
    - `cost` (default None): a digital device costs no lab time.

    Source: Jaeger, GMD report 148 (2001).
    """

    strength = "spectral radius"

    def __init__(
        self,
        time: int,
        channels: int = 1,
        nodes: int = 200,
        *,
        radius: float = 0.9,
        leak: float = 1.0,
        bias: float = 0.3,
        scale: float = 0.3,
        initial: float = 0.0,
        seed: int = 0,
        cost: Cost | None = None,
    ) -> None:
        check_counts("EchoState", time=time, channels=channels, nodes=nodes)
        check_not_negative("EchoState", radius=radius)
        check_positive("EchoState", scale=scale)
        check_finite("EchoState", bias=bias, initial=initial)
        if not 0 < leak <= 1:
            raise ArgumentError(f"`EchoState(leak=...)` must be above 0 and at most 1, got {leak}")
        self.initial = initial
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.rand(nodes, nodes, generator=generator, dtype=torch.float64) * 2 - 1
        self.weights: Tensor = drawn / torch.linalg.eigvals(drawn).abs().max()
        self.offsets: Tensor = torch.rand(nodes, generator=generator, dtype=torch.float64) * 2 - 1
        size = MASK + nodes * channels
        low, high = not_negative(size)
        low[LEAK], high[LEAK] = 0.0, 1.0
        theta = ThetaSpec(size, partial(start_from, (radius, leak, bias), size, scale), low, high)
        super().__init__(time, channels, nodes, theta, cost=cost if cost is not None else Cost())

    def rest(self, x: Tensor, theta: Tensor) -> Tensor:
        return x.new_full((*stacked_rows(x, theta), self.out_shape[-1]), self.initial)

    def evolve(self, x: Tensor, theta: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        radius, leak, bias = (theta[..., i, None, None] for i in (RADIUS, LEAK, BIAS))
        if not torch.is_grad_enabled() and state.dim() in (2, 3) and not torch._C._are_functorch_transforms_active():
            return self._in_place(x, theta, state)
        drive = masked(x, theta[..., MASK:]) + (bias * self.offsets.to(x)).unsqueeze(-2)
        weights, states = self.weights.to(x).mT, []
        for entering in drive.unbind(-2):
            excited = (radius * (state @ weights) + entering).tanh()
            state = state + leak * (excited - state)
            states.append(state)
        return torch.stack(states, -2), state

    def _in_place(self, x: Tensor, theta: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """The same without a derivative: the states take the place of the drive, one product a sample."""
        radius, leak, bias = (theta[..., i, None, None] for i in (RADIUS, LEAK, BIAS))
        mask, x = theta[..., MASK:].unflatten(-1, (-1, x.shape[-1])).mT, x.movedim(-2, 0)
        states = (x if x.dim() == state.dim() + 1 else x.unsqueeze(1)) @ mask
        states += bias * self.offsets.to(x)
        weights = (radius * self.weights.to(x).mT).contiguous()
        state, leaky = state.to(states), bool((leak != 1).any())
        for now in states.unbind():
            excited = now.addmm_(state, weights) if now.dim() == 2 else now.baddbmm_(state, weights)
            excited.tanh_()
            state = torch.lerp(state, excited, leak, out=excited) if leaky else excited
        return states.movedim(0, -2).contiguous(), state.clone()
