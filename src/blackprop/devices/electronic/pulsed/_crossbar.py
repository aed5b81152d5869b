"""A crossbar whose cells are moved by pulses and keep their weights themselves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor

from blackprop.core._declaration import Cost
from blackprop.core._theta import ThetaSpec
from blackprop.core.capabilities._pulse import Pulse
from blackprop.core.capabilities._read_back import ReadBack
from blackprop.devices._base import Device
from blackprop.devices._imperfections import restored
from blackprop.devices.electronic.cells._cell import Cell
from blackprop.devices.electronic.cells._linear import ConstantStep
from blackprop.devices.electronic.pulsed import _compiled as compiled
from blackprop.devices.electronic.pulsed._trains import drawn, merged
from blackprop.errors import ArgumentError, ShapeError


@final
class PulsedCrossbar(Device):
    """`y = Σ_n θ_n W_n x`: crossbars of cells that are moved by pulses (`core.Pulse`), read in both directions.

    The weights W_n (d_out, d_in) of the N tiles are states of the device. They are not set: pulses move them, and they
    are known only from readings. The setting θ (N,) holds the gains of the tiles; a setting with one gain reads one
    tile, and sends pulses to it alone.

    The state is part of `state_dict`, and so of a checkpoint: a resumed run gives bit-identical results.

    **Arguments:**

    - `d_in`, `d_out`: numbers of columns and rows.
    - `cell` (default `ConstantStep()`): the kind of the cells; the properties of each are drawn from `seed`.
    - `gains` (default (1,)): the initial θ, and by their number N. The methods for two tiles take `(γ, 1)`: a fast tile
      and the main one, which is the last.
    - `initial` (units of W, default None): the main tile starts from U(−initial, initial), cut off at the bounds of its
      cells; None takes 1/√d_in. The other tiles start at 0.
    - `longest` (default 31): the most slots of a train.
    - `seed` (default 0): draws the cells, the initial weights, and all noise.
    - `cost` (default None): `bp.Cost(pulse=...)` states the time of a slot.

    **Raises** `ArgumentError` for arguments outside these ranges.

    Source: Gokmen and Vlasov, Front. Neurosci. 10, 333 (2016).
    """

    cell: ConstantStep | Cell

    def __init__(
        self,
        d_in: int,
        d_out: int,
        cell: Cell | None = None,
        *,
        gains: Sequence[float] = (1.0,),
        initial: float | None = None,
        longest: int = 31,
        seed: int = 0,
        cost: Cost | None = None,
    ) -> None:
        cell = ConstantStep() if cell is None else cell
        if not isinstance(cell, Cell):
            raise ArgumentError(f"`PulsedCrossbar(cell=...)` takes a `devices.cells.Cell`, got {cell!r}")
        gains = tuple(float(gain) for gain in gains)
        if not gains or not all(math.isfinite(gain) for gain in gains) or not any(gains):
            raise ArgumentError(f"`PulsedCrossbar(gains=...)` takes a finite gain for each tile, got {gains}")
        if initial is not None and not 0 <= initial < math.inf:
            raise ArgumentError(f"`PulsedCrossbar(initial=...)` must be finite and not negative, got {initial}")
        pulse = Pulse(cell.granularity, cell.low, cell.high, longest)
        theta = ThetaSpec(len(gains), lambda generator: torch.tensor(gains, device=generator.device))
        super().__init__(d_in, d_out, theta, linear=True, cost=cost, capabilities=(ReadBack(), pulse))
        self.cell, self._generator = cell, torch.Generator().manual_seed(seed)
        self._made: dict[str, Any] = {"initial": initial, "longest": longest, "seed": seed, "cost": cost}
        shape = (len(gains), *self.out_shape, *self.in_shape)
        self._cells = cell.draw(shape, self._generator)
        start = torch.zeros(shape)
        scale = self.in_shape[0] ** -0.5 if initial is None else initial
        start[-1] = scale * (2 * torch.rand(shape[1:], generator=self._generator) - 1)
        self._weights = torch.minimum(torch.maximum(start, self._cells["low"]), self._cells["high"])
        self._offsets = torch.zeros(shape)  # of the weights as they are read from those that the pulses move
        self._rewrite(torch.ones(shape, dtype=torch.bool))
        self._matrix: Tensor | None = None

    def tiled(self, *gains: float) -> PulsedCrossbar:
        """Return a new crossbar of the same size, cells and seed, with a tile for each of these gains."""
        sizes = self.in_shape[0], self.out_shape[0]
        return PulsedCrossbar(*sizes, self.cell, gains=gains, **self._made)

    def program(self, theta: Tensor, /) -> None:
        self.theta.check(theta)
        self._programmed, self._matrix = theta.detach().clone(), None

    def read(self, x: Tensor, /) -> Tensor:
        return x @ self._effective(x).mT

    def read_back(self, g: Tensor, /) -> Tensor:
        """`(Σ_n θ_n W_n)ᵀ g` for rows g (rows, d_out) sent into the outputs: (rows, d_in)."""
        return g @ self._effective(g)

    def pulse(self, trains: Tensor, /) -> None:
        """Send trains (B, d_in + d_out + 1), one after the other, to the tiles with a gain; see `core.Pulse`.

        Decay and diffusion of all tiles act once, at the end.
        """
        gains = self._held()
        if trains.dim() != 2 or trains.shape[1] != self.in_shape[0] + self.out_shape[0] + 1:
            raise ShapeError(f"a train has {self.in_shape[0] + self.out_shape[0] + 1} numbers, got {trains.shape}")
        trains = trains.detach().cpu().float()
        for tile, gain in enumerate(gains.tolist()):
            if not (gain and len(trains)):
                continue
            if compiled.serves(self.cell, self._weights[0].numel(), trains):
                self._move_compiled(tile, trains, gain < 0)
            else:
                x, d = drawn(trains, self.in_shape[0], self._generator)
                self._move(tile, x, d if gain > 0 else -d)
        self._weights = self.cell.aged(self._weights, self._cells, self._generator)
        self._matrix = None

    def age(self, batches: int) -> None:
        """Let the decay and the diffusion of so many mini-batches act without a pulse, as between two uses."""
        if not (isinstance(batches, int) and batches >= 0):
            raise ArgumentError(f"`age(batches)` takes a whole number from 0, got {batches!r}")
        self._weights = self.cell.aged(self._weights, self._cells, self._generator, batches)
        self._matrix = None

    def _move(self, tile: int, x: Tensor, d: Tensor) -> None:
        """Move a tile by slots in which lines fire: x (B, S, d_in), d (B, S, d_out)."""
        rows, columns = (fires.any(1).any(0).nonzero().squeeze(1) for fires in (d, x))
        if not len(rows) or not len(columns):
            return
        x, d = merged(x[..., columns], d[..., rows])
        block = (tile, rows[:, None], columns)
        cells = {name: value[block] for name, value in self._cells.items()}
        w, touched = self.cell.moved(self._weights[block], x, d, cells, self._generator)
        self._weights[block] = w
        if self.cell.write_noise:
            mask = torch.zeros(self._weights.shape, dtype=torch.bool)
            mask[block] = touched
            self._rewrite(mask)

    def _move_compiled(self, tile: int, trains: Tensor, turned: bool) -> None:
        if turned:
            trains = torch.cat((-trains[:, : self.in_shape[0]], trains[:, self.in_shape[0] :]), 1)
        columns, rows = compiled.fired(trains, self.in_shape[0], self._generator)
        cells = {name: value[tile] for name, value in self._cells.items()}
        w, touched = compiled.moved(self.cell, self._weights[tile], columns, rows, cells, self._generator)
        self._weights[tile] = w
        if self.cell.write_noise:
            mask = torch.zeros(self._weights.shape, dtype=torch.bool)
            mask[tile] = touched
            self._rewrite(mask)

    def _rewrite(self, touched: Tensor) -> None:
        """Draw the write noise of the touched cells anew."""
        size = self.cell.write_noise * self.cell.step
        if size and bool(touched.any()):
            self._offsets[touched] = size * torch.randn(int(touched.sum()), generator=self._generator)

    def _held(self) -> Tensor:
        if self._programmed is None:
            raise ArgumentError(f"{self} must be programmed with the gains of its tiles before it is used")
        return self._programmed

    def _effective(self, like: Tensor) -> Tensor:
        """`Σ_n θ_n W_n` (d_out, d_in), as it is read."""
        gains, kept = self._held(), self._matrix
        if kept is None or (kept.dtype, kept.device) != (like.dtype, like.device):
            total = self._weights + self._offsets if self.cell.write_noise else self._weights
            kept = self._matrix = torch.tensordot(gains.detach().cpu().float(), total, 1).to(like)
        return kept

    def state_dict(self) -> dict[str, Any]:
        state = {"weights": self._weights.clone(), "offsets": self._offsets.clone()}
        return {**state, "generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        generator, weights, offsets = restored(state["generator"]), state["weights"], state["offsets"]
        if weights.shape != self._weights.shape or offsets.shape != self._offsets.shape:
            raise ValueError(f"weights of shape {tuple(weights.shape)}, and here {tuple(self._weights.shape)}")
        self._generator, self._weights, self._offsets = generator, weights.clone(), offsets.clone()
        self._matrix = None

    def __repr__(self) -> str:
        tiles = f"{self.theta.size} tiles of " if self.theta.size > 1 else ""
        return f"PulsedCrossbar({self.in_shape[0]} -> {self.out_shape[0]}, {tiles}{type(self.cell).__name__})"
