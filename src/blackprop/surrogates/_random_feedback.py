"""An input gradient that knows nothing of the device: a fixed random matrix."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._procedure import Procedure
from blackprop.errors import ArgumentError
from blackprop.surrogates._base import Surrogate


class RandomFeedback(Surrogate):
    """`∂L/∂x = ∂L/∂y B` with B `(d_out, d_in)` ~ U(−1, 1) / √d_in, drawn once and kept. Asks nothing, ever.

    What stands before the device then learns what helps *through B*, and the device, where it is trained, comes to
    agree with B: feedback alignment. It needs a device that can be trained to agree; in front of a fixed one the
    gradient stays random. It is biased, and no query makes it less so.

    **Argument:** `seed`, of B. Source: Lillicrap et al., Nat. Commun. 7, 13276 (2016).
    """

    B: Tensor
    treat_as_linear = True  # B is the same at every x

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        if not isinstance(seed, int):
            raise ArgumentError(f"`RandomFeedback(seed=...)` must be a whole number, got {seed!r}")
        self.seed = seed

    def _allocate(self, spec: Declaration) -> None:
        drawn = torch.rand(spec.d_out, spec.d_in, generator=torch.Generator().manual_seed(self.seed))
        self.register_buffer("B", (2 * drawn - 1) / math.sqrt(spec.d_in))

    def start(self, theta: Tensor, generator: torch.Generator) -> Procedure[None]:
        yield from self.track(theta, theta, generator)

    def track(self, theta_old: Tensor, theta_new: Tensor, generator: torch.Generator) -> Procedure[None]:
        del theta_old, theta_new, generator
        return
        yield  # a procedure that asks nothing

    def vjp(self, x: Tensor, grad_y: Tensor) -> Tensor:
        return (grad_y.flatten(1) @ self.B).reshape(x.shape)

    def extra_repr(self) -> str:
        return f"seed={self.seed}"
