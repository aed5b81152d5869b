"""Variations of a crossbar's cells: at every programming, at every reading, and in time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from blackprop.core._query import Query, same_setting
from blackprop.core.capabilities._capability import Survives, find
from blackprop.core.capabilities._cells import Cells
from blackprop.core.capabilities._read_back import ReadBack
from blackprop.devices._simulator import apply_matrix
from blackprop.devices._wrapper import Wrapper
from blackprop.devices.electronic._crossbar import Crossbar
from blackprop.errors import ArgumentError


@final
class Memristive(Wrapper):
    """A `Crossbar` with the variations of its `memristor` at every programming and every reading:

    `G = (G_wanted + σ_p(G_wanted) n) · max(1, (t − t_p)/t₀)^−ν`, n ~ N(0, 1) new at every programming t_p, ν ~ N(drift,
    drift_spread) of each cell from `seed`;

    and `y + √(Σ_j x_j² σ²_ij) n′`, σ²_ij that of the conductances' read noise, new at every row (without wires). Stuck
    cells neither spread nor drift. Rows that are read backwards meet the noise of the transposed matrix. The oracle is
    that of the present cells.

    **Arguments:**

    - `crossbar`: the crossbar.
    - `seed` (default 0).
    - `clock` (s, default `time.monotonic`): t, read once a round.
    """

    survives: ClassVar[Survives] = (ReadBack, Cells)

    def __init__(self, crossbar: Crossbar, *, seed: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        if not isinstance(crossbar, Crossbar):
            raise ArgumentError(f"`Memristive(crossbar)` wraps a Crossbar, got {crossbar!r}")
        super().__init__(crossbar)
        self._crossbar, self._array, self._cell = crossbar, crossbar.array, crossbar.memristor
        self._clock = clock
        self._generator = torch.Generator().manual_seed(seed)
        normal = torch.randn(self._array.theta.size, generator=self._generator)
        exponents = (self._cell.drift + self._cell.drift_spread * normal).clamp_min(0)
        self._exponents = exponents.where(~crossbar.stuck, 0.0)
        self._error = torch.zeros_like(self._exponents)  # of the last programming
        self._since = clock()
        self.noise: float = self._typical_noise()

    def _typical_noise(self) -> float:
        """The noise of both kinds, relative to the initial weights of the crossbar."""
        theta = self.theta.draw(torch.Generator().manual_seed(0))
        g = self._crossbar.wanted(theta)
        variance = self._array.variance(self._cell.spread(g).square() + (self._cell.read * g).square())
        return float(variance.sum() / (theta / math.sqrt(self.in_shape[0])).square().sum()) ** 0.5

    def _standing(self, theta: Tensor, now: float) -> Tensor:
        """The present conductances (cells,) of the setting written last."""
        age = max(1.0, (now - self._since) / self._cell.settled)
        return (self._crossbar.conductances(theta) + self._error.to(theta)).clamp_min(0) * age ** -self._exponents.to(
            theta
        )

    def _write(self, theta: Tensor, now: float) -> None:
        self.theta.check(theta)
        g = self._crossbar.wanted(theta.detach())
        normal = torch.randn(g.shape, generator=self._generator, dtype=g.dtype).to(g.device)
        self._error = (self._cell.spread(g) * normal).masked_fill(self._crossbar.stuck.to(g.device), 0.0)
        self._since = now

    def _fluctuating(self, y: Tensor, x: Tensor, g: Tensor, backwards: bool = False) -> Tensor:
        """Add the noise of the conductances g (cells,) to the reading y."""
        if not self._cell.read:
            return y
        matrix = self._array.variance((self._cell.read * g).square())
        variance = apply_matrix(matrix.mT if backwards else matrix, x.detach().square())
        return y + variance.sqrt() * torch.randn(y.shape, generator=self._generator, dtype=y.dtype).to(y.device)

    def program(self, theta: Tensor, /) -> None:
        self.forget()
        self._write(theta, self._clock())
        self._programmed = theta.detach().clone()

    def read(self, x: Tensor, /) -> Tensor:
        if self._programmed is None:
            raise ArgumentError(f"{self} must be programmed before it is read")
        with torch.no_grad():
            g = self._standing(self._programmed, self._clock())
            return self._fluctuating(self._array.transfer(x, g), x, g)

    def read_back(self, g: Tensor, /) -> Tensor:
        if self._programmed is None:
            raise ArgumentError(f"{self} must be programmed before it is read")
        standing = self._standing(self._programmed, self._clock())
        self._array.program(standing)
        return self._fluctuating(self._array.read_back(g), g, standing, backwards=True)

    @torch.no_grad()
    def measure(self, queries: Sequence[Query], /) -> list[Tensor]:
        for query in queries:
            if query.capability is not None:
                find(str(self), self.capabilities, query.capability)
        sent: list[Query] = []
        standing: Tensor | None = None
        now, held = self._clock(), self._programmed
        self._programmed = None
        for query in queries:
            fresh = not same_setting(held, query.theta)
            if fresh:
                self._write(query.theta, now)
                held = query.theta
            if fresh or standing is None:
                standing = self._standing(query.theta, now)
            sent.append(replace(query, theta=standing))
        readings = self._array.measure(sent)
        self._programmed = held.detach().clone() if held is not None else None
        return [
            self._fluctuating(y, query.x, query.theta, query.capability is ReadBack)
            for y, query in zip(readings, sent, strict=True)
        ]

    def oracle(self) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda x, theta: self._array.transfer(x, self._standing(theta, self._clock()))

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "generator": self._generator.get_state(),
            "error": self._error,
            "age": self._clock() - self._since,
            "setting": self._programmed,
        }

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        generator, error, age = torch.Generator(), state["error"], float(state["age"])
        generator.set_state(state["generator"].cpu())
        if error.shape != self._error.shape:
            raise ValueError(f"errors {tuple(error.shape)} for {len(self._error)} cells")
        setting = state["setting"]
        super().load_state_dict(state)
        self._generator, self._error, self._since = generator, error.clone(), self._clock() - age
        self._programmed = None if setting is None else setting.clone()
