"""The light inside a mesh of interferometers, at its phase shifters."""

from __future__ import annotations

import torch
from torch import Tensor

Factors = list[Tensor]


def splitter(angle: Tensor) -> Tensor:
    """`B(η) = [[cos η, i sin η], [i sin η, cos η]]` (..., 2, 2) of angles (...)."""
    bar, cross = angle.cos(), angle.sin()
    dark = torch.zeros_like(bar)
    straight, over = torch.complex(bar, dark), torch.complex(dark, cross)
    return torch.stack((torch.stack((straight, over), -1), torch.stack((over, straight), -1)), -2)


def turned(phase: Tensor) -> Tensor:
    """`e^{i phase}`."""
    return torch.complex(phase.cos(), phase.sin())


def arms(upper: Tensor, lower: Tensor, matrix: Tensor) -> Tensor:
    """`diag(upper, lower) · matrix` (..., 2, 2), for factors (...) of the two arms."""
    return torch.stack((upper, lower), -1).unsqueeze(-1) * matrix


def inside(x: Tensor, factors: Factors, modes: int, edge: float = 1.0) -> tuple[Tensor, list[Tensor]]:
    """Send fields x (rows, N), complex, through a brick wall of blocks.

    `factors`: each (blocks, 2, 2), in the order in which light meets them in a block. Blocks come column by column,
    first all even columns, then all odd ones. `edge` is the amplitude that the outermost waveguides, which pass an odd
    column without a block, let through there. Returns the field behind the mesh (rows, N), and the fields behind each
    factor (rows, blocks, 2).
    """
    n, rows = modes // 2, len(x)
    split = [(f[: n * n].unflatten(0, (n, n)), f[n * n :].unflatten(0, (n, n - 1))) for f in factors]
    seen: list[tuple[list[Tensor], list[Tensor]]] = [([], []) for _ in factors]
    for column in range(n):
        for odd in (0, 1):
            field = x[:, 1:-1] if odd else x
            field = field.reshape(rows, n - odd, 2)
            for factor, kept in zip(split, seen, strict=True):
                matrix = factor[odd][column]  # (blocks of the column, 2, 2)
                field = torch.addcmul(field[..., :1] * matrix[..., 0], field[..., 1:], matrix[..., 1])
                kept[odd].append(field)
            field = field.flatten(1)
            x = torch.cat((edge * x[:, :1], field, edge * x[:, -1:]), 1) if odd else field
    return x, [torch.cat((*even, *odd), 1) for even, odd in seen]


def powers(field: Tensor) -> Tensor:
    return field.real.square() + field.imag.square()
