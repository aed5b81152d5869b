"""Memory and parity capacity: how much of its past a reservoir remembers, and functions of the past it computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from blackprop.errors import ArgumentError
from blackprop.experiments.tasks.sequences import _ridge as ridge
from blackprop.experiments.tasks.sequences._objective import products, squared_correlations
from blackprop.experiments.tasks.sequences._series import bits

Reservoir = Callable[[Tensor], Tensor]  # (B, steps, 1) -> (B, steps, nodes)


@dataclass(frozen=True)
class Measured:
    """`total = Σ_k r²(k)` over the delays k = 1, 2, …, and the conditions of the measurement."""

    r2: tuple[float, ...]
    train_steps: int  # after washout
    test_steps: int
    washout: int

    @property
    def total(self) -> float:
        return sum(self.r2)


def memory(bits: Tensor, delays: int) -> Tensor:
    """Return the targets of short-term memory: `s(t − k)` for k = 1 to `delays`, (..., steps, delays); zero before the
    first bit.
    """
    return torch.stack([_delayed(bits, k) for k in range(1, delays + 1)], -1)


def parity(bits: Tensor, delays: int) -> Tensor:
    """Return the targets of the parity check: `(s(t) + s(t − 1) + … + s(t − k)) mod 2` for k = 1 to `delays`."""
    sums = torch.stack([_delayed(bits, k) for k in range(delays + 1)], -1).cumsum(-1)
    return sums[..., 1:] % 2


def memory_capacity(reservoir: Reservoir, steps: int, generator: torch.Generator, **settings: int) -> Measured:
    """Measure `Σ_k r²(k)` of readouts that recall the bit k steps ago. `settings` are arguments of `capacity`."""
    return capacity(reservoir, memory, steps, generator, **settings)


def parity_capacity(reservoir: Reservoir, steps: int, generator: torch.Generator, **settings: int) -> Measured:
    """Measure `Σ_k r²(k)` of readouts of the parity of the last k + 1 bits. `settings` are arguments of `capacity`."""
    return capacity(reservoir, parity, steps, generator, **settings)


@torch.no_grad()
def capacity(
    reservoir: Reservoir,
    targets: Callable[[Tensor, int], Tensor],
    steps: int,
    generator: torch.Generator,
    *,
    delays: int = 15,
    train: int = 16,
    test: int = 8,
    washout: int = 50,
) -> Measured:
    """Measure `Σ_k r²(k)` over k = 1 to `delays`: the squared correlations between the targets and ridge readouts of
    the reservoir's states, on test sequences.

    **Costs** `train + test` rows.

    **Arguments:**

    - `reservoir`: maps (B, steps, 1) to (B, steps, nodes).
    - `targets`: `memory` or `parity`.
    - `steps`: random bits of a sequence.
    - `generator`: draws the bits.
    - `delays` (default 15): the longest delay in steps.
    - `train` (default 16), `test` (default 8): the numbers of training and test sequences.
    - `washout` (steps, default 50): the start of each sequence, which is not counted.

    **Raises** `ArgumentError` if `washout` is shorter than `delays` or not shorter than `steps`.
    """
    if not delays <= washout < steps:
        raise ArgumentError(
            f"`capacity(washout=...)` must be between the {delays} delays and the {steps} steps, got {washout}"
        )
    x = bits(train + test, steps, generator)
    y = targets(x, delays)[:, washout:]
    states = reservoir(x.unsqueeze(-1))[:, washout:]
    readout = ridge.fit(states[:train], y[:train])
    found = squared_correlations(products(readout(states[train:]), y[train:]))
    kept = steps - washout
    return Measured(tuple(found.tolist()), train * kept, test * kept, washout)


def _delayed(bits: Tensor, delay: int) -> Tensor:
    return torch.cat((torch.zeros_like(bits[..., :delay]), bits[..., : bits.shape[-1] - delay]), -1)
