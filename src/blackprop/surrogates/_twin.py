"""A differentiable model of the device, fitted to it: both gradients by autograd through the model."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor, nn

from blackprop.core._declaration import Declaration
from blackprop.core._probes import within
from blackprop.core._procedure import ROUND_BYTES, Procedure
from blackprop.core._query import Purpose, Query
from blackprop.errors import ArgumentError, CalibrationWarning, SurrogateError
from blackprop.surrogates._base import Surrogate
from blackprop.surrogates._model import FittedModel
from blackprop.surrogates._monitor import AGAIN, Monitor
from blackprop.surrogates._watch import excess, has_moved, watched

TOGETHER = 4  # settings in a step of the fit: many small steps fit better in the same time
ONLINE = 0.1  # of the calibration's rate, at most: a batch has little information, and its noise must not stay
GAIN = 3.0  # of that rate for the relative residual, up to there
HELD_OUT = 16  # one setting of this many is held out, and checks the fit
FAR_ABOVE, LITTLE = (
    3.0,
    0.7,
)  # bounds of the check's residual: times the fit's residual or the noise; as a part of the readings
DECAY = (0.9, 0.99)  # of Adam's moments: the fit has one or two thousand steps


class Twin(Surrogate):
    """`∂L/∂x` and `∂L/∂θ` by autograd through `model(x, θ; w) ≈ f(x; θ)`, with w fitted to the device.

    **Calibration.** The start reads `rows` random rows at the amplitude of the data, at each of `settings` random
    settings. These are drawn over the range of θ (a period around it; its limits; or else the present values and as
    much again to either side) and moved towards the present θ by a random part of the way. It fits w to `Σ|model − y|²
    / Σ|y|²` by `fit_steps` steps of Adam, at a rate that falls from `lr` to zero along a cosine. `residual` is the
    relative residual of the fit. One setting of 16 is held out and checks the fit. If its residual is far above the
    fit's and the noise, or near 1, a `CalibrationWarning` follows at the first batch.

    **Training.** Every batch then makes `online_steps` more steps, at 3 `lr` times its relative residual, `lr / 10` at
    most: w follows a device that drifts, and rests while it explains the device. (A step of Adam has the same size for
    a small residual, and would move w where the batch has no information.)

    **Watch.** The twin calibrates again, from the present w and at the next change of θ, when the residual of the
    batches has grown to `watch` times its value after the calibration and to `watch` times the residual that the
    calibration predicts at other settings. `monitor` keeps the log.

    **Costs** settings·rows rows and `settings` programmings, once (booked as `CALIBRATE`). With `fit_steps=0` it makes
    no queries; with `online_steps=0` as well it is physics-aware training: forward through the device, backward through
    the model as given.

    **Arguments:**

    - `model`: a module with `forward(x (B, *in_shape), theta (P,)) -> (B, *out_shape)`. If it takes settings in front,
      x `(S, B, *in_shape)` with theta `(S, P)`, it sets `stacks = True`. The twin takes it over: its parameters become
      buffers, those that required a gradient are fitted, and your optimizers do not see them.
    - `settings` (default 128), `rows` (default 20): of the calibration.
    - `fit_steps` (default 1600): steps of the fit.
    - `lr` (default 0.015): rate of the fit. 0.015 suits a mesh of 64 modes (in rad a step), 0.05 a device whose
      parameters act one by one.
    - `online_steps` (default 1): steps a batch.
    - `watch` (default 3): factor of the residual that triggers a calibration; None for never.
    - `share` (default 0.25): bound of the cost of further calibrations, as a share of the rows of training, beyond the
      rows of one calibration.

    **Raises** `IncompatibleError` for a model of another device, `SurrogateError` for a fit that diverges.
    """

    settings: int
    rows: int
    fit_steps: int
    lr: float
    online_steps: int

    theta: Tensor
    moments: Tensor
    updates: Tensor
    residual: Tensor
    held_out: Tensor
    said: Tensor
    statistics: Tensor

    def __init__(
        self,
        model: nn.Module,
        *,
        settings: int = 128,
        rows: int = 20,
        fit_steps: int = 1600,
        lr: float = 0.015,
        online_steps: int = 1,
        watch: float | None = 3.0,
        share: float = 0.25,
    ) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise ArgumentError(f"`Twin(model=...)` takes a Module with `forward(x, theta)`, got {model!r}")
        for name, value, least in (
            ("settings", settings, 1),
            ("rows", rows, 1),
            ("fit_steps", fit_steps, 0),
            ("online_steps", online_steps, 0),
        ):
            if value < least:
                raise ArgumentError(f"`Twin({name}=...)` must be at least {least}, got {value}")
        if not 0 < lr < math.inf:
            raise ArgumentError(f"`Twin(lr=...)` must be positive and finite, got {lr}")
        if watch is not None and not watch > 1:
            raise ArgumentError(f"`Twin(watch=...)` must be above 1, got {watch}")
        self.model = model
        self.settings, self.rows = settings, rows
        self.fit_steps, self.lr, self.online_steps = fit_steps, lr, online_steps
        self.watch = watch
        self.monitor: Monitor = Monitor(share)
        self._fitted = FittedModel(model)

    def check(self, spec: Declaration) -> None:
        self._fitted.check(spec)

    def _allocate(self, spec: Declaration) -> None:
        self.register_buffer("theta", torch.zeros(spec.theta.size))
        # Of the online fit, since the calibration: Adam's moments, and its steps.
        self.register_buffer("moments", torch.zeros(2, self._fitted.weights().numel()))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.register_buffer("residual", torch.full((), math.inf))
        self.register_buffer("held_out", torch.full((), math.inf))  # infinite if no setting is held out
        self.register_buffer("said", torch.tensor(0))  # whether the warning of a poor fit was given
        self.register_buffer("statistics", torch.zeros(4))

    @property
    def moved(self) -> bool:
        """Return whether the training batches show that the device has moved since the calibration."""
        return has_moved(self.statistics, self.watch, self._expected)

    @property
    def _expected(self) -> float:
        """The relative residual to expect at other settings than the calibration's.

        `residual / (1 − n / N)` for n weights and N numbers read (generalised cross-validation), or the residual of the
        held-out settings if that is larger.
        """
        numbers = self.settings * self.rows * self.spec.d_out
        expected = float(self.residual) / max(1 - len(self._fitted.weights()) / numbers, 0.1)
        return max(expected, float(self.held_out)) if self.held_out.isfinite() else expected

    def start(self, theta: Tensor, generator: torch.Generator) -> Procedure[None]:
        if self._calibrates:
            yield from self._calibrate(theta, generator)
            self.monitor.reserve(self.settings * self.rows)
        else:
            self.theta.copy_(theta)

    def track(self, theta_old: Tensor, theta_new: Tensor, generator: torch.Generator) -> Procedure[None]:
        del theta_old
        rows, before = self.settings * self.rows, self._excess
        if self._calibrates and self.moved and self.monitor.covers(rows, self.spec.name):
            yield from self._calibrate(theta_new, generator)
            self.monitor.spend(self.spec.name, AGAIN, before, rows, self.settings)
        else:
            self.theta.copy_(theta_new)

    def observe(self, x: Tensor, y: Tensor) -> None:
        x, y = x.detach(), y.detach()
        with torch.no_grad():
            found = self.model(x, self.theta)
        self.statistics = watched(self.statistics, found, y)
        self._warn_of_doubt()
        self.monitor.saw(len(x))
        power = float(y.square().sum())
        if not self.online_steps or not self._fitted.names or not power:
            return
        rate = self.lr * min(ONLINE, GAIN * float((found - y).norm()) / math.sqrt(power))
        w, moments, first = self._fitted.weights(), self.moments, int(self.updates) + 1
        for step in range(first, first + self.online_steps):
            grad = self._fitted.gradient(w, x, y, self.theta, power)
            w, moments = _adam(w, grad, moments, step, rate)
        self._fitted.write(w)
        self.moments = moments
        self.updates += self.online_steps

    def diagnosis(self) -> dict[str, float]:
        checked = {"check_residual": float(self.held_out)} if self.held_out.isfinite() else {}
        return {"excess": self._excess, **checked, **self.monitor.diagnosis()}

    def _warn_of_doubt(self) -> None:
        """Warn once if the model explains the held-out settings badly."""
        held, usual = float(self.held_out), max(float(self.residual), self.spec.noise, 0.02)
        if self.said or held == math.inf or not held > min(FAR_ABOVE * usual, LITTLE):
            return
        self.said.fill_(1)
        warnings.warn(
            f"{self.spec.name}: this twin leaves {held:.0%} of the readings unexplained at settings that it was not "
            f"fitted to, and {float(self.residual):.0%} at those that it was: its gradients may be wrong. Give "
            f"`Twin(settings=...)` more than {self.settings}, more `fit_steps`, a model nearer to the device, or take "
            "an estimator that queries, such as `DirectionalMemory`",
            CalibrationWarning,
            stacklevel=2,
        )

    @property
    def _excess(self) -> float:
        """The residual of the batches over its normal value."""
        return excess(self.statistics, self._expected)

    def grad_x(self, x: Tensor, grad_y: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            output = self.model(x, self.theta)
        (grad,) = torch.autograd.grad(output, x, grad_y)
        return grad

    def grad_theta(self, x: Tensor, grad_y: Tensor) -> Tensor:
        """Return `(∂model(x; θ)/∂θ)ᵀ ∂L/∂y` (P,), at the surrogate's present θ."""
        with torch.enable_grad():
            theta = self.theta.detach().requires_grad_()
            output = self.model(x.detach(), theta)
        (grad,) = torch.autograd.grad(output, theta, grad_y)
        return grad

    @property
    def _calibrates(self) -> bool:
        return self.fit_steps > 0 and len(self._fitted.names) > 0

    def _calibrate(self, theta: Tensor, generator: torch.Generator) -> Procedure[None]:
        spec, K, R = self.spec, self.settings, self.rows
        shape, place = (K, R, *spec.in_shape), generator.device
        x = torch.randn(shape, generator=generator, device=place, dtype=theta.dtype).to(theta.device)
        x *= (self.input_rms or math.sqrt(spec.d_in)) / math.sqrt(spec.d_in)
        x = within(spec, x)
        thetas = self._around(theta, generator)
        queries = [Query(row, t, Purpose.CALIBRATE) for row, t in zip(x, thetas, strict=True)]
        per_round = max(1, ROUND_BYTES // (theta.element_size() * (theta.numel() + R * (spec.d_in + spec.d_out))))
        readings: list[Tensor] = []
        for first in range(0, K, per_round):
            readings += yield queries[first : first + per_round]
        y = torch.stack(readings).detach()
        fitted = K - K // HELD_OUT
        w = self._fit(x[:fitted], y[:fitted], thetas[:fitted], generator)
        if not bool(w.isfinite().all()):
            raise SurrogateError(f"the fit of this twin diverged; use a smaller rate than `lr={self.lr}`")
        with torch.no_grad():
            found = torch.cat([self._fitted.answer(w, *some) for some in zip(x.split(1), thetas.split(1), strict=True)])
        self._fitted.write(w)
        self.residual = _relative(found[:fitted], y[:fitted])
        self.held_out = (
            _relative(found[fitted:], y[fitted:]) if fitted < K else torch.full_like(self.residual, math.inf)
        )
        self.said.zero_()
        self.moments.zero_()
        self.updates.zero_()
        self.statistics.zero_()
        self.theta.copy_(theta)

    def _around(self, theta: Tensor, generator: torch.Generator) -> Tensor:
        """Return settings (K, P) over the range, each moved towards θ by a random part of the way."""
        K, P = self.settings, theta.numel()
        part, turns = torch.rand(K, P + 1, generator=generator, device=generator.device).to(theta).split((1, P), 1)
        low, high = _reach(self.spec, theta)
        return self.spec.theta.clamp(theta + part * (low + (high - low) * turns - theta))

    def _fit(self, x: Tensor, y: Tensor, thetas: Tensor, generator: torch.Generator) -> Tensor:
        """Return the weights that explain the readings y (K, R, *out_shape)."""
        w, size = self._fitted.weights(), float(y.square().sum() / len(y))
        moments, order = torch.zeros_like(self.moments), torch.zeros(0, dtype=torch.int64)
        for step in range(self.fit_steps if size else 0):
            if len(order) < min(TOGETHER, len(y)):
                order = torch.randperm(len(y), generator=generator, device=generator.device).to(y.device)
            some, order = order[:TOGETHER], order[TOGETHER:]
            grad = self._fitted.gradient(w, x[some], y[some], thetas[some], size * len(some))
            rate = self.lr * (1 + math.cos(math.pi * step / self.fit_steps)) / 2
            w, moments = _adam(w, grad, moments, step + 1, rate)
        return w

    def extra_repr(self) -> str:
        fit = f"settings={self.settings}, rows={self.rows}, fit_steps={self.fit_steps}, lr={self.lr}"
        return f"{fit}, online_steps={self.online_steps}, watch={self.watch}, share={self.monitor.share}"


def _adam(w: Tensor, grad: Tensor, moments: Tensor, step: int, rate: float) -> tuple[Tensor, Tensor]:
    """Return the weights and the moments (2, n) after one step of Adam, without changing the arguments."""
    first, second = (
        moment + (1 - decay) * (new - moment)
        for moment, new, decay in zip(moments, (grad, grad * grad), DECAY, strict=True)
    )
    mean, power = first / (1 - DECAY[0] ** step), second / (1 - DECAY[1] ** step)
    return w - rate * mean / (power.sqrt() + 1e-8), torch.stack((first, second))


def _relative(found: Tensor, y: Tensor) -> Tensor:
    return (found - y).norm() / y.norm().clamp_min(torch.finfo(y.dtype).tiny)


def _reach(spec: Declaration, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Return the lowest and the highest θ of the calibration."""
    if spec.theta.period is not None and not spec.theta.limited:
        return theta - spec.theta.period / 2, theta + spec.theta.period / 2
    return spec.theta.range_around(theta)
