"""An input gradient without knowledge of the device: a fixed random matrix."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._procedure import Procedure
from blackprop.errors import ArgumentError
from blackprop.surrogates._base import Surrogate


class RandomFeedback(Surrogate):
    """`∂L/∂x = ∂L/∂y B` with B `(d_out, d_in)` ~ U(−1, 1) / √d_in, drawn once and kept. Makes no queries.

    The layers before the device learn from the error *through B*, and a trained device aligns with B: feedback
    alignment. A fixed device cannot align, and the gradient before it stays random. The gradient is biased.

    **Arguments:**

    - `seed` (default 0): the seed of B.

    Source: Lillicrap et al., Nat. Commun. 7, 13276 (2016).
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
        yield  # a procedure without queries

    def grad_x(self, x: Tensor, grad_y: Tensor) -> Tensor:
        return (grad_y.flatten(1) @ self.B).reshape(x.shape)

    def extra_repr(self) -> str:
        return f"seed={self.seed}"
