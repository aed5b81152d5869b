"""Credit: the parameters that the effect of a perturbation is assigned to."""

from __future__ import annotations

import abc
from dataclasses import dataclass

import torch
from torch import Tensor

from blackprop.core._declaration import Coupling, Declaration
from blackprop.directions import Directions
from blackprop.errors import IncompatibleError


class Credit(abc.ABC):
    """Turns the slopes along directions u_m into a gradient."""

    @abc.abstractmethod
    def gradient(self, slopes: Tensor, u: Tensor) -> Tensor:
        """Return `Σ_m` of slopes (M, rows, *out_shape), weighted by the cotangents, times directions (M, P): (P,)."""

    @abc.abstractmethod
    def relative_variance(self, directions: Directions, count: int, size: int) -> float:
        """Return the relative variance of the estimate, for P = `size`."""

    def check(self, owner: object, spec: Declaration) -> None:
        """Raise `IncompatibleError` if the device's coupling does not allow this credit."""
        del owner, spec


@dataclass(frozen=True)
class Whole(Credit):
    """Credit all parameters with the change of all outputs: `Σ_m (Σ_i s_mi) u_m`. Valid for any device."""

    def gradient(self, slopes: Tensor, u: Tensor) -> Tensor:
        return slopes.flatten(1).sum(1) @ u

    def relative_variance(self, directions: Directions, count: int, size: int) -> float:
        return directions.relative_variance(count, size)


@dataclass(frozen=True)
class ByOutput(Credit):
    """Credit each output's change to its own block of parameters: `Σ_m s_mi u_m[block i]`.

    For `Coupling.ROW` and `ELEMENT`. One perturbation of all parameters gives d_out separate directional derivatives,
    and the variance falls by the factor d_out.

    **Arguments:**

    - `outputs`: d_out.
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
