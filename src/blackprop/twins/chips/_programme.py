"""Which settings a calibration of a rectangular mesh reads, stage by stage, from the last column to the first."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from blackprop.twins.chips._columns import Columns, cone

Draw = Callable[..., Tensor]


class Role(enum.Enum):
    """The change that a programming of a stage makes to the base setting, besides drawing all later columns anew."""

    TURN = "φ of the column, by a quarter turn"
    FLIP = "the column before, so that one input of each block changes its sign"
    BOTH = "both, where a block is seen at one output alone"
    EDGE = "φ of one of the last two columns, θ stepped for the quadratures"
    EDGE_FLIP = "the same behind the flip of the column before"


@dataclass(frozen=True, eq=False)
class Programming:
    """One programming of the stage `column`: `drive` (columns, n, 2), rad; `turned` where φ is a quarter turn on."""

    column: int
    role: Role
    turned: bool
    drive: Tensor


def roles(half: list[int | None], column: int) -> tuple[Role, ...]:
    """The roles of the programmings of a stage before the last two columns, for the `half` of `cone`."""
    if not column:
        return (Role.TURN,)
    if half[column] is None:
        return (Role.TURN, Role.FLIP)
    # The half's light may reach one output alone: two flips would show both its quadratures, four do so reliably.
    return (Role.TURN, *[Role.FLIP] * 4, Role.BOTH)


def steps(half: list[int | None], column: int) -> int:
    """How many steps of θ a stage of the last two columns takes at each of its four states."""
    if column == len(half) - 1:
        return 2
    return 3 if half[-1] is None else 4


def count(modes: int, outputs: int, repeats: int = 1) -> int:
    """How many programmings a growth has: `2N + 15` for N modes that are all read, and `2N − 5` more for each repeat of
    a stage; for m outputs about 4(N − m) more of either.
    """
    _, half = cone(modes, outputs)
    edges = 4 * sum(steps(half, column) for column in (modes - 1, modes - 2))
    return edges + repeats * sum(len(roles(half, column)) for column in range(modes - 2))


def programme(columns: Columns, repeats: int, generator: torch.Generator) -> tuple[Tensor, list[Programming]]:
    """The base setting (columns, n, 2), and all programmings. None depends on a reading."""

    def drawn(*shape: int) -> Tensor:
        low, high = columns.drives.low, columns.drives.high
        return low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)

    shape = (columns.count, columns.widest, 2)
    base, found = drawn(*shape), []
    for column in range(columns.count - 1, -1, -1):
        if column >= columns.count - 2:
            found += _edges(columns, column, base, drawn)
            continue
        for _ in range(repeats):
            for role in roles(columns.half, column):
                drive = _anew(base, column, drawn)
                if role is not Role.FLIP:
                    drive[column, :, 1] += math.pi / 2
                if role is not Role.TURN:
                    drive[column - 1] += flipped(columns, column)[0]
                found.append(Programming(column, role, False, drive))
    return base, found


def _edges(columns: Columns, column: int, base: Tensor, drawn: Draw) -> list[Programming]:
    """φ at 0 and a quarter turn, flipped and not, two to four of each with θ stepped by quarter turns: without known
    phases behind it, a column's own θ gives the second quadrature.
    """
    drives = columns.drives
    part = min(1.0, drives.room / (drives.high - drives.low))
    start, found = drives.low + part * (drawn(columns.widest) - drives.low), []
    for role in (Role.EDGE, Role.EDGE_FLIP)[: 2 if column else 1]:
        for turned in (False, True):
            for step in range(steps(columns.half, column)):
                drive = _anew(base, column, drawn)
                drive[column, :, 0] = start + step * math.pi / 2
                drive[column, :, 1] = drives.straight + (math.pi / 2 if turned else 0.0)
                if role is Role.EDGE_FLIP:
                    drive[column - 1] += flipped(columns, column)[0]
                found.append(Programming(column, role, turned, drive))
    return found


def _anew(base: Tensor, column: int, drawn: Draw) -> Tensor:
    """The base with all later columns drawn anew."""
    drive = base.clone()
    later = drive[column + 1 :]
    later.copy_(drawn(*later.shape))
    return drive


def flipped(columns: Columns, column: int) -> tuple[Tensor, Tensor]:
    """The change (n, 2) of the column before that flips one input of each block of `column`, and the signs (modes,)
    that the field before `column` takes.

    θ of a block turns its upper output by π. The last block of an even column has an input that no θ reaches: there φ
    of the block before turns by π, which flips both its outputs.
    """
    change = torch.zeros(columns.widest, 2, dtype=torch.float64)
    signs = torch.ones(columns.modes, dtype=torch.float64)
    blocks, span = columns.blocks(column - 1), columns.span(column - 1)
    change[:blocks, 0] = math.pi
    signs[span.start : span.stop : 2] = -1
    if column % 2 == 0:
        last = columns.widest - 2
        change[last] = torch.tensor([0.0, math.pi], dtype=torch.float64)
        signs[span.start + 2 * last : span.start + 2 * last + 2] = -1
    return change, signs
