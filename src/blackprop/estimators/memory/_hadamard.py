"""A family of ±1 directions, mutually orthogonal and never stored: a Hadamard matrix with its columns shuffled."""

from __future__ import annotations

import torch
from torch import Tensor

FACTOR = 5  # bits that one small Hadamard matrix turns at a time: 32 × 32 suits a core


class HadamardFamily:
    """`u_j[p] = signs[p] · H[j, columns[p]]`, j < n, for P ≤ n = 2^q parameters: `Σ_j u_j u_jᵀ = n I`.

    A tight frame: the n directions are orthogonal if P = n, and nearly so otherwise. Sums over thousands of directions
    take n log n operations and no memory beyond `columns` (P,) and `signs` (blocks, P). There are blocks × P
    parameters, and the columns are the same in each block.
    """

    def __init__(self, columns: Tensor, signs: Tensor) -> None:
        self.columns, self.signs = columns, signs
        self.size = family_size(len(columns))

    def directions(self, indices: list[int], like: Tensor) -> Tensor:
        """Return the directions (len(indices), blocks·P) with these numbers."""
        high, low = (1 << (self.bits + 1) // 2), (1 << self.bits // 2)
        rows = []
        for index in indices:
            # A row of a Kronecker product is the product of rows.
            row = torch.outer(_walsh(index // low, high, like), _walsh(index % low, low, like)).flatten()
            rows.append((self.signs.to(like) * row[self.columns]).flatten())
        return torch.stack(rows)

    def combine(self, coefficients: Tensor) -> Tensor:
        """Return `Σ_j a[·, j] u_j` for a (blocks, n): (blocks·P,)."""
        return (_transform(coefficients)[:, self.columns] * self.signs.to(coefficients)).flatten()

    def project(self, theta: Tensor, indices: Tensor) -> Tensor:
        """Return `⟨u_j, theta⟩` of each block, for these j: (blocks, len(indices))."""
        spread = theta.new_zeros(len(self.signs), self.size)
        spread[:, self.columns] = self.signs.to(theta) * theta.view(len(self.signs), -1)
        return _transform(spread)[:, indices]

    @property
    def bits(self) -> int:
        return self.size.bit_length() - 1


def family_size(parameters: int) -> int:
    """Return the smallest power of two that is at least `parameters`."""
    return 1 << max(0, parameters - 1).bit_length()


def _walsh(index: int | Tensor, size: int, like: Tensor) -> Tensor:
    """Row `index` of the Hadamard matrix of this size, `(−1)^(number of ones in index & column)`, or with a column of
    numbers these rows.
    """
    common = torch.arange(size, device=like.device) & index
    for shift in (32, 16, 8, 4, 2, 1):
        common = common ^ (common >> shift)
    return 1 - 2 * (common & 1).to(like)


def _transform(z: Tensor) -> Tensor:
    """`z H` along the last dimension (…, n), some bits of the index at a time; the bits come round to their places."""
    n = z.shape[-1]
    left = n.bit_length() - 1
    while left:
        bits = min(left, FACTOR)
        left -= bits
        small = _walsh(torch.arange(1 << bits, device=z.device)[:, None], 1 << bits, z)
        z = (z.unflatten(-1, (1 << bits, n >> bits)).mT @ small).flatten(-2)
    return z


def shuffled_columns(parameters: int, generator: torch.Generator) -> Tensor:
    """Draw distinct columns for this many parameters."""
    return torch.randperm(family_size(parameters), generator=generator, device=generator.device)[:parameters]
