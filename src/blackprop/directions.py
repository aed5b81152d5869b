"""Families of random directions, for perturbations of θ and for probes.

Every family draws rows u in R^n with E[u uᵀ] = I, so that the mean of `⟨g, u⟩ u` is g. Families differ in their
variance: `relative_variance(M, n)` is `E|(1/M) Σ_m ⟨g, u_m⟩ u_m − g|² / |g|²`.
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from blackprop.errors import ArgumentError


class Directions(abc.ABC):
    """A family of random directions.

    `joint` is True if the directions of one draw depend on each other, so that a set must be drawn in one call.
    """

    joint: bool = False

    @abc.abstractmethod
    def reach(self, size: int) -> float:
        """Return the largest size of an entry, for all practical purposes (2 in a billion are larger)."""

    @abc.abstractmethod
    def sample(self, count: int, size: int, generator: torch.Generator, like: Tensor) -> Tensor:  # (count, size)
        """Draw `count` directions with the dtype and the place of `like`, on the device of `generator`."""

    @abc.abstractmethod
    def relative_variance(self, count: int, size: int, part: int | None = None) -> float:
        """Return the relative variance for M = `count`, n = `size`.

        With `part`, g and u are cut down to `part` of the n entries.
        """


@dataclass(frozen=True)
class Gaussian(Directions):
    """`u ~ N(0, I)`, as published. Relative variance (n + 1)/M."""

    def reach(self, size: int) -> float:
        return 6.0

    def sample(self, count: int, size: int, generator: torch.Generator, like: Tensor) -> Tensor:
        return _normal(count, size, generator, like)

    def relative_variance(self, count: int, size: int, part: int | None = None) -> float:
        return ((part or size) + 1) / count


@dataclass(frozen=True)
class Rademacher(Directions):
    """`u_i = ±1`, so that all parameters move by the same amount. Relative variance (n − 1)/M."""

    def reach(self, size: int) -> float:
        return 1.0

    def sample(self, count: int, size: int, generator: torch.Generator, like: Tensor) -> Tensor:
        bits = torch.randint(0, 2, (count, size), generator=generator, device=generator.device, dtype=torch.int8)
        return bits.to(like).mul_(2).sub_(1)

    def relative_variance(self, count: int, size: int, part: int | None = None) -> float:
        return ((part or size) - 1) / count


@dataclass(frozen=True)
class Sphere(Directions):
    """Uniform on the sphere of radius √n. Relative variance (n − 1)/M."""

    def reach(self, size: int) -> float:
        return min(6.0, math.sqrt(size))

    def sample(self, count: int, size: int, generator: torch.Generator, like: Tensor) -> Tensor:
        u = _normal(count, size, generator, like)
        return u.mul_(math.sqrt(size) / u.norm(dim=1, keepdim=True))

    def relative_variance(self, count: int, size: int, part: int | None = None) -> float:
        return (size * ((part or size) + 2) / (size + 2) - 1) / count


@dataclass(frozen=True)
class LowRankFactored(Directions):
    """`U = A Bᵀ/√r` with Gaussian A (rows, r), B (columns, r), for parameters that form a matrix, row by row.

    A direction takes (rows + columns)·r numbers in place of rows × columns. Its entries are uncorrelated, as in all
    families, but not independent: relative variance `(n + 1 + 2 (rows + columns + 1)/r)/M`. For r → ∞ it is `Gaussian`.

    **Arguments:**

    - `shape`: (rows, columns).
    - `rank` (default 2): r.

    Source: arXiv 2410.07698.
    """

    shape: tuple[int, int]
    rank: int = 2

    def __post_init__(self) -> None:
        if min(self.shape) < 1 or self.rank < 1:
            raise ArgumentError(f"`{self}` takes a shape and a rank of at least 1")

    def reach(self, size: int) -> float:
        del size
        return 6 * math.sqrt(1 + 10 / self.rank)  # products of normal numbers have exponential tails

    def sample(self, count: int, size: int, generator: torch.Generator, like: Tensor) -> Tensor:
        rows, columns = self.shape
        if rows * columns != size:
            raise ArgumentError(f"{self} is for {rows * columns} parameters, got {size}")
        a, b = (_normal(count * length, self.rank, generator, like).unflatten(0, (count, -1)) for length in self.shape)
        return (a @ b.mT).flatten(1) / math.sqrt(self.rank)

    def relative_variance(self, count: int, size: int, part: int | None = None) -> float:
        """Return the law; a part consists of whole rows, or lies within one."""
        columns = min(self.shape[1], part or size)
        rows = (part or size) // columns
        return (rows * columns + 1 + 2 * (rows + columns + 1) / self.rank) / count


@dataclass(frozen=True)
class Orthogonal(Directions):
    """Sets of up to n mutually orthogonal directions of length √n. Relative variance n/M − 1 for M ≤ n.

    M = n spans the space, and `Σ u uᵀ / M = I` then holds exactly. Needs `M n` numbers and `M² n` operations.

    **Arguments:**

    - `blocks` (default 1): into how many equal blocks the parameters fall. Each block then has orthogonal directions of
      its own, drawn apart from the others, and M = n / `blocks` directions give the exact gradient of a device of which
      each output answers to one block (`estimators.ByOutput`).
    """

    blocks: int = 1

    joint = True

    def reach(self, size: int) -> float:
        return min(6.0, math.sqrt(size / self.blocks))

    def sample(self, count: int, size: int, generator: torch.Generator, like: Tensor) -> Tensor:
        if size % self.blocks:
            raise ArgumentError(f"{self}: {size} parameters do not fall into {self.blocks} equal blocks")
        return torch.cat([self._sets(count, size // self.blocks, generator, like) for _ in range(self.blocks)], 1)

    def _sets(self, count: int, size: int, generator: torch.Generator, like: Tensor) -> Tensor:
        sets = []
        for start in range(0, count, size):
            q, r = torch.linalg.qr(_normal(min(size, count - start), size, generator, like).mT)
            sets.append((q * r.diagonal().sign()).mT * math.sqrt(size))  # the sign makes q uniform (Haar)
        return torch.cat(sets)

    def relative_variance(self, count: int, size: int, part: int | None = None) -> float:
        """Return the law; of several blocks, a part is one of them, or lies within one."""
        n = size // self.blocks
        p = min(part or size, n)
        others = 0 if part is not None and part <= n else self.blocks - 1
        return self._of_block(count, n, p) + others * n / count

    @staticmethod
    def _of_block(count: int, n: int, p: int) -> float:
        M = count % n  # complete sets are exact, and only dilute the others
        if n == 1:
            return 0.0
        # A uniformly random projector Q of rank M: E Q_ii² and E Q_ij², of which p − 1 meet each entry of a part.
        same, other = M * (M + 2) / (n * (n + 2)), M * (n - M) / ((n - 1) * n * (n + 2))
        return ((n * n) * (same + (p - 1) * other) - M * M) / count**2


@dataclass(frozen=True)
class Coordinates(Directions):
    """`√n e_i`, one parameter at a time, without repetition within n draws. Relative variance n/M − 1 for M ≤ n.

    The variance is that of `Orthogonal`. `count` directions a step cost as much as a block of coordinate differences. A
    step of μ moves the one parameter by `√n μ`.
    """

    joint = True

    def reach(self, size: int) -> float:
        return math.sqrt(size)

    def sample(self, count: int, size: int, generator: torch.Generator, like: Tensor) -> Tensor:
        order = [torch.randperm(size, generator=generator, device=generator.device) for _ in range(-(-count // size))]
        u = torch.zeros(count, size, dtype=like.dtype, device=like.device)
        u[torch.arange(count), torch.cat(order)[:count].to(like.device)] = math.sqrt(size)
        return u

    def relative_variance(self, count: int, size: int, part: int | None = None) -> float:
        del part  # every coordinate is drawn or not, with equal chances
        rest = count % size
        return rest * (size - rest) / count**2


@dataclass(frozen=True)
class Antithetic(Directions):
    """Directions of a family, each followed by its opposite: forward differences along both form a central one.

    Even orders of the device's response cancel. M directions count as M/2 of the family.

    **Arguments:**

    - `family`: the family that the first of each pair is drawn from.
    """

    joint = True

    family: Directions

    def reach(self, size: int) -> float:
        return self.family.reach(size)

    def sample(self, count: int, size: int, generator: torch.Generator, like: Tensor) -> Tensor:
        if count % 2:
            raise ArgumentError(f"{self} come in pairs: their count must be even, got {count}")
        u = self.family.sample(count // 2, size, generator, like)
        return torch.stack((u, -u), 1).flatten(0, 1)

    def relative_variance(self, count: int, size: int, part: int | None = None) -> float:
        return self.family.relative_variance(count // 2, size, part)


def _normal(count: int, size: int, generator: torch.Generator, like: Tensor) -> Tensor:
    u = torch.randn(count, size, generator=generator, device=generator.device, dtype=like.dtype)
    return u.to(like.device)
