"""Spiking neurons by the compiled loop."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from blackprop.core._compiling import or_none

LONG = 2**16  # steps of neurons from which compiled code serves: fewer take less time than the import of Numba


class Membranes(NamedTuple):
    """The parts of all neurons, and the numbers that they share, as `_loops.fire` takes them."""

    parts: Tensor
    numbers: tuple[float, ...]
    resting: int


def serves(updates: int, place: torch.device) -> bool:
    """Whether compiled code serves so many steps of neurons."""
    return updates >= LONG and place.type == "cpu" and _loop() is not None


def fire(
    x: Tensor, trains: bool, phases: Tensor, per_step: float, strength: Tensor, kept: Tensor, membranes: Membranes
) -> Tensor:
    """Counts of spikes (S, rows, d_out); the arguments are those of `_loops.fire`, and x (1 or S, rows, ...) rates or
    counts.
    """
    loop = _loop()
    assert loop is not None
    out = strength.new_empty(len(strength), x.shape[1], kept.numel() // 2)
    none = np.zeros((0, 0, 0, 0)) if not trains else np.zeros((0, 0, 0))
    rows = (none, x.numpy()) if trains else (x.numpy(), none)
    arrays = (phases.numpy(), per_step, strength.numpy(), kept.numpy(), tuple(membranes.parts.numpy()))
    loop(*rows, *arrays, tuple(map(float, membranes.numbers)), membranes.resting, out.numpy())
    return out


@cache
def _loop() -> Callable[..., None] | None:
    return or_none(_build, "spiking neurons")


def _build() -> Callable[..., None]:
    from blackprop.devices.electronic.compiled import _loops  # noqa: PLC0415

    one, rows, none = np.ones(2), np.ones((1, 1, 1)), np.zeros((0, 0, 0, 0))
    numbers = np.ones(5)
    _loops.fire(
        rows, none, one[:1], 1.0, np.ones((1, 1, 2)), one, tuple(np.ones((5, 1))), tuple(numbers), 1, np.ones((1, 1, 1))
    )
    return _loops.fire
