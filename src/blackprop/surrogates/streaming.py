"""A matrix fitted to the rows that training reads anyway."""

from __future__ import annotations

import torch
from torch import Tensor

from blackprop.declaration import Declaration
from blackprop.errors import ArgumentError, IncompatibleError
from blackprop.query import Procedure
from blackprop.surrogates.base import Surrogate


class Streaming(Surrogate):
    """`Â += ((X Xᵀ + λ I)⁻¹ (Y − X Âᵀ))ᵀ X`: after every training batch, the nearest matrix that explains it.

    The affine projection of adaptive filtering: rows and readings of the forward pass are the only data, so it asks
    nothing, follows θ and drift alike, and knows the device best along the rows that training sends through it, which
    is where the gradient is needed. λ is `ridge` times the mean squared norm of the rows; more of it averages read
    noise over more batches. Where B > d_in the d_in equations of the other side are solved instead.

    **Costs** d_in rows at the start (0 with `exact_start=False`, which then starts from Â = 0 or, with `bias`, from the
    mean output), and no programming. With `bias` it fits `f(x) ≈ Â x + b` along the data: a local-linear stand-in for
    devices that are not linear.
    """

    A: Tensor
    b: Tensor

    def __init__(self, ridge: float = 1e-2, *, exact_start: bool = True, bias: bool = False) -> None:
        super().__init__()
        if not ridge > 0:
            raise ArgumentError(f"`Streaming(ridge=...)` must be positive, got {ridge}")
        self.ridge = ridge
        self.exact_start = exact_start
        self.bias = bias

    def check(self, spec: Declaration) -> None:
        if not spec.linear and not self.bias:
            raise IncompatibleError(
                f"`surrogates.Streaming` needs a linear device and {spec.name} is not declared linear; "
                "`Streaming(bias=True, exact_start=False)` fits one locally"
            )

    def _allocate(self, spec: Declaration) -> None:
        self.register_buffer("A", torch.zeros(spec.d_out, spec.d_in))
        self.register_buffer("b", torch.zeros(spec.d_out))

    def start(self, theta: Tensor, generator: torch.Generator) -> Procedure[None]:
        del generator
        if not self.exact_start:
            return
        matrix = yield from self._read_matrix(theta)
        self.A.copy_(matrix)

    def track(self, theta_old: Tensor, theta_new: Tensor, generator: torch.Generator) -> Procedure[None]:
        del theta_old, theta_new, generator
        return
        yield  # a procedure that asks nothing

    @torch.no_grad()
    def observe(self, x: Tensor, y: Tensor) -> None:
        x, y = x.flatten(1), y.flatten(1)
        if self.bias:
            self.b.copy_(y.mean(0) - self.A @ x.mean(0))
        residual = y - x @ self.A.mT - self.b
        if self.bias:
            x, residual = x - x.mean(0), residual - residual.mean(0)
        damping = self.ridge * float(x.square().sum()) / len(x)
        if not damping:
            return
        if len(x) <= x.shape[1]:
            gram = x @ x.mT
            gram.diagonal().add_(damping)
            self.A += torch.cholesky_solve(residual, torch.linalg.cholesky(gram)).mT @ x
        else:
            gram = x.mT @ x
            gram.diagonal().add_(damping)
            self.A += torch.cholesky_solve(x.mT @ residual, torch.linalg.cholesky(gram)).mT

    def vjp(self, x: Tensor, grad_y: Tensor) -> Tensor:
        return (grad_y.flatten(1) @ self.A).reshape(x.shape)

    def extra_repr(self) -> str:
        return f"ridge={self.ridge}" + (", bias=True" if self.bias else "")
