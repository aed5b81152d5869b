"""Finite differences along given directions, of the scalar `φ(θ) = Σ_b ⟨f(x_b; θ), v_b⟩`."""

from __future__ import annotations

import abc
from dataclasses import dataclass

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.errors import ArgumentError, IncompatibleError


class Difference(abc.ABC):
    """A finite difference around θ.

    - `order`: the order of its error in the step.
    - `signs`: the shifts it reads besides θ itself, in steps.
    - `based`: whether it also uses the readings at θ.

    With `values` the readings at the shifts and `base` those at θ, `φ'·u ≈ slope(values, base) / step`.
    """

    order: int
    signs: tuple[int, ...]
    based: bool

    @abc.abstractmethod
    def slope(self, values: Tensor, base: Tensor | None) -> Tensor:
        """Return the difference over one step (directions, ...); values (directions, len(signs), ...), base (...)."""


@dataclass(frozen=True)
class Forward(Difference):
    """`(φ(θ + μu) − φ(θ)) / μ`, error O(μ): one programming a direction, against the rows of the forward pass."""

    order = 1
    signs: tuple[int, ...] = (1,)
    based = True

    def slope(self, values: Tensor, base: Tensor | None) -> Tensor:
        assert base is not None
        return values[:, 0] - base


@dataclass(frozen=True)
class Central(Difference):
    """`(φ(θ + μu) − φ(θ − μu)) / 2μ`, error O(μ²): two programmings a direction; even orders cancel."""

    order = 2
    signs: tuple[int, ...] = (1, -1)
    based = False

    def slope(self, values: Tensor, base: Tensor | None) -> Tensor:
        del base
        return (values[:, 0] - values[:, 1]) / 2


class Contraction(abc.ABC):
    """A shorter set of rows that replaces the batch on a linear device.

    `φ` depends on the batch only through the matrix `GᵀX = Σ_b v_b x_bᵀ`. Any rows p with cotangents w and
    `Σ w pᵀ = GᵀX` therefore give the same differences.
    """

    @abc.abstractmethod
    def rows(self, x: Tensor, grad_y: Tensor, asked: int) -> tuple[Tensor, Tensor] | None:
        """Return rows (k, d_in) and cotangents (k, d_out); None if they are not fewer than the `asked` rows."""

    def check(self, owner: object, spec: Declaration) -> None:
        if not spec.linear:
            raise IncompatibleError(
                f"`{type(owner).__name__}(contraction={self})` needs a linear device and {spec.name} is not declared "
                "linear; leave the contraction out"
            )
        if not spec.of_vectors:
            raise IncompatibleError(f"{self} needs vectors; {spec.name} maps {spec.in_shape} to {spec.out_shape}")


@dataclass(frozen=True)
class BatchContraction(Contraction):
    """The d_out rows of `GᵀX` in place of the B rows, if B > d_out: `Σ_b ⟨v_b, A x_b⟩ = tr(A (GᵀX)ᵀ)`.

    The rows are sent as they are, as published. Their amplitude is about 1/B of the data's, which vanishes in the noise
    of a noisy or coarse device; `ProbeContraction` sends rows at the amplitude of the data.

    Source: arXiv 2509.15113.
    """

    def rows(self, x: Tensor, grad_y: Tensor, asked: int) -> tuple[Tensor, Tensor] | None:
        if asked <= grad_y.shape[1]:
            return None
        return grad_y.mT @ x, torch.eye(grad_y.shape[1], dtype=grad_y.dtype, device=grad_y.device)


@dataclass(frozen=True)
class ProbeContraction(Contraction):
    """The k leading right singular vectors of `GᵀX = Σ_i σ_i p_i q_iᵀ` in place of the batch: `Σ_i σ_i ⟨p_i, A q_i⟩`.

    Rows q_i, cotangents σ_i p_i: the best k rows for a linear device. They are sent at the amplitude of the data (the
    root mean square norm of its rows), so that read noise has the same effect as in training.

    **Arguments:**

    - `rank` (default 8): k at most.
    - `energy` (default 0, always k): the part of `Σ σ²` that may be left out to save rows.
    """

    rank: int = 8
    energy: float = 0.0

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ArgumentError(f"`ProbeContraction(rank=...)` must be at least 1, got {self.rank}")
        if not 0 <= self.energy < 1:
            raise ArgumentError(f"`ProbeContraction(energy=...)` must be in [0, 1), got {self.energy}")

    def rows(self, x: Tensor, grad_y: Tensor, asked: int) -> tuple[Tensor, Tensor] | None:
        if min(asked, grad_y.shape[1]) <= 1 or asked <= self.rank:
            return None
        p, sigma, q = _leading(grad_y, x, min(self.rank, *x.shape, grad_y.shape[1]))
        # Directions below the resolution of float32 are rounding.
        kept = int((sigma > 1e-6 * sigma[0]).sum())
        if self.energy:
            left = 1 - sigma.square().cumsum(0) / grad_y.mT.matmul(x).square().sum()
            kept = min(kept, int((left > self.energy).sum()) + 1)
        amplitude = x.square().sum(1).mean().sqrt()
        return amplitude * q[:kept], (sigma[:kept, None] / amplitude) * p[:kept]


def _leading(grad_y: Tensor, x: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """`GᵀX ≈ Σ σ_i p_i q_iᵀ`, the k leading terms: p (k, d_out), σ (k,), q (k, d_in); by the Gram matrix's smaller
    side.
    """
    matrix = grad_y.mT @ x
    if matrix.shape[0] <= matrix.shape[1]:
        # In float64: squares of small gradients, and eigenvalues close together, have made a float32 solver return NaN.
        _, vectors = torch.linalg.eigh(matrix.double() @ matrix.double().mT)
        p = vectors.mT.flip(0)[:k].to(matrix)
        q = p @ matrix
        sigma = q.norm(dim=1)
        return p, sigma, q / sigma.clamp_min(torch.finfo(sigma.dtype).tiny)[:, None]
    q, sigma, p = _leading(x, grad_y, k)
    return p, sigma, q
