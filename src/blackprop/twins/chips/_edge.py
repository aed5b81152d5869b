"""The last two columns of a rectangular mesh, of whose light no later phase turns the second quadrature into view."""

from __future__ import annotations

import torch
from torch import Tensor

from blackprop.twins.chips._columns import BALANCED, Columns, fields, wave
from blackprop.twins.chips._programme import Programming, Role, flipped

Waves = tuple[Tensor, Tensor]
STILL = 0.2  # of an output, a change below which a phase seems not to have turned
WORST = 0.3  # rad, of a splitter


def solve_edge(columns: Columns, column: int, stage: list[tuple[Programming, Tensor]]) -> float:
    """Fill in the offsets and splitters of one of the last two columns; returns the relative residual of its fields.

    With φ as it is set, the outputs of a block are `a₁ e^{iφ} + a₂ e^{−iφ}` and `b₁ e^{iφ} + b₂ e^{−iφ}`, for which
    `a₁/b₁ = −i e^{iα} cot η₂` and `a₂/b₂ = i e^{iα} tan η₂`. The two waves inside the block are the columns of
    `diag(e^{iβ}, e^{−iβ}) B(η₁)` times its inputs: those of one input change their sign with a flip.
    """
    here = slice(columns.blocks(column))
    (upper, lower, left), (upper_flipped, lower_flipped, left_flipped) = (
        _outputs(columns, column, [each for each in stage if each[0].role is role])
        for role in (Role.EDGE, Role.EDGE_FLIP)
    )
    columns.doubted |= _silent(
        columns, column, stage, upper, [upper[0], upper_flipped[0]], [lower[0], lower_flipped[0]]
    )
    a, b = _halves(upper), _halves(lower)
    alpha, second = _second_splitter(a, b, _real_alone(columns, column))
    plain = _inside(a, b, alpha, second, _real_alone(columns, column))
    turned = _inside(_halves(upper_flipped), _halves(lower_flipped), alpha, second, _real_alone(columns, column))
    change = [w - u for w, u in zip(turned, plain, strict=True)]
    total = [w + u for w, u in zip(turned, plain, strict=True)]
    if column % 2 == 0:  # there the last block's upper input was flipped
        for difference, sum_ in zip(change, total, strict=True):
            swapped = difference[:, -1].clone()
            difference[:, -1], sum_[:, -1] = sum_[:, -1].clone(), swapped
    beta, first = _first_splitter(total, change)
    seen, half = columns.seen[column], columns.half[column]
    columns.offset[column, here] = torch.stack((alpha, beta), -1)
    columns.errors[column, here] = torch.stack((first, second), -1) - BALANCED
    columns.offset[column, here, 1] -= columns.drives.straight
    for parts in (columns.offset, columns.errors):
        parts[column, seen:] = 0.0
    if half is not None:
        plain_half, turned_half = ([each[:, half] for each in outputs] for outputs in (upper, upper_flipped))
        found = _half(plain_half, turned_half, upper_flips(columns, column, half))
        columns.offset[column, half], columns.errors[column, half] = found
        columns.offset[column, half, 1] -= columns.drives.straight
    return max(left, left_flipped)


def _silent(columns: Columns, column: int, stage: list[tuple[Programming, Tensor]], *pairs: list[Tensor]) -> bool:
    """Whether a phase seems not to turn: φ, that changes the upper outputs, the first of `pairs`; the flip of an input,
    which changes one or both outputs; or θ, of which the readings behind the last column tell.
    """
    seen = columns.seen[column]
    moved = [
        (pair[1] - pair[0])[:, :seen].norm(dim=0) / pair[0][:, :seen].norm(dim=0).clamp_min(1e-12) for pair in pairs
    ]
    found = [moved[0], torch.maximum(*moved[1:])]
    if column == columns.count - 1:
        straight, on = (y for each, y in stage[:2] if each.role is Role.EDGE)
        upper = slice(columns.span(column).start, columns.span(column).start + 2 * seen, 2)
        found.append((on - straight)[:, upper].norm(dim=0) / straight[:, upper].norm(dim=0).clamp_min(1e-12))
    return bool((torch.cat(found) < STILL).any())


def _half(plain: list[Tensor], turned: list[Tensor], upper: bool) -> tuple[Tensor, Tensor]:
    """`half_seen` of the output with φ as it is and a quarter turn on, `plain` and with one input `turned`."""
    kept, flipped_ = ([(p + sign * t) / 2 for p, t in zip(plain, turned, strict=True)] for sign in (1, -1))
    first, second = (flipped_, kept) if upper else (kept, flipped_)
    by_first, by_second = ((part[1] * part[0].conj()).sum() / _tiny(_power(part[0])) for part in (first, second))
    return half_seen(first[0], second[0], by_first, by_second)


def upper_flips(columns: Columns, column: int, block: int) -> bool:
    """Whether a flip before the column changes the sign of a block's upper input, and not that of its lower one."""
    return bool(flipped(columns, column)[1][columns.span(column).start + 2 * block] < 0)


def half_seen(upper: Tensor, lower: Tensor, by_upper: Tensor, by_lower: Tensor) -> tuple[Tensor, Tensor]:
    """The phases (2,) and the splitters' errors (2,) of a block that is seen at its upper output alone.

    **Arguments:** `upper` and `lower`, the contributions of the block's two inputs to that output, (rows,); `by_upper`
    and `by_lower`, the complex factors that multiply them where φ is a quarter turn on.

    For `ρ = tan η₁ tan η₂ e^{−2iφ}` and `κ = (tan η₂ / tan η₁) e^{−2iφ}` the multiples are `g = i (1 + ρ) / (1 − ρ)`
    and `h = i (1 − κ) / (1 + κ)`. The output's own phase is a gauge, which the fields before absorb: it is 0 here.
    """
    plus, minus = _power(upper) * (by_upper + 1j).abs().square(), _power(upper) * (by_upper - 1j).abs().square()
    other, less = _power(lower) * (by_lower + 1j).abs().square(), _power(lower) * (by_lower - 1j).abs().square()
    turn = _power(upper) * (by_upper - 1j) * (by_upper + 1j).conj()
    turn = turn + _power(lower) * (1j - by_lower) * (1j + by_lower).conj()
    product, ratio = (minus / _tiny(plus)).sqrt(), (less / _tiny(other)).sqrt()  # |ρ| and |κ|
    phases = torch.stack((torch.zeros_like(product), turn.angle() / -2))
    errors = torch.atan(torch.stack(((product / _tiny(ratio)).sqrt(), (product * ratio).sqrt()))) - BALANCED
    return phases, errors.clamp(-WORST, WORST)


def _first_splitter(total: list[Tensor], change: list[Tensor]) -> tuple[Tensor, Tensor]:
    """β and η₁ (blocks,) from the parts of the waves inside each block that its upper and its lower input make:
    `total ∝ (cos η₁ e^{iβ}, i sin η₁ e^{−iβ})` and `change ∝ (i sin η₁ e^{iβ}, cos η₁ e^{−iβ})`, each (rows, blocks).
    """
    by_change, by_total = (change[0] * change[1].conj()).sum(0), (total[0] * total[1].conj()).sum(0)
    beta = (1j * by_total - 1j * by_change).angle() / 2
    sine = (_power(change[0]) + _power(total[1])).sqrt()
    return beta, torch.atan2(sine, (_power(change[1]) + _power(total[0])).sqrt())


def _outputs(
    columns: Columns, column: int, stage: list[tuple[Programming, Tensor]]
) -> tuple[list[Tensor], list[Tensor], float]:
    """The blocks' upper and lower outputs (rows, blocks), with φ at 0 and a quarter turn on, the set θ taken off."""
    upper, lower, worst, span = [], [], 0.0, columns.span(column)
    for turned in (False, True):
        some = [(each.drive, y) for each, y in stage if each.turned is turned]
        drive, readings = torch.stack([d for d, _ in some]), torch.stack([y for _, y in some])
        answers = columns.behind(drive, column, readings.shape[-1]).clone()
        answers[:, span.start : span.stop : 2] *= wave(drive[:, column, : columns.blocks(column), 0])[..., None]
        z, left = fields(answers, readings)
        upper.append(z[:, span.start : span.stop : 2])
        lower.append(z[:, span.start + 1 : span.stop : 2])
        worst = max(worst, float(left))
    return upper, lower, worst


def _halves(pair: list[Tensor]) -> Waves:
    """Of `f(φ) = p e^{iφ} + q e^{−iφ}` at 0 and π/2: p and q."""
    straight, turned = pair
    return (straight - 1j * turned) / 2, (straight + 1j * turned) / 2


def _real_alone(columns: Columns, column: int) -> Tensor:
    """The blocks (blocks,) of whose lower output the real part alone is seen."""
    alone = torch.zeros(columns.blocks(column), dtype=torch.bool)
    if column == columns.count - 1:
        alone[:] = True
    elif columns.seen[column] == len(alone):  # its lower output passes the last column
        alone[-1] = True
    return alone


def _second_splitter(a: Waves, b: Waves, alone: Tensor) -> tuple[Tensor, Tensor]:
    """α and η₂ (blocks,). Where Re of the lower output alone is seen, its two halves b are known as `b₁ + b₂*` only,
    which is `i (tan η₂ e^{−iα} a₁ + cot η₂ e^{iα} a₂*)`: linear in two complex numbers.
    """
    alpha = (1j * (a[0] * b[0].conj()).sum(0) - 1j * (a[1] * b[1].conj()).sum(0)).angle()
    ratio = _power(b[0]) / _tiny(_power(a[0])) * _power(a[1]) / _tiny(_power(b[1]))
    angle = torch.atan(ratio.pow(0.25))
    for k in alone.nonzero().flatten().tolist():
        design = torch.stack((a[0][:, k], a[1][:, k].conj()), 1)
        gram = design.mH @ design + 1e-12 * torch.eye(2)
        tan, cot = torch.linalg.solve(gram, design.mH @ ((b[0][:, k] + b[1][:, k].conj()) / 1j)).unbind()
        alpha[k] = (tan.conj() / _tiny(tan.abs()) + cot / _tiny(cot.abs())).angle()
        angle[k] = torch.atan((tan.abs() / _tiny(cot.abs())).sqrt())
    return alpha, angle


def _inside(a: Waves, b: Waves, alpha: Tensor, angle: Tensor, alone: Tensor) -> list[Tensor]:
    """The two waves inside the blocks, (rows, blocks) each; from the upper output where the lower is half seen."""
    back, sine, cosine = wave(-alpha), angle.sin(), angle.cos()
    both = 1j * back * cosine * a[0] + sine * b[0], back * sine * a[1] + 1j * cosine * b[1]
    single = 1j * back * a[0] / _tiny(cosine), back * a[1] / _tiny(sine)
    return [torch.where(alone, one, two) for one, two in zip(single, both, strict=True)]


def _power(z: Tensor) -> Tensor:
    return z.abs().square().sum(0)


def _tiny(value: Tensor) -> Tensor:
    return value.clamp_min(1e-12)
