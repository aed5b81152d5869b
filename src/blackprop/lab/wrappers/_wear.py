"""The pulses that the cells of a device have had, and how many they may have."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._round import Round
from blackprop.core.capabilities._pulse import Pulse
from blackprop.errors import ArgumentError, LimitError


class Wear:
    """Counts `Σ S |p_j q_i|` for each cell: the expected pulses of random trains, the exact ones of others.

    - `pulses` (tiles, d_out, d_in): so far.
    """

    def __init__(self, spec: Declaration, limit: float) -> None:
        spec.capability(Pulse)
        if not limit > 0:
            raise ArgumentError(f"`Guarded(wear=...)` must be positive, got {limit}")
        self.limit, self._d_in = limit, spec.d_in
        self.pulses: Tensor = torch.zeros(spec.theta.size, spec.d_out, spec.d_in, dtype=torch.float64)

    def of(self, parts: Iterable[Round]) -> Tensor:
        """The pulses of these rounds, of the shape of `pulses`."""
        total = torch.zeros_like(self.pulses)
        for part in parts:
            for query in part:
                if query.capability is Pulse and len(query.x):
                    trains = query.x.detach().cpu().double()
                    x, d = trains[:, : self._d_in].abs(), trains[:, self._d_in : -1].abs() * trains[:, -1:]
                    total[query.theta.detach().cpu() != 0] += d.mT @ x
        return total

    def check(self, parts: Iterable[Round]) -> None:
        """Raise `LimitError` if a cell would have more pulses than it may."""
        after = self.pulses + self.of(parts)
        if float(after.max()) > self.limit * (1 + 1e-9):
            tile, row, column = (int(n) for n in torch.unravel_index(after.argmax(), after.shape))
            had, would = float(self.pulses[tile, row, column]), float(after[tile, row, column])
            raise LimitError(
                f"the cell of row {row} and column {column} of tile {tile} has had {had:.6g} pulses and would have "
                f"{would:.6g}, of {self.limit:.6g} that the guard allows: replace the array, or raise "
                "`Guarded(wear=...)`"
            )

    def load(self, pulses: Tensor) -> None:
        if pulses.shape != self.pulses.shape:
            raise ValueError(f"pulses of shape {tuple(pulses.shape)}, and here {tuple(self.pulses.shape)}")
        self.pulses = pulses.clone()
