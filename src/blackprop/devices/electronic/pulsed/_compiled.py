"""Pulses in compiled code, where Numba is installed: the same law, with random numbers of its own."""

from __future__ import annotations

import math
import warnings
from functools import cache
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from blackprop.devices.electronic.cells._cell import Cell, Population
from blackprop.devices.electronic.cells._exponential import ExponentialStep
from blackprop.devices.electronic.cells._linear import AffineCell
from blackprop.devices.electronic.cells._piecewise import PiecewiseStep
from blackprop.devices.electronic.cells._power import PowerStep
from blackprop.errors import BlackpropWarning

LEAST = 2**15  # cells times trains from which on compiled code pays for its start
LONGEST = 63  # slots that a number of 64 bits holds, beside a sign


def serves(cell: Cell, cells: int, trains: Tensor) -> bool:
    """Whether compiled code moves so many cells by these trains: by kind, sizes and installation, never by values."""
    known = isinstance(cell, AffineCell | ExponentialStep | PowerStep | PiecewiseStep)
    fits = cells * len(trains) >= LEAST and int(trains[:, -1].max()) <= LONGEST
    return known and fits and loops() is not None


def fired(trains: Tensor, d_in: int, generator: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw the slots in which lines fire, as bits: those of the columns (d_in, B) and of the rows (d_out, B)."""
    code, state, given = _code(), _state(generator), trains.numpy()
    lines = trains.shape[1] - 1
    columns, rows = (np.empty((n, len(trains)), np.uint64) for n in (d_in, lines - d_in))
    code.fire(given, 0, d_in, state, columns)
    code.fire(given, d_in, lines, state, rows)
    return columns, rows


def moved(
    cell: Cell, w: Tensor, columns: np.ndarray, rows: np.ndarray, cells: Population, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return the weights (rows, columns) after the trains, and which cells were touched, as `Cell.moved` does."""
    code, state = _code(), _state(generator)
    flat = {name: value.numpy().reshape(-1) for name, value in cells.items()}
    result, touched = w.clone(memory_format=torch.contiguous_format), torch.zeros(w.shape, dtype=torch.bool)
    kind, names, par = _law(cell, code)
    extra = np.stack([flat[name] for name in names]) if names else np.zeros((0, 0), np.float32)
    nodes = (cell.nodes_up, cell.nodes_down) if isinstance(cell, PiecewiseStep) else ((1.0, 1.0),) * 2
    code.move(
        result.view(-1).numpy(),
        touched.view(-1).numpy(),
        rows,
        columns,
        kind,
        *(flat[name] for name in ("low", "high", "up", "down")),
        extra,
        np.array((*par, *(0.0,) * (7 - len(par))), np.float64),
        *(np.array(each, np.float64) for each in nodes),
        state,
    )
    return result, touched


def _law(cell: Cell, code: ModuleType) -> tuple[int, tuple[str, ...], tuple[float, ...]]:
    """The kind of the step, the further properties of cells on which it depends, and its numbers."""
    if isinstance(cell, AffineCell):
        kind = code.AFFINE if cell.additive else code.MULTIPLICATIVE
        return kind, ("slope_up", "slope_down", "noise_up", "noise_down"), (cell.noise,)
    if isinstance(cell, ExponentialStep):
        factors = (
            cell.amplitude_up * math.exp(cell.rate_up * cell.b),
            cell.amplitude_down * math.exp(-cell.rate_down * cell.b),
        )
        rates = 2 * cell.a * cell.rate_up, -2 * cell.a * cell.rate_down
        return code.EXPONENTIAL, (), (cell.noise, *factors, *rates, cell.noise_floor, cell.noise_slope)
    if isinstance(cell, PowerStep):
        return code.POWER, ("power_up", "power_down"), (cell.noise,)
    return code.PIECEWISE, (), (cell.noise,)


def _state(generator: torch.Generator) -> np.ndarray:
    """The state of a stream of its own, drawn from the generator."""
    return torch.randint(-(2**63), 2**63 - 1, (1,), generator=generator).numpy().view(np.uint64)


def _code() -> ModuleType:
    found = loops()
    assert found is not None
    return found


@cache
def loops() -> ModuleType | None:
    """The compiled loops; None where Numba is absent or fails."""
    try:
        from blackprop.devices.electronic.pulsed import _loops  # noqa: PLC0415

        state, one = np.ones(1, np.uint64), np.ones(1, np.float32)
        line, pair = np.zeros((1, 1), np.uint64), np.ones(2)
        _loops.fire(np.zeros((1, 3), np.float32), 0, 1, state, line)  # compiles, or fails here
        extra = np.ones((4, 1), np.float32)
        _loops.move(
            one.copy(), np.zeros(1, np.bool_), line, line, 0, one, one, one, one, extra, np.ones(7), pair, pair, state
        )
    except Exception as error:
        if not (isinstance(error, ModuleNotFoundError) and error.name == "numba"):
            warnings.warn(
                f"pulses are computed without compiled code: Numba fails with {error}", BlackpropWarning, stacklevel=4
            )
        return None
    return _loops
