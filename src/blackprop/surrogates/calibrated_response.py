"""A device of independent elements, calibrated once: both gradients then cost no query."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from blackprop.declaration import Coupling, Declaration
from blackprop.errors import ArgumentError, IncompatibleError
from blackprop.probes import Probes, spanning, spanning_count
from blackprop.query import ROUND_BYTES, Procedure, Purpose, Query
from blackprop.surrogates._watch import NEGLIGIBLE
from blackprop.surrogates.base import Surrogate
from blackprop.surrogates.curves import (
    TABLE,
    common_curve,
    nearest_offset,
    own_harmonics,
    read_harmonics,
    read_table,
    resolved,
    unresolved,
)
from blackprop.surrogates.monitor import AGAIN, FOUND, Monitor

BLOCK = 1024  # inputs that one orthogonal set spans; more are spanned in blocks
EDGE = 0.15  # rad of the angle that spans a range, kept clear of its ends, where dθ/du vanishes
APART = 1 / 32  # of the range: how far apart the two settings are that find an element on its curve
FAR = 1 / 12  # of the range: displacements that are a matter for a new calibration


class CalibratedResponse(Surrogate):
    """`A_ij = R_ij(θ_ij)` with response curves measured once: `∂L/∂X = G A` and `∂L/∂θ_ij = (GᵀX)_ij R'_ij(θ_ij)`.

    The start writes `settings` K settings, each element a random K-th of its range further in each, and reads each on a
    spanning set of rows, orthogonal and driven at the amplitude of the data. All elements together sample their range
    at K·P points, and give a common curve as fine as `harmonics`; what single elements add to it is fitted to their
    own K samples, harmonic by harmonic, as far as it stands out of the noise. So alike elements are known to far more
    than K points, and unlike ones to K.

    The range of θ is its period; or its limits; or else the initial values and as much again to either side, with
    straight continuation. **Costs** K·d_in rows (a few more where the inputs have limits, see `probes.spanning`) and K
    programmings, once (booked as `CALIBRATE`), and nothing after.

    Every training batch shows how well the curves still explain the device. When its residual has grown to `watch`
    times what is normal (the least of a batch since the calibration, and no less than what the calibration, the
    declared noise and 1 % of the output let expect), the device has moved. The curves are then kept, and where each
    element stands on its own is found from two settings at the next change of θ (2 d_in rows, 1 programming more).
    Where that explains nothing, or elements moved by more than 1/12 of their range, all is calibrated again. What this
    may cost is bounded: by the rows of one calibration, and `share` of the training's rows. `monitor` keeps the log of
    it. `watch=None`: never.

    The displacement that is found is told by `counter`: θ less it puts the device back to where it stood.
    """

    table: Tensor
    own: Tensor
    used: Tensor
    span: Tensor
    A: Tensor
    slope: Tensor
    theta: Tensor
    offset: Tensor
    countered: Tensor
    spread: Tensor
    displaced: Tensor
    calm: Tensor
    fresh: Tensor
    excess: Tensor

    def __init__(
        self, settings: int = 16, harmonics: int = 32, *, watch: float | None = 3.0, share: float = 0.25
    ) -> None:
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
        self.monitor = Monitor(share)

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
        self.register_buffer("theta", torch.zeros(spec.theta.size))  # where A and the slopes were read
        self.register_buffer("offset", torch.zeros(spec.theta.size))  # the displacement since the calibration
        self.register_buffer("countered", torch.zeros(spec.theta.size))  # the part of it that θ was moved against
        self.register_buffer("spread", torch.zeros(()))  # variance of A that the calibration leaves
        self.register_buffer("displaced", torch.zeros(()))  # the shift of θ that this would come of
        self.register_buffer("calm", torch.full((), math.inf))  # the least excess of a batch since the calibration
        self.register_buffer("fresh", torch.tensor(1))  # whether the next batch is the one read on the way
        self.register_buffer("excess", torch.zeros(()))  # residual of the latest batch over what is normal

    @property
    def moved(self) -> bool:
        """Whether the training batches say that the device is no longer the calibrated one."""
        return self.watch is not None and float(self.excess) > self.watch * max(1.0, float(self.calm))

    def start(self, theta: Tensor, generator: torch.Generator) -> Procedure[None]:
        yield from self._calibrate(theta, generator)
        self.monitor.reserve((self.settings + 2) * self._count)

    def track(self, theta_old: Tensor, theta_new: Tensor, generator: torch.Generator) -> Procedure[None]:
        del theta_old
        if not self.moved:
            self._stand_at(theta_new)
        elif self._far(float(self.displaced)) and self.monitor.allowance >= self.settings * self._count:
            yield from self._calibrate_again(theta_new, generator)
        elif self.monitor.covers(2 * self._count, self.spec.name):
            yield from self._find(theta_new, generator)
        else:
            self._stand_at(theta_new)

    @torch.no_grad()
    def observe(self, x: Tensor, y: Tensor) -> None:
        x, y = x.flatten(1), y.flatten(1)
        length, wrong = float(x.square().sum()) / len(x), float((y - x @ self.A.mT).square().mean())
        normal = max(float(self.spread) * length, max(NEGLIGIBLE, self.spec.noise**2) * float(y.square().mean()))
        if normal:
            self.excess.fill_(math.sqrt(wrong / normal))
            if not bool(self.fresh):
                self.calm.fill_(min(float(self.calm), float(self.excess)))
            self.fresh.fill_(False)
            each = max(length * float(self.slope.square().mean()), torch.finfo(y.dtype).tiny)
            self.displaced.fill_(math.sqrt(max(0.0, wrong - normal) / each))
        self.monitor.saw(len(x))

    def counter(self, theta: Tensor) -> Tensor:
        """θ (P,) less the displacement that was found since this was last asked."""
        theta = theta - (self.offset - self.countered)
        self.countered.copy_(self.offset)
        return theta

    def diagnosis(self) -> dict[str, float]:
        moved = {"displacement": float(self.offset.square().mean().sqrt()), "excess": float(self.excess)}
        return {**moved, **self.monitor.diagnosis()}

    def vjp(self, x: Tensor, grad_y: Tensor) -> Tensor:
        return (grad_y.flatten(1) @ self.A).reshape(x.shape)

    def grad_theta(self, x: Tensor, grad_y: Tensor) -> Tensor:
        """`(GᵀX) ⊙ R'(θ)` (P,), at the θ that the surrogate stands at."""
        return ((grad_y.flatten(1).mT @ x.flatten(1)) * self.slope).flatten()

    def _find(self, theta: Tensor, generator: torch.Generator) -> Procedure[None]:
        """Find every element on its curve, from two settings; calibrate anew where that says little."""
        spec, count, before = self.spec, self._count, float(self.excess)
        probes = self._probes(theta, generator)
        width = self.span[1] - self.span[0]
        low, high = spec.theta.bounds(theta)
        # The other setting is on the side where there is room; without limits that is above.
        ahead = torch.where(high - theta >= theta - low, 1.0, -1.0) * APART * width
        places = [theta, spec.theta.clamp(theta + ahead)]
        readings = yield [Query(probes.rows.unflatten(1, spec.in_shape), t, Purpose.CALIBRATE) for t in places]
        values = torch.stack([probes.matrix(y.flatten(1)).flatten() for y in readings])
        noise = max(float(self.spread), (1e-2 * NEGLIGIBLE + spec.noise**2) * float(values.square().mean()))
        value, slope = self._read(theta + self.offset)
        moved = float((values[0] - value).square().mean()) - noise
        prior = max(0.0, moved / max(float(slope.square().mean()), torch.finfo(slope.dtype).tiny))
        offset, left = nearest_offset(
            lambda o, k: self._read(places[k] + o)[0], values, self.offset, math.sqrt(prior), noise
        )
        unexplained = left > (self.watch or 0) ** 2 * max(noise, NEGLIGIBLE * float(values.square().mean()))
        if unexplained and self.monitor.covers((self.settings + 2) * count, spec.name):
            yield from self._calibrate_again(theta, generator)
        else:
            self.offset.copy_(offset)
            self.fresh.fill_(True)
            self._stand_at(theta)
        self.monitor.spend(spec.name, FOUND, before, 2 * count, 1)

    def _calibrate_again(self, theta: Tensor, generator: torch.Generator) -> Procedure[None]:
        before = float(self.excess)
        yield from self._calibrate(theta, generator)
        self.monitor.spend(self.spec.name, AGAIN, before, self.settings * self._count, self.settings)

    def _far(self, displacement: float) -> bool:
        """Whether elements moved so far, in θ's units, that they may be taken for others of their curve."""
        return displacement > FAR * float((self.span[1] - self.span[0]).mean())

    @property
    def _count(self) -> int:
        """How many rows span the inputs."""
        return spanning_count(self.spec)

    def _probes(self, theta: Tensor, generator: torch.Generator) -> Probes:
        """A spanning set of rows, each as long as the data's are, within the limits of the inputs."""
        norm = self.drive or math.sqrt(self.spec.d_in)
        rows = norm * _orthogonal(self.spec.d_in, theta, generator)
        return spanning(self.spec, rows, norm**2, norm / math.sqrt(self.spec.d_in))

    def _calibrate(self, theta: Tensor, generator: torch.Generator) -> Procedure[None]:
        spec, K, P = self.spec, self.settings, theta.numel()
        span = self._reach(theta)
        probes = self._probes(theta, generator)
        offsets = torch.rand(P, generator=generator, device=generator.device).to(theta) / K
        turns = torch.arange(K, device=theta.device, dtype=theta.dtype)[:, None] / K + offsets
        readings: list[Tensor] = []
        for some in turns.split(max(1, ROUND_BYTES // (theta.element_size() * (2 * P + probes.rows.numel())))):
            settings = spec.theta.clamp(self._setting(some, span))
            queries = [Query(probes.rows.unflatten(1, spec.in_shape), t, Purpose.CALIBRATE) for t in settings]
            readings += yield queries
        values = torch.stack([probes.matrix(y.flatten(1)).flatten() for y in readings])
        table = common_curve(turns.flatten(), values.flatten(), self.harmonics)
        rest = values - read_table(table, turns)[0]
        own = own_harmonics(rest, offsets, 0.01 * NEGLIGIBLE * float(values.var()))
        self.table.copy_(table)
        self.own.zero_()[: len(own)] = torch.view_as_real(own).view(len(own), *self.own.shape[1:])
        self.used.fill_(len(own))
        self.span.copy_(span)
        self.spread.fill_(unresolved(rest))
        for each in (self.offset, self.countered, self.displaced, self.excess):
            each.zero_()
        self.calm.fill_(math.inf)
        self.fresh.fill_(True)
        self._stand_at(theta)

    def _stand_at(self, theta: Tensor) -> None:
        self.theta.copy_(theta)
        value, slope = self._read(theta + self.offset)
        self.A, self.slope = value.view_as(self.A), slope.view_as(self.A)

    def _read(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Value and slope (P,) of every curve at theta (P,)."""
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
        slope = (common[1] + own[1].flatten()) * per_theta
        return common[0] + own[0].flatten() + slope * beyond, slope

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
        return f"settings={self.settings}, harmonics={self.harmonics}, watch={self.watch}, share={self.monitor.share}"


def _orthogonal(size: int, like: Tensor, generator: torch.Generator) -> Tensor:
    """An orthogonal matrix, uniformly random; of more than `BLOCK` inputs, block by block."""
    sizes = [min(BLOCK, size - start) for start in range(0, size, BLOCK)]
    drawn = [torch.randn(n, n, generator=generator, device=generator.device, dtype=like.dtype) for n in sizes]
    return torch.block_diag(*(torch.linalg.qr(each.to(like.device))[0] for each in drawn))
