"""The phases of a chip that have moved since it was calibrated, from readings at settings anywhere."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor
from torch.nn.functional import pad

from blackprop.devices.photonic.chips import Build, Chip, Field
from blackprop.devices.photonic.chips._losses import amplitudes
from blackprop.devices.photonic.chips._propagation import factors
from blackprop.twins.chips._polish import ChipReadings, polishing, residual

KNOTS = 3  # of a phase: the readings are `a + b cos δ + c sin δ` in the change δ of one
GRID, SWEEPS, ROUNDS = 24, 3, 30  # of the search for the changes of a column, and steps of the fit that follows
MOST = 8  # columns that are mended before the chip is calibrated as a whole
STEPS, ALL = 15, 120  # of the joint fit of the columns behind each one that is added; of that of all
FIRSTS, CLOSE = 4, 2.0  # columns that a search begins with; times the wanted residual, a search that has succeeded
WORTH = 0.02  # of the residual's power that a column must explain
RIDGE = 1e-6


@dataclass(frozen=True, eq=False)
class Column:
    """Readings as a function of the changes α and β of the two phases of each block of a column,
    `y = rest + Σ_b Σ_k w_k(α_b, β_b) y_bk`, exact, with k over 3 values of each phase.

    **Attributes:** `parts` (blocks · 9, readings), `rest` (readings,), the sum to be explained by them.
    """

    parts: Tensor
    rest: Tensor

    def solved(self) -> tuple[Tensor, float]:
        """The weights (blocks, 9) that explain the most without being those of phases, and the power that is left."""
        gram, right = self.parts @ self.parts.mT, self.parts @ self.rest
        gram.diagonal().add_(RIDGE * gram.diagonal().mean())
        found = torch.linalg.solve(gram, right)
        return found.view(-1, KNOTS**2), float((self.rest - found @ self.parts).square().sum())

    def changes(self, start: Tensor) -> Tensor:
        """The changes (blocks, 2), rad, that fit best, from weights (blocks, 9) on: block by block the best of a grid,
        then jointly.
        """
        gram, right = self.parts @ self.parts.mT, self.parts @ self.rest
        angles = torch.arange(GRID, dtype=torch.float64) * (2 * math.pi / GRID)
        grid = torch.cartesian_prod(angles, angles)
        options, now = weights(grid), start.clone()
        found = torch.zeros(len(start), 2, dtype=torch.float64)
        size = KNOTS**2
        for _ in range(SWEEPS):
            for b in range(len(start)):
                here = slice(b * size, (b + 1) * size)
                away = right[here] - gram[here] @ now.flatten() + gram[here, here] @ now[b]
                loss = ((options @ gram[here, here]) * options).sum(1) - 2 * options @ away
                best = int(loss.argmin())
                found[b], now[b] = grid[best], options[best]
        return _refined(found, gram, right)


def _refined(changes: Tensor, gram: Tensor, right: Tensor) -> Tensor:
    """Damped Gauss-Newton steps on the changes of all blocks."""

    def loss(at: Tensor) -> float:
        w = weights(at).flatten()
        return float(w @ (gram @ w) - 2 * right @ w)

    here, value, damping = changes, loss(changes), 1e-3
    for _ in range(ROUNDS):
        slope = _slopes(here)  # (blocks · 9, 2 blocks)
        curved = slope.mT @ gram @ slope
        downhill = slope.mT @ (right - gram @ weights(here).flatten())
        scale = float(curved.diagonal().mean()) + 1e-300
        step = torch.linalg.solve(curved + damping * scale * torch.eye(len(curved), dtype=curved.dtype), downhill)
        there = here + step.view_as(here)
        after = loss(there)
        if after >= value:
            damping *= 10
            if damping > 1e6:
                break
            continue
        here, value, damping = there, after, max(damping / 10, 1e-9)
        if float(step.abs().max()) < 1e-6:
            break
    return here


def weights(changes: Tensor) -> Tensor:
    """`w_k(α, β)` (n, 9) of changes (n, 2), the product of `(1 + 2 cos(δ − δ_k)) / 3`."""
    knots = torch.arange(KNOTS, dtype=torch.float64) * (2 * math.pi / KNOTS)
    each = (1 + 2 * (changes[..., None] - knots).cos()) / 3  # (n, 2, 3)
    return (each[:, 0, :, None] * each[:, 1, None, :]).flatten(1)


def _slopes(changes: Tensor) -> Tensor:
    knots = torch.arange(KNOTS, dtype=torch.float64) * (2 * math.pi / KNOTS)
    away = changes[..., None] - knots
    value, slope = (1 + 2 * away.cos()) / 3, -2 * away.sin() / 3
    by_first = (slope[:, 0, :, None] * value[:, 1, None, :]).flatten(1)
    by_second = (value[:, 0, :, None] * slope[:, 1, None, :]).flatten(1)
    blocks = len(changes)
    found = torch.zeros(blocks, KNOTS**2, blocks, 2, dtype=torch.float64)
    each = torch.arange(blocks)
    found[each, :, each, 0], found[each, :, each, 1] = by_first, by_second
    return found.view(blocks * KNOTS**2, 2 * blocks)


def columns(chip: Chip, build: Build, measured: ChipReadings) -> Iterator[Column]:
    """The part of each column in the readings of fields, the other columns being right."""
    phases = chip.phases_with(measured.theta, build)
    left = amplitudes(build.loss)
    first, second = phases.unflatten(-1, (-1, 2)).unbind(-1)
    blocks = [left * each for each in chip.design.block(first, second, build.splitters)]
    own, other = factors(chip.layout, (blocks[0], blocks[1], blocks[2], blocks[3]))
    driven = pad(measured.x * amplitudes(build.loss_in), (0, chip.modes - measured.x.shape[-1]))
    fields = [driven.mT.to(own.dtype).expand(len(own), -1, -1)]
    for c, partner in enumerate(chip.layout.partners):
        fields.append(own[:, c, :, None] * fields[-1] + other[:, c, :, None] * fields[-1][:, partner])
    outputs = measured.readings.shape[-1]
    unit = torch.eye(chip.modes, outputs, dtype=own.dtype) * amplitudes(build.loss_out)
    answers = [unit.expand(len(own), -1, -1)]
    for c in range(len(chip.layout.partners) - 1, -1, -1):
        partner, behind = chip.layout.partners[c], answers[-1]
        answers.append(own[:, c, :, None] * behind + (other[:, c, :, None] * behind)[:, partner])
    answers.reverse()
    knots = torch.arange(KNOTS, dtype=torch.float64) * (2 * math.pi / KNOTS)
    turns = torch.cartesian_prod(knots, knots)
    for c, (pairs, members) in enumerate(zip(chip.layout.columns, chip.layout.members, strict=True)):
        upper, lower = torch.tensor(pairs).unbind(1)
        u = torch.stack((fields[c][:, upper], fields[c][:, lower]), 2)  # (settings, blocks, 2, rows)
        s = torch.stack((answers[c + 1][:, upper], answers[c + 1][:, lower]), 2)  # (settings, blocks, 2, outputs)
        parts = []
        for alpha, beta in turns:
            some = chip.design.block(first[:, members] + alpha, second[:, members] + beta, build.splitters[members])
            matrix = torch.stack([left[members] * each for each in some], -1).unflatten(-1, (2, 2))
            passed = matrix @ u
            parts.append(torch.einsum("sbpo,sbpr->bsro", s, passed).real.flatten(1))
        stacked = torch.stack(parts, 1)  # (blocks, 9, readings)
        alone = [m for m in range(chip.modes) if m not in {mode for pair in pairs for mode in pair}]
        rest = measured.readings - torch.einsum("spo,spr->sro", answers[c + 1][:, alone], fields[c][:, alone]).real
        yield Column(stacked.flatten(0, 1), rest.flatten())


def mended(chip: Chip, build: Build, measured: ChipReadings, enough: float) -> tuple[Build, list[int]]:
    """The build with the offsets of a few columns changed, and the numbers of these columns.

    Columns are added by the part that they explain, until the readings are left to `enough` or no column explains
    more. A column beside the one that moved may explain a part of it: where the end is far from `enough`, the next
    best first column is tried, and then all offsets are fitted, which finds small changes of many. Powers are not
    linear in a column: there all offsets are fitted at once.
    """
    best, found, left = build, list[int](), residual(chip, build, measured)
    if left <= enough:
        return best, found
    linear = isinstance(chip.readout, Field)
    solutions = [(each, *each.solved()) for each in columns(chip, build, measured)] if linear else []
    for place in sorted(range(len(solutions)), key=lambda c: solutions[c][2])[:FIRSTS]:
        trial, some, after = _from(chip, build, measured, enough, place, solutions[place][:2])
        if after < left:
            best, found, left = trial, some, after
        if left <= CLOSE * enough:
            return best, sorted(found)
    every = list(range(len(chip.layout.columns)))
    trial = _joint(chip, best, measured, every, ALL)
    return (trial, every) if residual(chip, trial, measured) < left else (best, sorted(found))


def _from(
    chip: Chip, build: Build, measured: ChipReadings, enough: float, place: int, first: tuple[Column, Tensor]
) -> tuple[Build, list[int], float]:
    found: list[int] = []
    best, left, (column, start) = build, math.inf, first
    for _ in range(MOST):
        changes, members, offset = column.changes(start), chip.layout.members[place], best.offset.clone()
        offset[2 * members] += changes[:, 0]
        offset[2 * members + 1] += changes[:, 1]
        found += [] if place in found else [place]
        trial = _joint(chip, replace(best, offset=offset), measured, found)
        after = residual(chip, trial, measured)
        if left**2 - after**2 < WORTH * left**2:
            break
        best, left = trial, after
        if left <= enough:
            break
        solutions = [(each, *each.solved()) for each in columns(chip, best, measured)]
        place = min(range(len(solutions)), key=lambda c: solutions[c][2])
        column, start, _ = solutions[place]
    return best, found, left


def _joint(chip: Chip, build: Build, measured: ChipReadings, found: list[int], steps: int = STEPS) -> Build:
    """The joint fit of the offsets of some columns, and of the slopes of their heaters."""
    members = torch.cat([chip.layout.members[c] for c in found])
    which = torch.zeros(len(build.offset), dtype=torch.bool)
    which[2 * members], which[2 * members + 1] = True, True
    free = ("offset",) if chip.heaters is None else ("offset", "slopes")
    search = polishing(chip, build, [measured], free=free, which=which, steps=steps, dtype=torch.float64)
    return next(islice(search, 1), build)
