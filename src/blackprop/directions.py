"""Families of random directions: what stochastic differences perturb along and sketches probe with.

Every family draws rows u in R^n with E[u uᵀ] = I, so that the mean of `⟨g, u⟩ u` is g. What tells them apart is the
variance: `relative_variance(M, n)` is `E|(1/M) Σ_m ⟨g, u_m⟩ u_m − g|² / |g|²`.
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass

import torch
from torch import Tensor


class Directions(abc.ABC):
    """A family of random directions."""

    @abc.abstractmethod
    def reach(self, size: int) -> float:
        """How far from zero an entry may lie, for all practical purposes (2 in a billion lie further)."""

    @abc.abstractmethod
    def sample(self, count: int, size: int, generator: torch.Generator, like: Tensor) -> Tensor:  # (count, size)
        """`count` directions with the dtype and the place of `like`, drawn where `generator` lives."""

    @abc.abstractmethod
    def relative_variance(self, count: int, size: int) -> float: ...


@dataclass(frozen=True)
class Gaussian(Directions):
    """`u ~ N(0, I)`, as published: relative variance (n + 1)/M."""

    def reach(self, size: int) -> float:
        return 6.0

    def sample(self, count: int, size: int, generator: torch.Generator, like: Tensor) -> Tensor:
        return _normal(count, size, generator, like)

    def relative_variance(self, count: int, size: int) -> float:
        return (size + 1) / count


@dataclass(frozen=True)
class Rademacher(Directions):
    """`u_i = ±1`, relative variance (n − 1)/M: all parameters move by the same amount."""

    def reach(self, size: int) -> float:
        return 1.0

    def sample(self, count: int, size: int, generator: torch.Generator, like: Tensor) -> Tensor:
        bits = torch.randint(0, 2, (count, size), generator=generator, device=generator.device, dtype=torch.int8)
        return bits.to(like).mul_(2).sub_(1)

    def relative_variance(self, count: int, size: int) -> float:
        return (size - 1) / count


@dataclass(frozen=True)
class Sphere(Directions):
    """Uniform on the sphere of radius √n, relative variance (n − 1)/M."""

    def reach(self, size: int) -> float:
        return min(6.0, math.sqrt(size))

    def sample(self, count: int, size: int, generator: torch.Generator, like: Tensor) -> Tensor:
        u = _normal(count, size, generator, like)
        return u.mul_(math.sqrt(size) / u.norm(dim=1, keepdim=True))

    def relative_variance(self, count: int, size: int) -> float:
        return (size - 1) / count


@dataclass(frozen=True)
class Orthogonal(Directions):
    """Sets of up to n mutually orthogonal directions of length √n, relative variance n/M − 1 for M ≤ n.

    M = n spans the space, and `Σ u uᵀ / M = I` then holds exactly. Needs `M n` numbers and `M² n` operations.
    """

    def reach(self, size: int) -> float:
        return min(6.0, math.sqrt(size))

    def sample(self, count: int, size: int, generator: torch.Generator, like: Tensor) -> Tensor:
        blocks = []
        for start in range(0, count, size):
            q, r = torch.linalg.qr(_normal(min(size, count - start), size, generator, like).mT)
            blocks.append((q * r.diagonal().sign()).mT * math.sqrt(size))  # the sign makes q uniform (Haar)
        return torch.cat(blocks)

    def relative_variance(self, count: int, size: int) -> float:
        rest = count % size  # complete sets are exact and only weigh the rest down
        return rest * (size - rest) / count**2


def _normal(count: int, size: int, generator: torch.Generator, like: Tensor) -> Tensor:
    u = torch.randn(count, size, generator=generator, device=generator.device, dtype=like.dtype)
    return u.to(like.device)
