"""Whom a perturbation's effect is credited to."""

from __future__ import annotations

import abc
from dataclasses import dataclass

import torch
from torch import Tensor

from blackprop.core._declaration import Coupling, Declaration
from blackprop.directions import Directions
from blackprop.errors import IncompatibleError


class Credit(abc.ABC):
    """How the slopes along directions u_m become a gradient."""

    @abc.abstractmethod
    def gradient(self, slopes: Tensor, u: Tensor) -> Tensor:
        """`Σ_m` of slopes (M, rows, *out_shape), already weighted by the cotangents, times directions (M, P): (P,)."""

    @abc.abstractmethod
    def relative_variance(self, directions: Directions, count: int, size: int) -> float:
        """The variance law of the estimate, for P = `size`."""

    def check(self, owner: object, spec: Declaration) -> None:
        """Raise where the device's coupling does not allow it."""
        del owner, spec


@dataclass(frozen=True)
class Whole(Credit):
    """All parameters share in the change of all outputs: `Σ_m (Σ_i s_mi) u_m`. Right for any device."""

    def gradient(self, slopes: Tensor, u: Tensor) -> Tensor:
        return slopes.flatten(1).sum(1) @ u

    def relative_variance(self, directions: Directions, count: int, size: int) -> float:
        return directions.relative_variance(count, size)


@dataclass(frozen=True)
class ByOutput(Credit):
    """Each output's change is credited to its own block of parameters: `Σ_m s_mi u_m[block i]`.

    For `Coupling.ROW` and `ELEMENT`: one perturbation of all parameters yields d_out separate directional
    derivatives, and the variance falls by the factor d_out.

    **Argument:** `outputs`, d_out.
    """

    outputs: int

    def gradient(self, slopes: Tensor, u: Tensor) -> Tensor:
        each = slopes.flatten(2).sum(1)  # (M, d_out)
        return torch.einsum("mo,mop->op", each, u.unflatten(1, (self.outputs, -1))).flatten()

    def relative_variance(self, directions: Directions, count: int, size: int) -> float:
        return directions.relative_variance(count, size, part=size // self.outputs)

    def check(self, owner: object, spec: Declaration) -> None:
        if spec.coupling is Coupling.NONE:
            raise IncompatibleError(
                f"`{type(owner).__name__}(credit={self})` needs a device with row or element coupling and {spec.name} "
                "declares none"
            )
        if spec.d_out != self.outputs:
            raise IncompatibleError(f"{self} is for {self.outputs} outputs and {spec.name} has {spec.d_out}")
