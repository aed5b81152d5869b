"""Designs of integrated meshes: which pairs of modes meet in which column, and in which order θ lists their blocks."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import final

import torch
from torch import Tensor

from blackprop.devices.photonic._blocks import Blocks, three_splitters, two_splitters
from blackprop.errors import ArgumentError

Pair = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Layout:
    """A mesh of so many `modes`: `columns` of pairs (upper, lower mode), in the order in which light meets them.

    `places` holds, for every block column by column, its number in θ: the block's phases are `θ[2b]` and `θ[2b + 1]`.
    """

    modes: int
    columns: tuple[tuple[Pair, ...], ...]
    places: Tensor  # (blocks,)

    @property
    def blocks(self) -> int:
        return len(self.places)

    @cached_property
    def partners(self) -> Tensor:  # (columns, modes)
        """The mode that each mode meets in each column, itself where it passes."""
        partner = torch.arange(self.modes).repeat(len(self.columns), 1)
        for row, pairs in zip(partner, self.columns, strict=True):
            for upper, lower in pairs:
                row[upper], row[lower] = lower, upper
        return partner

    @cached_property
    def elements(self) -> tuple[Tensor, Tensor]:  # two of (columns, modes)
        """Where a mode's own factor and its partner's stand in `(a, b, c, d, 0, 1)` of all blocks in the order of θ."""
        n, number = self.blocks, iter(self.places.tolist())
        own = torch.full((len(self.columns), self.modes), 4 * n + 1)
        other = torch.full_like(own, 4 * n)
        for column, pairs in enumerate(self.columns):
            for upper, lower in pairs:
                block = next(number)
                own[column, upper], own[column, lower] = block, 3 * n + block
                other[column, upper], other[column, lower] = n + block, 2 * n + block
        return own, other

    @cached_property
    def members(self) -> list[Tensor]:
        """The numbers in θ of each column's blocks."""
        return list(self.places.split([len(pairs) for pairs in self.columns]))


@dataclass(frozen=True)
class Design(abc.ABC):
    """A way to lay out a mesh.

    **Arguments:** `splitters`, in each block: 2 for the block of `MZIMesh`, 3 for that of `ThreeSplitterMesh`.
    """

    splitters: int = 2

    def __post_init__(self) -> None:
        if self.splitters not in (2, 3):
            raise ArgumentError(f"`{type(self).__name__}(splitters=...)` must be 2 or 3, got {self.splitters!r}")

    @abc.abstractmethod
    def fitting(self, ports: int) -> int:
        """The least number of modes of this design that has so many ports."""

    @abc.abstractmethod
    def columns(self, modes: int) -> list[list[Pair]]:
        """The pairs (upper, lower mode) of each column."""

    def places(self, columns: list[list[Pair]]) -> Tensor:
        """The number in θ of each block, column by column; the same order by default."""
        return torch.arange(sum(map(len, columns)))

    def layout(self, modes: int) -> Layout:
        """The layout of a mesh of so many modes."""
        if modes < 2 or self.fitting(modes) != modes:
            raise ArgumentError(f"{self} has no mesh of {modes} modes; the next is of {self.fitting(max(modes, 2))}")
        return _layout(self, modes)

    def block(self, theta: Tensor, phi: Tensor, errors: Tensor) -> Blocks:
        """The elements of blocks with the phases theta, phi (...) in rad and splitter errors (..., splitters)."""
        return (two_splitters if self.splitters == 2 else three_splitters)(theta, phi, errors)


@final
@dataclass(frozen=True)
class Rectangular(Design):
    """N columns, alternately on the modes (0, 1), (2, 3), … and (1, 2), (3, 4), …; N even: the layout of `MZIMesh`.

    θ lists all even columns, then all odd ones. Source: Clements et al., Optica 3, 1460 (2016).
    """

    def fitting(self, ports: int) -> int:
        return max(2, ports + ports % 2)

    def columns(self, modes: int) -> list[list[Pair]]:
        return [[(m, m + 1) for m in range(column % 2, modes - 1, 2)] for column in range(modes)]

    def places(self, columns: list[list[Pair]]) -> Tensor:
        sizes = [len(pairs) for pairs in columns]
        starts = [sum(sizes[c % 2 : c : 2]) + (c % 2) * sum(sizes[::2]) for c in range(len(sizes))]
        return torch.cat([start + torch.arange(size) for start, size in zip(starts, sizes, strict=True)])


@final
@dataclass(frozen=True)
class Triangular(Design):
    """2N − 3 columns: the modes (i, i + 1) meet in the columns i, i + 2, …, 2N − 4 − i.

    Source: Reck et al., Phys. Rev. Lett. 73, 58 (1994).
    """

    def fitting(self, ports: int) -> int:
        return max(2, ports)

    def columns(self, modes: int) -> list[list[Pair]]:
        count = 2 * modes - 3
        return [
            [(i, i + 1) for i in range(column % 2, modes - 1, 2) if i <= column <= count - 1 - i]
            for column in range(count)
        ]


@final
@dataclass(frozen=True)
class Butterfly(Design):
    """log₂ N columns: in column c the modes meet whose numbers differ in the bit 2^c alone; N a power of two.

    Its N log₂ N phases reach a part of all matrices, as a fast Fourier transform does.
    """

    def fitting(self, ports: int) -> int:
        return 1 << max(1, (ports - 1).bit_length())

    def columns(self, modes: int) -> list[list[Pair]]:
        strides = [1 << bit for bit in range(modes.bit_length() - 1)]
        return [[(m, m + stride) for m in range(modes) if not m & stride] for stride in strides]


@lru_cache(maxsize=32)
def _layout(design: Design, modes: int) -> Layout:
    columns = design.columns(modes)
    return Layout(modes, tuple(tuple(pairs) for pairs in columns), design.places(columns))
