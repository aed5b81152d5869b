"""The 2×2 blocks of integrated meshes, from their phases and the errors of their splitters."""

from __future__ import annotations

import math

import torch
from torch import Tensor

Blocks = tuple[Tensor, Tensor, Tensor, Tensor]


def two_splitters(theta: Tensor, phi: Tensor, errors: Tensor) -> Blocks:
    """Elements of `−i · diag(e^{iθ}, 1) · B(π/4 + ε₂) · diag(e^{iφ}, e^{−iφ}) · B(π/4 + ε₁)`, complex (...).

    `B(η) = [[cos η, i sin η], [i sin η, cos η]]`. For `σ = ε₁ + ε₂` and `δ = ε₁ − ε₂` the block is, its first row times
    e^{iθ},

    `[[sin φ cos δ + i cos φ sin σ, cos φ cos σ + i sin φ sin δ],`
    `[cos φ cos σ − i sin φ sin δ, −sin φ cos δ + i cos φ sin σ]]`.

    **Arguments:** `theta`, `phi` (...), rad; `errors` (..., 2), ε₁ and ε₂, rad.
    """
    first, second = errors.unbind(-1)
    total, difference = first + second, first - second
    cos, sin = phi.cos(), phi.sin()
    bar, leak = sin * difference.cos(), cos * total.sin()
    cross, skew = cos * total.cos(), sin * difference.sin()
    turn = torch.complex(theta.cos(), theta.sin())
    return (
        turn * torch.complex(bar, leak),
        turn * torch.complex(cross, skew),
        torch.complex(cross, -skew),
        torch.complex(-bar, leak),
    )


def three_splitters(theta: Tensor, phi: Tensor, errors: Tensor) -> Blocks:
    """Elements of `B₃ · diag(i e^{iθ}, 1) · B₂ · diag(−i e^{iφ}, 1) · B₁` with `B_k = B(π/4 + ε_k)`, complex (...).

    **Arguments:** `theta`, `phi` (...), rad; `errors` (..., 3), ε₁ to ε₃, rad.
    """
    t, f = torch.complex(theta.cos(), theta.sin()), torch.complex(phi.cos(), phi.sin())
    angle = errors + math.pi / 4
    (c1, c2, c3), (s1, s2, s3) = angle.cos().unbind(-1), angle.sin().unbind(-1)
    # N = diag(it, 1) B₂ diag(−if, 1) = [[c₂ t f, −s₂ t], [s₂ f, c₂]], then N B₁, then B₃ N B₁.
    n00, n01, n10 = c2 * t * f, -s2 * t, s2 * f
    i1, i3 = 1j * s1, 1j * s3
    m00, m01 = n00 * c1 + n01 * i1, n00 * i1 + n01 * c1
    m10, m11 = n10 * c1 + c2 * i1, n10 * i1 + c2 * c1
    return c3 * m00 + i3 * m10, c3 * m01 + i3 * m11, i3 * m00 + c3 * m10, i3 * m01 + c3 * m11
