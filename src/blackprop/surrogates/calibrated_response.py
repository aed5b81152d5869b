"""A device of independent elements, calibrated once: both gradients then cost no query."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from blackprop.declaration import Coupling, Declaration
from blackprop.errors import ArgumentError, IncompatibleError
from blackprop.query import ROUND_BYTES, Procedure, Purpose, Query
from blackprop.surrogates._watch import NEGLIGIBLE, has_moved, watched
from blackprop.surrogates.base import Surrogate
from blackprop.surrogates.curves import TABLE, common_curve, own_harmonics, read_harmonics, read_table, resolved

BLOCK = 1024  # inputs that one orthogonal set spans; more are spanned in blocks
EDGE = 0.15  # rad of the angle that spans a range, kept clear of its ends, where dθ/du vanishes


class CalibratedResponse(Surrogate):
    """`A_ij = R_ij(θ_ij)` with response curves measured once: `∂L/∂X = G A` and `∂L/∂θ_ij = (GᵀX)_ij R'_ij(θ_ij)`.

    The start writes `settings` K settings, each element a random K-th of its range further in each, and reads each on a
    spanning set of rows, orthogonal and driven at the amplitude of the data. All elements together sample their range
    at K·P points, and give a common curve as fine as `harmonics`; what single elements add to it is fitted to their
    own K samples, harmonic by harmonic, as far as it stands out of the noise. So alike elements are known to far more
    than K points, and unlike ones to K.

    The range of θ is its period; or its limits; or else the initial values and as much again to either side, with
    straight continuation. **Costs** K·d_in rows and K programmings, once (booked as `CALIBRATE`), and nothing after.

    Every training batch shows how well the curves still explain the device. When the residual has grown to `watch`
    times what it was after the calibration, the device has moved, and is calibrated again at the next change of θ.
    None: never.
    """

    table: Tensor
    own: Tensor
    used: Tensor
    span: Tensor
    A: Tensor
    slope: Tensor
    statistics: Tensor

    def __init__(self, settings: int = 16, harmonics: int = 32, *, watch: float | None = 3.0) -> None:
        super().__init__()
        if settings < 3:
            raise ArgumentError(f"`CalibratedResponse(settings=...)` must be at least 3, got {settings}")
        if harmonics < 1:
            raise ArgumentError(f"`CalibratedResponse(harmonics=...)` must be at least 1, got {harmonics}")
        if watch is not None and not watch > 1:
            raise ArgumentError(f"`CalibratedResponse(watch=...)` must be above 1, got {watch}")
        self.settings = settings
        self.harmonics = harmonics
        self.watch = watch

    def check(self, spec: Declaration) -> None:
        if spec.coupling is not Coupling.ELEMENT:
            raise IncompatibleError(
                f"`surrogates.CalibratedResponse` needs a device with element coupling and {spec.name} declares "
                f"{spec.coupling.value}"
            )

    def _allocate(self, spec: Declaration) -> None:
        elements = (spec.d_out, spec.d_in)
        per_element = any(isinstance(limit, Tensor) for limit in (spec.theta.low, spec.theta.high))
        self.register_buffer("table", torch.zeros(TABLE, 2))
        self.register_buffer("own", torch.zeros(resolved(self.settings), *elements, 2))
        self.register_buffer("used", torch.tensor(0))  # how many of them there are
        self.register_buffer("span", torch.zeros(2, spec.theta.size if per_element else 1))  # lowest and highest θ
        self.register_buffer("A", torch.zeros(elements))
        self.register_buffer("slope", torch.zeros(elements))  # R'(θ)
        self.register_buffer("statistics", torch.zeros(4))  # of the batches since the calibration

    @property
    def moved(self) -> bool:
        """Whether the training batches say that the device is no longer the calibrated one."""
        return has_moved(self.statistics, self.watch)

    def start(self, theta: Tensor, generator: torch.Generator) -> Procedure[None]:
        yield from self._calibrate(theta, generator)

    def track(self, theta_old: Tensor, theta_new: Tensor, generator: torch.Generator) -> Procedure[None]:
        del theta_old
        if self.moved:
            yield from self._calibrate(theta_new, generator)
        else:
            self._stand_at(theta_new)

    def observe(self, x: Tensor, y: Tensor) -> None:
        x, y = x.flatten(1), y.flatten(1)
        self.statistics = watched(self.statistics, x @ self.A.mT, y)

    def vjp(self, x: Tensor, grad_y: Tensor) -> Tensor:
        return (grad_y.flatten(1) @ self.A).reshape(x.shape)

    def grad_theta(self, x: Tensor, grad_y: Tensor) -> Tensor:
        """`(GᵀX) ⊙ R'(θ)` (P,), at the θ that the surrogate stands at."""
        return ((grad_y.flatten(1).mT @ x.flatten(1)) * self.slope).flatten()

    def _calibrate(self, theta: Tensor, generator: torch.Generator) -> Procedure[None]:
        spec, K, P = self.spec, self.settings, theta.numel()
        span = self._reach(theta)
        norm = self.drive or math.sqrt(spec.d_in)
        rows = norm * _orthogonal(spec.d_in, theta, generator)
        offsets = torch.rand(P, generator=generator, device=generator.device).to(theta) / K
        turns = torch.arange(K, device=theta.device, dtype=theta.dtype)[:, None] / K + offsets
        readings: list[Tensor] = []
        for some in turns.split(max(1, ROUND_BYTES // (theta.element_size() * (2 * P + rows.numel())))):
            settings = spec.theta.clamp(self._setting(some, span))
            queries = [Query(rows.unflatten(1, spec.in_shape), t, Purpose.CALIBRATE) for t in settings]
            readings += yield queries
        values = torch.stack([(y.flatten(1).mT @ rows).flatten() for y in readings]) / norm**2
        table = common_curve(turns.flatten(), values.flatten(), self.harmonics)
        own = own_harmonics(values - read_table(table, turns)[0], offsets, 0.01 * NEGLIGIBLE * float(values.var()))
        self.table.copy_(table)
        self.own.zero_()[: len(own)] = torch.view_as_real(own).view(len(own), *self.own.shape[1:])
        self.used.fill_(len(own))
        self.span.copy_(span)
        self.statistics.zero_()
        self._stand_at(theta)

    def _stand_at(self, theta: Tensor) -> None:
        """Read value and slope of every curve at theta."""
        low, high = self.span
        if self._periodic:
            turns, per_theta, beyond = (theta - low) / (high - low), 1 / (high - low), torch.zeros_like(theta)
        else:
            half = (high - low) / 2
            inside = theta.clamp(low + half * (1 - math.cos(EDGE)), high - half * (1 - math.cos(EDGE)))
            angle = ((inside - low - half) / half).clamp(-1, 1).acos()
            turns, per_theta, beyond = angle / (2 * math.pi), -1 / (2 * math.pi * half * angle.sin()), theta - inside
        used = torch.view_as_complex(self.own[: int(self.used)])
        common, own = read_table(self.table, turns), read_harmonics(used, turns.view(self.A.shape))
        slope = ((common[1].view_as(self.A) + own[1]).flatten() * per_theta).view_as(self.A)
        self.A = common[0].view_as(self.A) + own[0] + slope * beyond.view_as(self.A)
        self.slope = slope

    @property
    def _periodic(self) -> bool:
        return self.spec.theta.period is not None and not self.spec.theta.limited

    def _reach(self, theta: Tensor) -> Tensor:
        """The lowest and the highest θ to calibrate."""
        spec = self.spec.theta
        if self._periodic:
            return theta.new_tensor([[0.0], [float(spec.period or 0)]])
        return torch.stack([limit.expand(self.span.shape[1]) for limit in spec.range_around(theta)])

    def _setting(self, turns: Tensor, span: Tensor) -> Tensor:
        """θ at `turns`: linear over a period; over a range `middle + half · cos(2π turn)`, there and back."""
        low, high = span
        if self._periodic:
            return low + (high - low) * turns
        return (low + high) / 2 + (high - low) / 2 * (2 * math.pi * turns).cos()

    def extra_repr(self) -> str:
        return f"settings={self.settings}, harmonics={self.harmonics}, watch={self.watch}"


def _orthogonal(size: int, like: Tensor, generator: torch.Generator) -> Tensor:
    """An orthogonal matrix, uniformly random; of more than `BLOCK` inputs, block by block."""
    sizes = [min(BLOCK, size - start) for start in range(0, size, BLOCK)]
    drawn = [torch.randn(n, n, generator=generator, device=generator.device, dtype=like.dtype) for n in sizes]
    return torch.block_diag(*(torch.linalg.qr(each.to(like.device))[0] for each in drawn))
