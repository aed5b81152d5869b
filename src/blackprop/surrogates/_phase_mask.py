"""A phase mask in front of an unknown medium, read as power: both gradients from a retrieved matrix."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._probes import within
from blackprop.core._procedure import Procedure, in_rounds
from blackprop.core._query import Purpose, Query
from blackprop.errors import ArgumentError, CalibrationWarning, IncompatibleError
from blackprop.surrogates._base import Surrogate
from blackprop.surrogates._monitor import AGAIN, Monitor
from blackprop.surrogates._phase_retrieval import retrieve
from blackprop.surrogates._watch import excess, has_moved, watched

HELD_OUT = 2  # settings that are not fitted
POOR = 0.2  # a held-out residual, beyond three times the noise, that is warned of


class PhaseMask(Surrogate):
    """`y = |(x ⊙ e^{iθ}) R|² + dark`, R `(d_in, d_out)` complex and unknown: a modulator, any medium, a camera.

    `∂L/∂x = Re(e^{iθ} ⊙ h)`, `∂L/∂θ = −Σ_b Im(x ⊙ e^{iθ} ⊙ h)` with `h = 2 (∂L/∂y ⊙ f*) Rᵀ`, f the field. The start
    reads random rows at random settings and retrieves R from their powers. Two settings more are not fitted, and the
    relative error of their readings is `residual`; a `CalibrationWarning` says at the first batch where it is poor.
    Without noise R is exact. At 2 % read noise the residual is about 0.03, 0.02 and 0.014 from 5, 10 and 20 rows for
    each input.

    When the residual of the batches has grown to `watch` times its normal size, R is retrieved again, as in `Twin`.

    **Costs** `(settings + 2)·(rows + 1)` rows and `settings + 2` programmings, once (`CALIBRATE`).

    **Arguments:**

    - `settings`: random settings that are fitted; 8 by default.
    - `rows`: random rows at each; None (the default) for 10 d_in in all.
    - `watch`: as in `Twin`; 3 by default, None for never.
    - `share`: of training's rows that calibrating again may cost; 0.25 by default.

    Raises `IncompatibleError` for a device that has not one parameter for each input.
    """

    settings: int
    rows: int | None
    watch: float | None

    R: Tensor  # (2, d_in, d_out): real and imaginary part
    dark: Tensor
    theta: Tensor
    residual: Tensor
    statistics: Tensor
    said: Tensor

    def __init__(
        self, settings: int = 8, rows: int | None = None, *, watch: float | None = 3.0, share: float = 0.25
    ) -> None:
        super().__init__()
        for name, value in (("settings", settings), ("rows", rows)):
            if value is not None and value < 1:
                raise ArgumentError(f"`PhaseMask({name}=...)` must be at least 1, got {value}")
        if watch is not None and not watch > 1:
            raise ArgumentError(f"`PhaseMask(watch=...)` must be above 1, got {watch}")
        self.settings, self.rows, self.watch = settings, rows, watch
        self.monitor: Monitor = Monitor(share)

    def check(self, spec: Declaration) -> None:
        if not spec.of_vectors or spec.theta.size != spec.d_in:
            raise IncompatibleError(
                f"`PhaseMask` stands for a phase for each of the inputs, read as a vector, and {spec.name} has "
                f"{spec.theta.size} parameters for inputs {spec.in_shape}"
            )

    def _allocate(self, spec: Declaration) -> None:
        self.register_buffer("R", torch.zeros(2, spec.d_in, spec.d_out))
        self.register_buffer("dark", torch.zeros(spec.d_out))
        self.register_buffer("theta", torch.zeros(spec.theta.size))
        self.register_buffer("residual", torch.full((), math.inf))
        self.register_buffer("statistics", torch.zeros(4))
        self.register_buffer("said", torch.tensor(0))  # whether a poor residual was warned of

    def start(self, theta: Tensor, generator: torch.Generator) -> Procedure[None]:
        yield from self._calibrate(theta, generator)
        self.monitor.reserve(self._cost)

    def track(self, theta_old: Tensor, theta_new: Tensor, generator: torch.Generator) -> Procedure[None]:
        del theta_old
        if has_moved(self.statistics, self.watch, float(self.residual)) and self.monitor.covers(
            self._cost, self.spec.name
        ):
            before = excess(self.statistics, float(self.residual))
            yield from self._calibrate(theta_new, generator)
            self.monitor.spend(self.spec.name, AGAIN, before, self._cost, self.settings + HELD_OUT)
        self.theta.copy_(theta_new)

    def observe(self, x: Tensor, y: Tensor) -> None:
        with torch.no_grad():
            self.statistics = watched(self.statistics, self._answer(x.detach(), self.theta), y.detach())
        self.monitor.saw(len(x))
        self._warn_of_doubt()

    def predict(self, x: Tensor) -> Tensor | None:
        return self._answer(x, self.theta)

    def grad_x(self, x: Tensor, grad_y: Tensor) -> Tensor:
        return self._cotangent(x, grad_y).real

    def grad_theta(self, x: Tensor, grad_y: Tensor) -> Tensor:
        """`(∂f(x; θ)/∂θ)ᵀ ∂L/∂y` (P,), at the θ that the surrogate stands at."""
        return -self._unit * (x * self._cotangent(x, grad_y).imag).sum(0)

    def diagnosis(self) -> dict[str, float]:
        here = excess(self.statistics, float(self.residual))
        return {"excess": here, "check_residual": float(self.residual), **self.monitor.diagnosis()}

    def _warn_of_doubt(self) -> None:
        """Say once where settings that were not fitted are explained badly."""
        if self.said or float(self.residual) <= max(POOR, 3 * self.spec.noise):
            return
        self.said.fill_(1)
        warnings.warn(
            f"{self.spec.name}: a phase mask in front of a fixed medium leaves {float(self.residual):.0%} of the "
            "readings unexplained at settings that were not fitted: its gradients may be wrong. Give more `rows`, or "
            "take an estimator that asks, such as `RandomDirections`",
            CalibrationWarning,
            stacklevel=2,
        )

    def _cotangent(self, x: Tensor, grad_y: Tensor) -> Tensor:
        """`e^{iθ} ⊙ h` (B, d_in)."""
        R, phases = torch.complex(*self.R), self._phases(self.theta)
        field = (x * phases) @ R
        return phases * (2 * (grad_y * field.conj()) @ R.mT)

    def _answer(self, x: Tensor, theta: Tensor) -> Tensor:
        field = (x * self._phases(theta)) @ torch.complex(*self.R)
        return field.real.square() + field.imag.square() + self.dark

    def _phases(self, theta: Tensor) -> Tensor:
        return torch.polar(torch.ones_like(theta), self._unit * theta)

    @property
    def _unit(self) -> float:
        """Radians in a unit of θ."""
        period = self.spec.theta.period
        return 1.0 if period is None else 2 * math.pi / period

    @property
    def _each(self) -> int:
        return self.rows if self.rows is not None else -(-10 * self.spec.d_in // self.settings)

    @property
    def _cost(self) -> int:
        return (self.settings + HELD_OUT) * (self._each + 1)

    def _calibrate(self, theta: Tensor, generator: torch.Generator) -> Procedure[None]:
        spec, K = self.spec, self.settings + HELD_OUT
        x = torch.randn(K, self._each, spec.d_in, generator=generator, device=generator.device, dtype=theta.dtype)
        x = within(spec, self._amplitude * x.to(theta.device))
        # Its darkest row, which tells the camera's level where the inputs can be 0.
        x = torch.cat((x, torch.zeros_like(x[:, :1]).clamp(*spec.x_range)), 1)
        turns = torch.rand(K, theta.numel(), generator=generator, device=generator.device).to(theta)
        thetas = spec.theta.clamp(theta + (turns - 0.5) * 2 * math.pi / self._unit)
        queries = [Query(rows, setting, Purpose.CALIBRATE) for rows, setting in zip(x, thetas, strict=True)]
        y = torch.stack((yield from in_rounds(queries, spec.d_out)))
        dark = y[:, -1].mean(0) if not bool(x[:, -1].any()) else torch.zeros_like(y[0, 0])
        fields = (x * self._phases(thetas)[:, None])[:, :-1]
        powers = y[:, :-1] - dark
        fitted = slice(0, self.settings)
        R = retrieve(fields[fitted].flatten(0, 1), powers[fitted].flatten(0, 1), generator)
        left = (fields[self.settings :] @ R).abs().square() - powers[self.settings :]
        tiny = torch.finfo(y.dtype).tiny
        self.residual.copy_(left.norm() / powers[self.settings :].norm().clamp_min(tiny))
        self.R.copy_(torch.stack((R.real, R.imag)))
        self.dark.copy_(dark)
        self.theta.copy_(theta)
        self.statistics.zero_()
        self.said.zero_()

    def extra_repr(self) -> str:
        return f"settings={self.settings}, rows={self.rows}, watch={self.watch}, share={self.monitor.share}"
