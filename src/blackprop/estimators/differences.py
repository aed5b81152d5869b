"""Finite differences along given directions, of the scalar `φ(θ) = Σ_b ⟨f(x_b; θ), v_b⟩`."""

from __future__ import annotations

import abc
from dataclasses import dataclass

import torch
from torch import Tensor

from blackprop.declaration import Declaration
from blackprop.errors import IncompatibleError


class Difference(abc.ABC):
    """Where a difference looks on either side of θ.

    `order` is the order of its error in the step. `signs` are the shifts it reads besides θ itself, in steps. With
    `values` the readings at those shifts (and `base` at θ where `based`), `φ'·u ≈ slope(values, base) / step`.
    """

    order: int
    signs: tuple[int, ...]
    based: bool

    @abc.abstractmethod
    def slope(self, values: Tensor, base: Tensor | None) -> Tensor:
        """Values (directions, len(signs), ...) and base (...): the difference over one step, (directions, ...)."""


@dataclass(frozen=True)
class Forward(Difference):
    """`(φ(θ + μu) − φ(θ)) / μ`, error O(μ): one programming a direction, against rows that were read at θ anyway."""

    order = 1
    signs = (1,)
    based = True

    def slope(self, values: Tensor, base: Tensor | None) -> Tensor:
        assert base is not None
        return values[:, 0] - base


@dataclass(frozen=True)
class Central(Difference):
    """`(φ(θ + μu) − φ(θ − μu)) / 2μ`, error O(μ²): two programmings a direction, even orders cancel."""

    order = 2
    signs = (1, -1)
    based = False

    def slope(self, values: Tensor, base: Tensor | None) -> Tensor:
        del base
        return (values[:, 0] - values[:, 1]) / 2


class Contraction(abc.ABC):
    """A shorter set of rows that stands for the batch on a linear device.

    `φ` depends on the batch only through the matrix `GᵀX = Σ_b v_b x_bᵀ`, so any rows p with cotangents w and
    `Σ w pᵀ = GᵀX` give the same differences.
    """

    @abc.abstractmethod
    def rows(self, x: Tensor, grad_y: Tensor, asked: int) -> tuple[Tensor, Tensor] | None:
        """Rows (k, d_in) and cotangents (k, d_out), or None where they are no fewer than the rows `asked` otherwise."""

    def check(self, owner: object, spec: Declaration) -> None:
        if not spec.linear:
            raise IncompatibleError(
                f"`{type(owner).__name__}(contraction={self})` needs a linear device and {spec.name} is not declared "
                "linear; leave the contraction out"
            )
        if len(spec.in_shape) != 1 or len(spec.out_shape) != 1:
            raise IncompatibleError(f"{self} needs rows that are vectors; {spec.name} maps {spec.in_shape}")


@dataclass(frozen=True)
class BatchContraction(Contraction):
    """The d_out rows of `GᵀX` in place of the B rows, where B > d_out: `Σ_b ⟨v_b, A x_b⟩ = tr(A (GᵀX)ᵀ)`.

    Source: arXiv 2509.15113.
    """

    def rows(self, x: Tensor, grad_y: Tensor, asked: int) -> tuple[Tensor, Tensor] | None:
        if asked <= grad_y.shape[1]:
            return None
        return grad_y.mT @ x, torch.eye(grad_y.shape[1], dtype=grad_y.dtype, device=grad_y.device)
