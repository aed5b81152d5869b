"""A matrix fitted to the rows of training."""

from __future__ import annotations

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._procedure import Procedure
from blackprop.errors import ArgumentError, IncompatibleError
from blackprop.surrogates._base import Surrogate
from blackprop.surrogates.least_squares._rules import Projection, Rule, few_equations


class Streaming(Surrogate):
    """`Â += (Y − X Âᵀ)ᵀ (X P Xᵀ + ρ I)⁻¹ X P` after every training batch: the matrix that explains the readings.

    The rows and readings of the forward pass are the only data. The surrogate therefore makes no queries, follows θ and
    drift alike, and is best along the rows that training sends, where the gradient is needed.

    **Costs** d_in rows at the start, and no programming; no rows with `exact_start=False`.

    **Arguments:**

    - `ridge` (default 0.01): ρ over the mean squared norm of the rows; a larger one averages read noise over more
      batches.
    - `rule` (default `Projection()`, P = I, without memory): `Recursive()`, or `LowRankRecursive()` for many inputs,
      remembers earlier batches and averages noise better at the same speed.
    - `exact_start` (default True): False starts from Â = 0 or, with `bias`, from the mean output.
    - `bias` (default False): True fits `f(x) ≈ Â x + b` along the data, a local linear model of devices that are not
      linear.

    **Raises** `IncompatibleError` for a device that is not declared linear, unless `bias` is True.
    """

    A: Tensor
    b: Tensor

    def __init__(
        self, ridge: float = 1e-2, rule: Rule | None = None, *, exact_start: bool = True, bias: bool = False
    ) -> None:
        super().__init__()
        if not ridge > 0:
            raise ArgumentError(f"`Streaming(ridge=...)` must be positive, got {ridge}")
        if rule is not None and not isinstance(rule, Rule):
            raise ArgumentError(f"`Streaming(rule=...)` takes a `Projection()` or a `Recursive()`, got {rule!r}")
        self.ridge = ridge
        self.rule: Rule | Projection = rule if rule is not None else Projection()
        self.exact_start = exact_start
        self.bias = bias

    def check(self, spec: Declaration) -> None:
        if not spec.linear and not self.bias:
            raise IncompatibleError(
                f"`surrogates.Streaming` needs a linear device and {spec.name} is not declared linear; "
                "`Streaming(bias=True, exact_start=False)` fits one locally"
            )
        self.rule.check(spec)

    def _allocate(self, spec: Declaration) -> None:
        self.register_buffer("A", torch.zeros(spec.d_out, spec.d_in))
        self.register_buffer("b", torch.zeros(spec.d_out))
        for name, value in self.rule.memory(spec.d_in).items():
            self.register_buffer(name, value)

    def start(self, theta: Tensor, generator: torch.Generator) -> Procedure[None]:
        del generator
        if not self.exact_start:
            return
        matrix = yield from self._read_matrix(theta)
        self.A.copy_(matrix)

    def track(self, theta_old: Tensor, theta_new: Tensor, generator: torch.Generator) -> Procedure[None]:
        del theta_old, theta_new, generator
        return
        yield  # a procedure without queries

    @torch.no_grad()
    def observe(self, x: Tensor, y: Tensor) -> None:
        x, y = x.flatten(1), y.flatten(1)
        b = y.mean(0) - self.A @ x.mean(0) if self.bias else self.b
        residual = y - x @ self.A.mT - b
        if self.bias:
            x, residual = x - x.mean(0), residual - residual.mean(0)
        unit = float(x.abs().max()) if len(x) else 0.0  # a step does not depend on it, and squares could overflow
        if unit:
            x, residual = x / unit, residual / unit
            self._correct(x, residual, self.ridge * float(x.square().sum()) / len(x))
        self.b.copy_(b)

    def _correct(self, x: Tensor, residual: Tensor, damping: float) -> None:
        x, residual = few_equations(x, residual)
        memory = {name: value for name, value in self.named_buffers() if name not in ("A", "b")}
        change, memory = self.rule.step(memory, x, residual, damping)
        self.A += change
        for name, value in memory.items():
            setattr(self, name, value)

    def predict(self, x: Tensor) -> Tensor | None:
        return self._through(self.A, x, self.b)

    def grad_x(self, x: Tensor, grad_y: Tensor) -> Tensor:
        return (grad_y.flatten(1) @ self.A).reshape(x.shape)

    def grad_x_recalled(self, x: Tensor, y: Tensor, grad_y: Tensor) -> Tensor:
        """Return `∂L/∂x`; for a device that is not linear, from a fit made again to these rows and then dropped."""
        if not self.bias:
            return self.grad_x(x, grad_y)
        kept = {name: value.clone() for name, value in self.named_buffers()}
        self.observe(x, y)
        grad = self.grad_x(x, grad_y)
        for name, value in kept.items():
            setattr(self, name, value)
        return grad

    def extra_repr(self) -> str:
        return f"ridge={self.ridge}, {self.rule}" + (", bias=True" if self.bias else "")
