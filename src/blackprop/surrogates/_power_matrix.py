"""A matrix of fields that is read as power, at a setting that stays: the gradient for the input, from its retrieval."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._probes import within
from blackprop.core._procedure import Procedure, in_rounds
from blackprop.core._query import Purpose, Query
from blackprop.errors import ArgumentError, IncompatibleError
from blackprop.surrogates._base import Surrogate
from blackprop.surrogates._phase_retrieval import retrieve

HELD_OUT = 64  # rows that are not fitted


class PowerMatrix(Surrogate):
    """`y = |x T|² + dark`, T `(d_in, d_out)` complex and unknown: any linear optics at one setting, and a camera.

    `∂L/∂x = 2 Re[(∂L/∂y ⊙ f*) Tᵀ]`, f = x T the field. The start reads random rows at θ and retrieves T from their
    powers, each output up to a phase and a conjugation, which change no reading. 64 rows more are not fitted; the
    relative error of their readings is `residual`. T is that of the setting of the start: it is for a θ that stays
    (`estimators.Still`), and is retrieved again where θ has moved.

    **Costs** `rows · d_in + 65` rows and no programming beside that of the batch (`CALIBRATE`), whenever θ has moved.

    **Arguments:** `rows`, random rows for each input, 10 by default. At 1 % read noise the residual is 0.012, and from
    6 rows for each input 0.014 with outputs that fail.

    Raises `IncompatibleError` for a device whose rows or outputs are not vectors.
    """

    T: Tensor  # (2, d_in, d_out): real and imaginary part
    dark: Tensor
    residual: Tensor

    def __init__(self, rows: int = 10) -> None:
        super().__init__()
        if rows < 1:
            raise ArgumentError(f"`PowerMatrix(rows=...)` must be at least 1, got {rows}")
        self.rows = rows

    def check(self, spec: Declaration) -> None:
        if not spec.of_vectors:
            raise IncompatibleError(
                f"`PowerMatrix` stands for a matrix that is read as power, and {spec.name} has inputs {spec.in_shape} "
                f"and outputs {spec.out_shape}"
            )

    def _allocate(self, spec: Declaration) -> None:
        self.register_buffer("T", torch.zeros(2, spec.d_in, spec.d_out))
        self.register_buffer("dark", torch.zeros(spec.d_out))
        self.register_buffer("residual", torch.full((), math.inf))

    @property
    def cost(self) -> int:
        """The rows of a start."""
        return self.rows * self.spec.d_in + HELD_OUT + 1

    def start(self, theta: Tensor, generator: torch.Generator) -> Procedure[None]:
        spec, count = self.spec, self.rows * self.spec.d_in
        drawn = torch.randn(count + HELD_OUT, spec.d_in, generator=generator, device=generator.device)
        x = within(spec, self._amplitude * drawn.to(theta))
        # Its darkest row, which tells the camera's level where the inputs can be 0.
        x = torch.cat((x, torch.zeros_like(x[:1]).clamp(*spec.x_range)))
        (y,) = yield from in_rounds([Query(x, theta, Purpose.CALIBRATE)], spec.d_out)
        dark = y[-1] if not bool(x[-1].any()) else torch.zeros_like(y[0])
        T = retrieve(x[:count], y[:count] - dark, generator)
        self.T.copy_(torch.stack((T.real, T.imag)))
        self.dark.copy_(dark)
        checked, lit = slice(count, count + HELD_OUT), y[count : count + HELD_OUT] - dark
        error = self._answer(x[checked]) - y[checked]
        self.residual.copy_(error.norm() / lit.norm().clamp_min(torch.finfo(y.dtype).tiny))

    def track(self, theta_old: Tensor, theta_new: Tensor, generator: torch.Generator) -> Procedure[None]:
        if not torch.equal(theta_old, theta_new):
            yield from self.start(theta_new, generator)

    def predict(self, x: Tensor) -> Tensor | None:
        return self._answer(x)

    def grad_x(self, x: Tensor, grad_y: Tensor) -> Tensor:
        T = torch.complex(*self.T)
        field = x.to(T) @ T
        return (2 * (grad_y * field.conj()) @ T.mT).real

    def diagnosis(self) -> dict[str, float]:
        return {"check_residual": float(self.residual)}

    def _answer(self, x: Tensor) -> Tensor:
        T = torch.complex(*self.T)
        return (x.to(T) @ T).abs().square() + self.dark

    def extra_repr(self) -> str:
        return f"rows={self.rows}"
