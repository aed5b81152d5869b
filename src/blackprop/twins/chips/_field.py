"""A rectangular mesh whose fields are read, calibrated in closed form from the last column to the first."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from blackprop.twins.chips._columns import BALANCED, Columns, fields, solved, wave
from blackprop.twins.chips._edge import half_seen, solve_edge, upper_flips
from blackprop.twins.chips._first import first_column, pin
from blackprop.twins.chips._programme import Programming, Role, flipped

POOL = 192  # programmings that tell a field, at most: more of them are slow, and tell little more
SILENT = 0.5  # of the size of a change, below which a phase seems not to have turned
CALM = 0.3  # relative residual of a stage up to which such a sign is believed
LOST = 0.95  # relative residual above which a stage has failed: the columns before it cannot be found either
SIGMA = torch.tensor([[[1, 0], [0, -1]], [[0, -1j], [1j, 0]], [[0, 1], [1, 0]]], dtype=torch.complex128)  # z, y, x


@dataclass(frozen=True, eq=False)
class _Known:
    """Readings (settings, rows, outputs) and the answers (settings, modes, outputs) of unit fields behind a column."""

    answers: Tensor
    drive: Tensor  # (settings, columns, n, 2)
    readings: Tensor
    stage: Tensor  # (settings,), the column of each one's stage
    roles: list[Role]

    def of(self, role: Role) -> _Known:
        """Those of one role."""
        which = torch.tensor([each is role for each in self.roles])
        roles = [each for each in self.roles if each is role]
        return _Known(self.answers[which], self.drive[which], self.readings[which], self.stage[which], roles)

    def each(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Answers (modes, outputs) and readings (rows, outputs) of each setting."""
        return zip(self.answers, self.readings, strict=True)

    def beside(self) -> tuple[Tensor, Tensor]:
        """The same of all settings, their outputs side by side."""
        return self.answers.transpose(0, 1).flatten(1), self.readings.transpose(0, 1).flatten(1)

    def latest(self, other: _Known) -> _Known:
        """Both, of the older as many as `POOL` leaves room for."""
        size = max(0, POOL - len(other.roles))
        answers, drive, readings, stage = (
            torch.cat((getattr(other, name), getattr(self, name)[:size]))
            for name in ("answers", "drive", "readings", "stage")
        )
        return _Known(answers, drive, readings, stage, other.roles + self.roles[:size])

    def before(self, columns: Columns, column: int) -> _Known:
        return dataclasses.replace(self, answers=columns.before(self.answers, self.drive, column))


def grown(
    columns: Columns, base: Tensor, rows: Tensor, measured: list[tuple[Programming, Tensor]]
) -> tuple[Columns, list[float]]:
    """Fill in `columns` from readings y (rows, outputs) of `rows` (rows, inputs) at each programming.

    The columns behind column j being known, the field z behind it at the base setting follows from all readings of
    later stages by linear least squares. A quarter turn of φ takes z to M z with, for each block,

    `M = [[i cos 2η₂, e^{iα} sin 2η₂], [−e^{−iα} sin 2η₂, −i cos 2η₂]]`,

    and a flip of one input of the blocks takes it to `D B₂ (t₀ σ_z + t₁ σ_y + t₂ σ_x) B₂† D† z` with
    `t = (cos 2η₁, sin 2η₁ cos 2φ, sin 2η₁ sin 2φ)`: three real unknowns a block each, linear in the readings.

    Returns the columns and the relative residual of each stage; fewer stages where one left more than `LOST`.
    """
    columns.offset.zero_()
    columns.errors.zero_()
    columns.doubted = False
    stages = [[each for each in measured if each[0].column == column] for column in range(columns.count)]
    last = columns.count - 1
    left = [solve_edge(columns, column, stages[column]) for column in (last, last - 1)]
    pool = _known(columns, last - 2, stages[last] + stages[last - 1])
    for column in range(last - 2, -1, -1):
        ridge = left[-1] ** 2 * float(pool.readings.square().mean() / rows.square().mean()) * 2
        signs = _signs(columns, column, pool)
        z, residual = fields(signs[..., None] * pool.answers, pool.readings, ridge)
        residual = float(residual)
        left.append(residual)
        if residual > LOST:
            break
        stage = _known(columns, column, stages[column])
        doubted = _solve_column(columns, column, base, rows, z, stage, ridge)
        columns.doubted |= doubted and residual < CALM
        pool = pool.latest(stage).before(columns, column)
    return columns, left


def _known(columns: Columns, column: int, stage: list[tuple[Programming, Tensor]]) -> _Known:
    drive, readings = torch.stack([each.drive for each, _ in stage]), torch.stack([y for _, y in stage])
    answers = columns.behind(drive, column, readings.shape[-1])
    return _Known(
        answers, drive, readings, torch.tensor([each.column for each, _ in stage]), [e.role for e, _ in stage]
    )


def _signs(columns: Columns, column: int, pool: _Known) -> Tensor:
    """The signs (settings, modes) of the field behind a column: a flip of the stage before was in this column."""
    flips = torch.tensor([role in (Role.FLIP, Role.BOTH, Role.EDGE_FLIP) for role in pool.roles])
    near = flips & (pool.stage == column + 1)
    return torch.where(near[:, None], flipped(columns, column + 1)[1], 1.0)


def _solve_column(
    columns: Columns, column: int, base: Tensor, rows: Tensor, z: Tensor, stage: _Known, ridge: float
) -> bool:
    """Fill in a column, the field z (rows, modes) behind it at the base setting being known; whether a phase of it or
    of the column before seems not to turn.
    """
    seen, half, start = columns.seen[column], columns.half[column], columns.span(column).start
    near, place = slice(start, start + 2 * seen), None if half is None else start + 2 * half
    signs = flipped(columns, column)[1] if column else torch.ones(columns.modes, dtype=torch.float64)
    upper = signs[near.start : near.stop : 2, None, None, None]  # −1 where the upper input is flipped
    passed, cases, extras, halves = signs * z, [(stage.of(Role.TURN), z)], None, None
    passed[:, near] = z[:, near]
    flip, silent = None, False
    if column:
        t = _fit(near, place, [(stage.of(Role.FLIP), passed)], upper * SIGMA)[0]
        silent = bool((t.norm(dim=1) < SILENT).any())  # 1 where a phase turns as it should
        flip = _sum(t, upper * SIGMA)
    if flip is not None and place is not None:
        passed[:, near] = (flip @ z[:, near].unflatten(1, (-1, 2))[..., None])[..., 0].flatten(1)
        passed[:, place] = _output(place, stage.of(Role.FLIP), passed, ridge)
        kept, turned = halves = (z[:, place] + passed[:, place]) / 2, (z[:, place] - passed[:, place]) / 2
        cases.append((stage.of(Role.BOTH), passed))
        extras = [torch.stack((kept, 1j * kept, sign * turned, sign * 1j * turned)) for sign in (1, -1)]
    t, g = _fit(near, place, cases, (1j * SIGMA).expand(seen, 3, 2, 2), extras)
    silent = silent or bool((t.norm(dim=1) < SILENT).any())
    alpha, second = torch.atan2(t[:, 2], t[:, 1]), _angle(t)
    frame = _frame(alpha, second)
    if flip is None:
        inside = (frame.mH @ z[:, near].unflatten(1, (-1, 2))[..., None])[..., 0]
        phase, first, common = first_column(1j * inside, rows)
        pin(columns, common)
    else:
        inner = frame.mH @ (upper[..., 0] * flip) @ frame  # t₀ σ_z + t₁ σ_y + t₂ σ_x
        t = (inner.unsqueeze(1) @ SIGMA).diagonal(dim1=-2, dim2=-1).sum(-1).real / 2
        phase, first = torch.atan2(t[:, 2], t[:, 1]) / 2, _angle(t)
    columns.offset[column, :seen] += torch.stack((alpha, phase), 1) - base[column, :seen]
    columns.errors[column, :seen] = torch.stack((first, second), 1) - BALANCED
    if half is not None and halves is not None:
        multiples = torch.complex(g[0], g[1]), torch.complex(g[2], g[3])
        order = (1, 0) if upper_flips(columns, column, half) else (0, 1)
        phases, errors = half_seen(*(halves[k] for k in order), *(multiples[k] for k in order))
        columns.offset[column, half], columns.errors[column, half] = phases - base[column, half], errors
    return silent


def _angle(t: Tensor) -> Tensor:
    """η of `t ∝ (cos 2η, sin 2η cos …, sin 2η sin …)`."""
    return torch.atan2(t[:, 1:].norm(dim=1), t[:, 0]) / 2


def _sum(t: Tensor, matrices: Tensor) -> Tensor:
    """`Σ_m t_m A_m` (blocks, 2, 2), with t made a unit vector, as the matrices of lossless blocks have it."""
    t = t / t.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return (t[..., None, None] * matrices).sum(1)


def _output(place: int, known: _Known, field: Tensor, ridge: float) -> Tensor:
    """The amplitude (rows,) of the one mode that is unknown in a field, from the readings."""
    field = field.clone()
    field[:, place] = 0
    answers, readings = known.beside()
    amplitude, _ = fields(answers[None, place : place + 1], (readings - (field @ answers).real)[None], ridge)
    return amplitude[:, 0]


def _frame(alpha: Tensor, angle: Tensor) -> Tensor:
    """`diag(e^{iα}, 1) B(η)`, (blocks, 2, 2)."""
    turn, cosine, sine = wave(alpha), angle.cos() + 0j, 1j * angle.sin()
    return torch.stack((turn * cosine, turn * sine, sine, cosine), -1).unflatten(-1, (2, 2))


def _fit(
    near: slice,
    place: int | None,
    cases: list[tuple[_Known, Tensor]],
    matrices: Tensor,
    extras: list[Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """The real t (blocks, m) and g (k,) of `z → Σ_m t_m A_m z` on each block's two modes, A (blocks, m, 2, 2), by least
    squares on the readings of each case at its field z (rows, modes).

    At the mode `place` stands `Σ_k g_k extra_k`, an extra (k, rows) for each case; without them, anything.
    """
    blocks, kinds = matrices.shape[:2]
    count = 0 if extras is None else len(extras[0])
    size = blocks * kinds + count
    gram, right = torch.zeros(size, size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
    for number, (known, field) in enumerate(cases):
        parts = field[:, near].unflatten(1, (-1, 2)).transpose(0, 1).unsqueeze(1) @ matrices.mT  # (blocks, m, rows, 2)
        rest = field.clone()
        rest[:, near] = 0
        if place is not None:
            rest[:, place] = 0
        for answers, y in known.each() if place is None or extras is not None else [known.beside()]:
            through = answers[near].unflatten(0, (-1, 2)).unsqueeze(1)  # (blocks, 1, 2, outputs)
            design = (parts.real @ through.real - parts.imag @ through.imag).flatten(0, 1)
            if place is not None and extras is None:
                unknown = torch.linalg.qr(torch.stack((answers[place].real, answers[place].imag), 1)).Q
                design = design - (design @ unknown) @ unknown.mT
            if place is not None and extras is not None:
                design = torch.cat((design, (extras[number][..., None] * answers[place]).real))
            design = design.flatten(1)
            gram += design @ design.mT
            right += design @ (y - (rest @ answers).real).flatten()
    found = solved(gram, right[:, None])[:, 0]
    return found[: blocks * kinds].view(blocks, kinds), found[blocks * kinds :]
