"""The first column of a mesh, whose inputs are known, and the phases that only they fix."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from blackprop.twins.chips._columns import Columns


def first_column(inside: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """φ, η₁ and a common phase χ (blocks,) of the first column, `inside = e^{iχ} diag(e^{iφ}, e^{−iφ}) B(η₁) x`.

    **Arguments:** `inside`, the two waves (rows, blocks, 2) inside its blocks, but for one positive factor; `rows`
    (rows, modes). χ is within ±π/2.
    """
    x = rows.unflatten(1, (-1, 2)).transpose(0, 1)[: inside.shape[1]].to(inside.dtype)  # (blocks, rows, 2)
    gram = x.mT @ x + 1e-12 * torch.eye(2, dtype=inside.dtype)
    mixture = torch.linalg.solve(gram, x.mT @ inside.transpose(0, 1))  # (blocks, input, wave)
    (a, c), (b, d) = (mixture[:, k].unbind(-1) for k in (0, 1))
    # a and b are cos η₁ and i sin η₁ times e^{i(χ + φ)}; c and d are i sin η₁ and cos η₁ times e^{i(χ − φ)}.
    first, second = (a - 1j * b).angle(), (d - 1j * c).angle()
    common, phase = (first + second) / 2, (first - second) / 2
    over = (common / math.pi).round() * math.pi
    return phase + over, torch.atan2(b.abs() + c.abs(), a.abs() + d.abs()), common - over


def pin(columns: Columns, common: Tensor) -> None:
    """Put the common phases χ of the first column's blocks into the θ of this column and the later ones.

    A block takes a phase as a whole where both its inputs have it. The upper one has the phase that the block before
    left at its lower output, which no θ reaches; the lower one is the upper output of another block, whose θ makes it
    equal. So the phases move down a diagonal, from column to column, until they leave the cone of light that is read.
    Where all outputs are read none can leave: χ is noise, and `columns` stays as it is.
    """
    if all(half is None for half in columns.half):
        return
    common = pad(common, (0, columns.widest - len(common)))
    for column in range(columns.count):
        blocks = columns.blocks(column)
        if column == columns.count - 1:
            wanted = torch.zeros_like(common)
        else:  # the upper input of the block that an upper output enters at its lower one; 0 for mode 0
            wanted = torch.cat((common.new_zeros(1), common[:-1]))
        columns.offset[column, : len(common), 0] += common - wanted
        later = columns.blocks(column + 1) if column + 1 < columns.count else 0
        common = common[:later] if later < blocks else torch.cat((common.new_zeros(1), common))[:later]
