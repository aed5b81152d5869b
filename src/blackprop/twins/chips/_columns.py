"""A rectangular mesh column by column: the parameters known so far, and light through the columns that have them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from blackprop.devices.photonic._blocks import two_splitters
from blackprop.devices.photonic.chips import Build, Layout

BALANCED = math.pi / 4  # rad, the angle of a splitter without error


@dataclass(frozen=True)
class Drives:
    """Which phases, rad, a calibration asks for: drawn between `low` and `high`, and π more at most.

    `room`: how far above `low` the θ of an edge begins, which is stepped from there; `straight`: φ there, before its
    quarter turn.
    """

    low: float = 0.0
    high: float = 2 * math.pi
    room: float = 2 * math.pi
    straight: float = 0.0


# Within the 2π of a heater, whose slope is known but roughly: a narrow range, and room for π above it.
HEATED = Drives(low=0.15 * math.pi, high=0.95 * math.pi, room=0.3 * math.pi, straight=0.3 * math.pi)


class Columns:
    """The hidden parts of a rectangular mesh of two-splitter blocks, arranged by columns, float64.

    Column c has its blocks on the modes (o, o + 1), (o + 2, o + 3), …, o = c % 2; block k of column c stands at
    `[c, k]`. `drive` stands for the phases that a setting asks for, (..., columns, n, 2), θ and φ of each block.

    Where not all outputs are read, blocks outside the cone of light towards those that are do not change a reading.
    `seen` holds for each column how many blocks are seen at both outputs, the first ones; `half` the number of the one
    that is seen at its upper output alone, None where there is none.

    **Attributes:** `offset` (columns, n, 2), rad; `errors` (columns, n, 2), rad; `slopes` (columns, n, 2); `loss`,
    nepers of amplitude in each block; `doubted`, whether a phase seemed not to answer to its setting.
    """

    def __init__(self, layout: Layout, outputs: int, loss: float = 0.0, drives: Drives | None = None) -> None:
        self.modes, self.count, self.widest = layout.modes, len(layout.columns), layout.modes // 2
        self.seen, self.half = cone(layout.modes, outputs)
        self.place = torch.zeros(self.count, self.widest, 2, dtype=torch.int64)
        self.present = torch.zeros(self.count, self.widest, dtype=torch.bool)
        for column, blocks in enumerate(layout.members):
            self.place[column, : len(blocks)] = torch.stack((2 * blocks, 2 * blocks + 1), 1)
            self.present[column, : len(blocks)] = True
        shape = (self.count, self.widest, 2)
        self.offset, self.errors, self.slopes = (torch.zeros(shape, dtype=torch.float64) for _ in range(3))
        self.loss = loss
        self.doubted: bool = False
        self.drives = drives if drives is not None else Drives()

    def blocks(self, column: int) -> int:
        """How many blocks a column has."""
        return self.widest - column % 2

    def span(self, column: int) -> slice:
        """The modes that its blocks stand on."""
        return slice(column % 2, column % 2 + 2 * self.blocks(column))

    def flat(self, drive: Tensor) -> Tensor:
        """A drive (..., columns, n, 2) in the order of θ (..., P)."""
        out = drive.new_zeros(*drive.shape[:-3], 2 * int(self.present.sum()))
        out[..., self.place[self.present].flatten()] = drive[..., self.present, :].flatten(-2)
        return out

    def phases(self, drive: Tensor, column: int) -> Tensor:
        """The phases (..., blocks, 2) of a column."""
        here = slice(self.blocks(column))
        return self.offset[column, here] + (1 + self.slopes[column, here]) * drive[..., column, here, :]

    def before(self, answers: Tensor, drive: Tensor, column: int) -> Tensor:
        """The answers (settings, modes, outputs) of unit fields before a column, from those behind it."""
        phases = self.phases(drive, column)
        blocks = two_splitters(phases[..., 0], phases[..., 1], self.errors[column, : self.blocks(column)])
        a, b, c, d = ((math.exp(-self.loss) * each)[..., None] for each in blocks)
        upper, lower = answers[..., self.span(column), :].unflatten(-2, (-1, 2)).unbind(-2)
        passed = answers.clone()
        passed[..., self.span(column), :] = torch.stack((a * upper + c * lower, b * upper + d * lower), -2).flatten(
            -3, -2
        )
        return passed

    def behind(self, drive: Tensor, column: int, outputs: int) -> Tensor:
        """The answers (settings, modes, outputs) of unit fields behind a column."""
        answers = torch.eye(self.modes, dtype=torch.complex128)[:, :outputs].expand(len(drive), -1, -1)
        for later in range(self.count - 1, column, -1):
            answers = self.before(answers, drive, later)
        return answers

    def build(self, like: Build) -> Build:
        """The parameters found, as the build of a chip."""
        errors = self.flat(self.errors).view(-1, 2)
        return replace(like, offset=self.flat(self.offset), splitters=errors, slopes=self.flat(self.slopes))


def cone(modes: int, outputs: int) -> tuple[list[int], list[int | None]]:
    """`seen` and `half` of each column of a rectangular mesh, behind which the first `outputs` modes are read."""
    seen, visible = [0] * modes, outputs
    half: list[int | None] = [None] * modes
    for column in range(modes - 1, -1, -1):
        inside = min(visible, modes - column % 2) - column % 2
        seen[column] = max(0, inside) // 2
        if inside > 0 and inside % 2:
            half[column] = inside // 2
            visible += 1
    return seen, half


def wave(phase: Tensor) -> Tensor:
    """`e^{i phase}`."""
    return torch.polar(torch.ones_like(phase), phase)


def fields(answers: Tensor, readings: Tensor, ridge: float = 0.0) -> tuple[Tensor, Tensor]:
    """The complex fields z (rows, modes) that explain the readings (settings, rows, outputs), `y = Re(z · answers)`, by
    least squares with `ridge |z|²`, and the relative residual that is left.
    """
    modes = answers.shape[1]
    both = torch.cat((answers.real, -answers.imag), 1).transpose(0, 1).flatten(1)  # (2 modes, settings · outputs)
    told = readings.transpose(0, 1).flatten(1)  # (rows, settings · outputs)
    gram = both @ both.mT
    gram.diagonal().add_(ridge)
    parts = solved(gram, both @ told.mT).mT
    left = (parts @ both - told).norm() / told.norm().clamp_min(torch.finfo(told.dtype).tiny)
    return torch.complex(parts[:, :modes], parts[:, modes:]), left


def solved(gram: Tensor, right: Tensor) -> Tensor:
    """`gram⁻¹ right` of a symmetric matrix; 0 along directions that no reading shows."""
    values, vectors = torch.linalg.eigh(gram)
    seen = values > 1e-10 * values[-1].clamp_min(torch.finfo(gram.dtype).tiny)
    inverse = torch.where(seen, 1 / torch.where(seen, values, 1.0), 0.0)
    return vectors @ (inverse[:, None] * (vectors.mT @ right))
