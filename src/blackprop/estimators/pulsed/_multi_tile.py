"""Residual learning over several tiles, each finer than the next."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._procedure import Procedure
from blackprop.errors import IncompatibleError
from blackprop.estimators.pulsed._base import PulsedUpdate, positive, unit_rows, whole


class MultiTile(PulsedUpdate):
    """`W = Σ_n γ_n W_n`: the finest tile 0 takes the gradient, and each tile is transferred to the next, coarser one:
    `W_{n+1,k} ← W_{n+1,k} + β r^n W_{n,k}` every `every · slower^n` steps, for the next columns k.

    The gains of the device are `(γ^{N−1}, …, γ, 1)`, with γ a little above 1/(number of states). Each further tile
    multiplies the smallest step of the whole weight by γ.

    **Costs** at most `(B + Σ_n columns/(every slower^n)) · longest` pulses and `Σ_n columns/(every slower^n)` rows a
    step.

    **Arguments:**

    - `transfer` (default 0.1): β. `growth` (default 1.2): r. They do not scale with the learning rate.
    - `every` (steps, default 2), `slower` (default 5).
    - `columns` (default 1): how many columns are read at a time. A tile of d_in columns is transferred once in
      `every slower^n d_in/columns` steps; a training needs many such sweeps of the finest tile.

    **Raises** `IncompatibleError` for fewer than two tiles, and for gains that do not grow.

    Source: Li et al., arXiv 2510.02516.
    """

    transfer: float
    growth: float
    every: int
    slower: int
    columns: int

    def __init__(
        self, transfer: float = 0.1, growth: float = 1.2, every: int = 2, slower: int = 5, columns: int = 1
    ) -> None:
        super().__init__()
        positive(self, transfer=transfer, growth=growth)
        whole(self, every=every, slower=slower, columns=columns)
        self.transfer, self.growth = transfer, growth
        self.every, self.slower, self.columns = every, slower, columns
        self.next: list[int] = []  # the column of each tile that is read next

    def check(self, spec: Declaration) -> None:
        super().check(spec)
        gains = spec.theta.draw(torch.Generator()).abs()
        if len(gains) < 2 or not bool((gains[1:] > gains[:-1]).all()):
            raise IncompatibleError(
                f"`MultiTile` needs at least two tiles, from the finest to the main one, and {spec.name} has the gains "
                f"{gains.tolist()}: give the device `gains=(γ², γ, 1)`"
            )

    def _allocate(self, spec: Declaration) -> None:
        self.next = [0] * (spec.theta.size - 1)

    def _update(
        self, x: Tensor, grad_y: Tensor, rate: float, theta: Tensor, spec: Declaration, generator: torch.Generator
    ) -> Procedure[None]:
        del generator
        yield [self._descend(0, x, rate * grad_y, theta, spec)]
        for tile in range(len(theta) - 1):
            if (self.steps + 1) % (self.every * self.slower**tile):
                continue
            columns = (self.next[tile] + torch.arange(min(self.columns, spec.d_in))) % spec.d_in
            (read,) = yield [self._columns(tile, columns, theta, spec)]
            self.next[tile] = (self.next[tile] + len(columns)) % spec.d_in
            moved = self.transfer * self.growth**tile * read.flatten(1)
            yield [self._outer(tile + 1, unit_rows(columns, x, spec.d_in), moved, theta, spec)]

    def _counters(self) -> dict[str, Any]:
        return {"next": list(self.next)}

    def _take_counters(self, state: dict[str, Any]) -> None:
        self.next = [int(n) for n in state["next"]]
