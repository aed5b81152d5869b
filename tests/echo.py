"""Reservoirs of a few lines for the tests of sequences, and a trial on one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

import blackprop as bp
from blackprop.experiments import Allowance, Trial, train
from blackprop.experiments.reservoirs import ReadoutAlone
from blackprop.experiments.reservoirs._readout import Refitted


def echo_state(time, channels, nodes, *, radius=0.9, scale=1.0, seed=0) -> bp.Device:
    """`s ← tanh(W s + V u + 0.2 θ)` in NumPy: a black box."""
    drawn = np.random.default_rng(seed)
    inner = drawn.normal(size=(nodes, nodes)) * (drawn.random((nodes, nodes)) < 0.1)
    inner *= radius / np.abs(np.linalg.eigvals(inner)).max()
    inner, outer = inner.astype(np.float32), scale * drawn.uniform(-1, 1, (nodes, channels)).astype(np.float32)

    def echo(x, theta):
        pushed, bias = x.numpy() @ outer.T, 0.2 * theta.numpy()
        states = np.zeros((len(x), time + 1, nodes), np.float32)
        for t in range(time):
            states[:, t + 1] = np.tanh(states[:, t] @ inner.T + pushed[:, t] + bias)
        return torch.from_numpy(states[:, 1:].copy())

    def start(generator):
        return 2 * torch.rand(nodes, generator=generator) - 1

    return bp.devices.from_callable(
        echo, in_shape=(time, channels), out_shape=(time, nodes), theta_size=nodes, initial=start
    )


class Ring(bp.Simulator):
    """`s_i ← tanh(θ_i s_{i−1} + θ_{n+i} u)`, differentiable; untrained it forgets at once."""

    def __init__(self, time, channels, nodes):
        self.nodes = nodes
        super().__init__(
            (time, channels), (time, nodes), bp.ThetaSpec(2 * nodes, lambda g: torch.rand(2 * nodes, generator=g))
        )

    def transfer(self, x, theta):
        around, inward = theta[: self.nodes], theta[self.nodes :]
        state, states = torch.zeros_like(x[:, 0, :1] * inward), []
        for t in range(x.shape[1]):
            state = torch.tanh(around * state.roll(1, -1) + inward * x[:, t, :1])
            states.append(state)
        return torch.stack(states, 1)


@dataclass(frozen=True)
class Made:
    """A kind of device that is made by a function of the two shapes and the seed."""

    function: Callable[..., bp.Device]

    @property
    def value(self) -> str:
        return "made"

    def make(self, d_in, d_out, seed=0) -> bp.Device:
        return self.function(d_in, d_out, seed)


def run(task, make, method, seed, allowance, *, refit=False) -> dict[str, Any]:
    """The result of a trial; rows and programmings those of training."""
    result = train(Trial(task, Refitted(method) if refit else method, Made(make), seed, allowance=allowance))
    return {**result, **{name: spent(result, name) for name in ("rows", "programmings")}}


def spent(result, name) -> int:
    """All but those of evaluation."""
    return sum(count for purpose, count in result[name].items() if purpose != "evaluate")


def by_ridge(task, **settings) -> dict[str, Any]:
    """The scores of a ridge readout of an echo state."""
    return run(task, lambda i, o, _: echo_state(*i, o[1], **settings), ReadoutAlone(), 0, Allowance(10_000))
