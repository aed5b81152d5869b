"""A device of independent elements, calibrated once: both gradients then cost no query."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from blackprop.core._declaration import Coupling, Declaration
from blackprop.core._looked import Looked
from blackprop.core._packing import pack, unpack
from blackprop.core._probes import spanning_count
from blackprop.core._procedure import Procedure
from blackprop.errors import ArgumentError, IncompatibleError
from blackprop.surrogates._base import Surrogate
from blackprop.surrogates._monitor import AGAIN, FOUND, Monitor
from blackprop.surrogates._watch import NEGLIGIBLE
from blackprop.surrogates.calibration._calibration import CALLS, Calibration, calibrate
from blackprop.surrogates.calibration._curves import TABLE, WIDTHS, Curves, common_table, own_harmonics
from blackprop.surrogates.calibration._displacement import nearest, read_beside, within
from blackprop.surrogates.calibration._range import Range, periodic
from blackprop.surrogates.calibration._verdict import Verdict, migrated
from blackprop.surrogates.least_squares._rules import Projection, few_equations

SETTINGS = 16  # of a call: where none are named, up to three calls
NUMBERS = 4096  # of a batch's readings that are enough to tell its residual
FAR = 1 / 12  # of the range: displacements that are a matter for a new calibration


class CalibratedResponse(Surrogate):
    """`A_ij = R_ij(θ_ij)` with response curves measured once: `∂L/∂X = G A` and `∂L/∂θ_ij = (GᵀX)_ij R'_ij(θ_ij)`.

    The start writes K settings, at each of which every element is at a different point of its range. It reads each
    setting on orthogonal rows that span the inputs, at the amplitude of the data. Elements may differ in phase, gain,
    offset and shape. The range of θ is its period, its limits, or else the initial values and as much again beside.

    **Curves** are posterior means, under one of two priors:

    - stationary: a common curve plus an own curve for each element, with a spectrum of the greatest likelihood;
    - a family: one shape with a few modes, which each element has at a phase and with weights of its own. It is taken
      where it predicts samples better. An element that it does not explain keeps its stationary curve.

    **The check.** Three of the K settings (one, of fewer than 12) are off the grid of the others and on other rows. A
    first fit leaves them out. Its errors there, and the errors of samples that are left out, give the expected cosine
    of the slopes to the true ones and the share of right signs. With `settings=None` K is 16. Where that does not
    explain the device, one setting is read again. If it shows that elements move meanwhile, the 16 settings are kept;
    otherwise 16 more and then another 16 are measured. Where the last fit may not be trusted, a `CalibrationWarning`
    says so. The training batches then correct A, and slopes of an expected cosine under 0.5 are withheld. `diagnose`
    gives the figures. A budget may end the measurement early.

    A slope within 3 standard errors of zero (1, where all slopes are alike in size) is replaced by the mean slope over
    a wider part of the curve, up to half of the range: the first that is clear of its own.

    **Costs**: K·d_in rows (a few more where the inputs have limits, see `probes.spanning`) and K programmings, once,
    booked as `CALIBRATE`. A dry run prices K = 16, without the settings that the check may add.

    Every training batch shows how well the curves still explain the device. The normal residual is the least of a
    batch since the calibration, at most three times the residual that the check expects, and at least that residual,
    the declared noise and 1 % of the output. The device has moved once a residual exceeds `watch` times the normal one.
    Each element is then found on its curve from two settings at the next change of θ (2 d_in rows, 1 programming more).
    Where that fails, or elements moved by more than 1/12 of their range, all is calibrated again. This costs at most
    the rows of one calibration and `share` of the training's rows. `monitor` keeps the log. `watch=None` disables it.
    `compensate_drift` tells the displacement that was found: θ less it puts the device back to where it stood.

    **Arguments:** `settings`, exactly so many, at least 3, or None; `harmonics`, the orders of a curve, at least 1.
    """

    GROWING = frozenset({"own"})

    table: Tensor
    own: Tensor  # (H, d_out, d_in, 2): the orders that are not faint
    span: Tensor  # lowest and highest θ
    A: Tensor
    slope: Tensor  # R'(θ), or over a wider part
    theta: Tensor  # where A and the slopes were read
    offset: Tensor  # the displacement since the calibration
    countered: Tensor  # the part of it that θ was moved against
    doubts: Tensor  # of slopes over each of WIDTHS

    def __init__(
        self, settings: int | None = None, harmonics: int = 32, *, watch: float | None = 3.0, share: float = 0.25
    ) -> None:
        super().__init__()
        for name, value, least in (("settings", settings, 3), ("harmonics", harmonics, 1)):
            if value is not None and value < least:
                raise ArgumentError(f"`CalibratedResponse({name}=...)` must be at least {least}, got {value}")
        if watch is not None and not watch > 1:
            raise ArgumentError(f"`CalibratedResponse(watch=...)` must be above 1, got {watch}")
        self.settings: int = settings if settings is not None else SETTINGS
        self.calls: int = 1 if settings is not None else CALLS
        self.harmonics = harmonics
        self.watch = watch
        self.monitor: Monitor = Monitor(share)
        self.verdict = Verdict()
        self._curves_of, self._offsets_of = Looked(), Looked()

    def check(self, spec: Declaration) -> None:
        if spec.coupling is not Coupling.ELEMENT:
            needs = "`surrogates.CalibratedResponse` needs a device with element coupling"
            raise IncompatibleError(f"{needs} and {spec.name} declares {spec.coupling.value}")

    def _allocate(self, spec: Declaration) -> None:
        elements = (spec.d_out, spec.d_in)
        per_element = any(isinstance(limit, Tensor) for limit in (spec.theta.low, spec.theta.high))
        size = spec.theta.size
        buffers = {
            "table": torch.zeros(TABLE, 1 + len(WIDTHS)),
            "doubts": torch.zeros(len(WIDTHS)),
            "own": torch.zeros(0, *elements, 2),
            "span": torch.zeros(2, size if per_element else 1),
            **{name: torch.zeros(elements) for name in ("A", "slope")},
            **{name: torch.zeros(size) for name in ("theta", "offset", "countered")},
        }
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer)

    @property
    def moved(self) -> bool:
        """Whether the training batches say that the device is no longer the calibrated one."""
        return self.watch is not None and self.verdict.excess > self.watch * max(1.0, self.verdict.calm)

    def _load_from_state_dict(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, state_dict: dict[str, Any], prefix: str, *args: Any
    ) -> None:
        migrated(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def get_extra_state(self) -> Tensor:
        return pack(asdict(self.verdict))

    def set_extra_state(self, state: object) -> None:
        self.verdict = Verdict(**unpack(state))

    def start(self, theta: Tensor, generator: torch.Generator) -> Procedure[None]:
        yield from self._calibrate(theta, generator, self.calls)
        self.monitor.reserve((self.calls * self.settings + 2) * self._count)

    def track(self, theta_old: Tensor, theta_new: Tensor, generator: torch.Generator) -> Procedure[None]:
        del theta_old
        if not self.moved:
            return self._stand_at(theta_new)
        again = self.settings * self._count
        trusted, each = self.verdict.trusted, max(float(self.slope.square().mean()), torch.finfo(self.slope.dtype).tiny)
        displaced = (self.verdict.unexplained / each) ** 0.5  # the shift of θ that the residual would come of
        if displaced > self._reach and self.monitor.allowance >= again:
            yield from self._calibrate_again(theta_new, generator)
        elif trusted and self.monitor.covers(2 * self._count, self.spec.name):
            yield from self._find(theta_new, generator)
        elif not trusted and self.monitor.covers(again, self.spec.name):
            yield from self._calibrate_again(theta_new, generator)
        else:
            self._stand_at(theta_new)

    def observe(self, x: Tensor, y: Tensor) -> None:
        self.assimilate(x, y)

    @torch.no_grad()
    def assimilate(self, x: Tensor, y: Tensor) -> float:
        verdict, count = self.verdict, len(x)
        part = max(16, NUMBERS // self.spec.d_out) if verdict.trusted else count  # tells as well as a large batch
        if part < count or x.dim() != 2 or y.dim() != 2:
            x, y = x[:part].flatten(1), y[:part].flatten(1)
        residual = torch.addmm(y, x, self.A.mT, alpha=-1)
        left, whole, length = map(float, map(torch.linalg.vector_norm, (residual, y, x)))
        each, length = y.numel(), length**2 / len(x)
        normal = max(verdict.spread * length, max(NEGLIGIBLE, self.spec.noise**2) * whole**2 / each)
        if verdict.saw(left**2 / each, normal, length) and not verdict.trusted:
            # The curves do not explain the batch: take A to the nearest matrix that does.
            change, _ = Projection().step({}, *few_equations(x, residual), 1e-2 * length)
            self.A += change
        if not verdict.trusted:
            verdict.warn(self.spec.name, more=self.calls == 1)
        self.monitor.saw(count)
        return left / whole if whole else math.nan

    def predict(self, x: Tensor) -> Tensor | None:
        return self._through(self.A, x)

    def compensate_drift(self, theta: Tensor) -> Tensor:
        """θ less the displacement that was found since this was last asked."""
        if not self._offsets[1]:
            theta = theta - (self.offset - self.countered)
            self.countered.copy_(self.offset)
        return theta

    @property
    def _offsets(self) -> tuple[bool, bool]:
        """Whether any element is displaced, and whether θ was moved against it; looked at where they were written."""
        if not self._offsets_of.unchanged(self.offset, self.countered):
            self._found = bool(self.offset.any()), torch.equal(self.offset, self.countered)
        return self._found

    def diagnosis(self) -> dict[str, float]:
        displacement = float(self.offset.square().mean().sqrt())
        return {**self.verdict.diagnosis(), "displacement": displacement, **self.monitor.diagnosis()}

    def grad_x(self, x: Tensor, grad_y: Tensor) -> Tensor:
        return (grad_y.flatten(1) @ self.A).reshape(x.shape)

    def grad_theta(self, x: Tensor, grad_y: Tensor) -> Tensor:
        """`(GᵀX) ⊙ R'(θ)` (P,), at the θ that the surrogate stands at."""
        return (grad_y.flatten(1).mT @ x.flatten(1)).mul_(self.slope).flatten()

    def _find(self, theta: Tensor, generator: torch.Generator) -> Procedure[None]:
        """Find every element on its curve, from two settings; calibrate anew where that says little."""
        count, before = self._count, self.verdict.excess
        places, values = yield from read_beside(self.spec, self._curves.range, self.input_rms, theta, generator)
        offset, left = nearest(self._curves, places, values, self.offset, self._noise(values))
        if self._surprised(left, values) and self.monitor.covers((self.settings + 2) * count, self.spec.name):
            yield from self._calibrate_again(theta, generator)
        else:
            self.offset.copy_(offset)
            self._stand_at(theta)
        self.monitor.spend(self.spec.name, FOUND, before, 2 * count, 1)

    def _noise(self, values: Tensor) -> float:
        return max(self.verdict.spread, (1e-2 * NEGLIGIBLE + self.spec.noise**2) * float(values.square().mean()))

    def _surprised(self, left: float, values: Tensor) -> bool:
        """Whether this mean square is more than the curves leave."""
        usual = max(self._noise(values), NEGLIGIBLE * float(values.square().mean()))
        return left > (self.watch or 0) ** 2 * usual

    def _calibrate_again(self, theta: Tensor, generator: torch.Generator) -> Procedure[None]:
        before, each = self.verdict.excess, self.settings * self._count
        calls = min(self.calls, max(1, int(self.monitor.allowance // each)))
        asked = yield from self._calibrate(theta, generator, calls, again=self.verdict.trusted)
        self.monitor.spend(self.spec.name, AGAIN, before, asked * self._count, asked)

    @property
    def _count(self) -> int:  # rows that span the inputs
        return spanning_count(self.spec)

    @property
    def _reach(self) -> float:
        """How far, in θ's units, elements may move before they may be taken for others of their curve."""
        return FAR * float((self.span[1] - self.span[0]).mean())

    def _calibrate(self, theta: Tensor, generator: torch.Generator, calls: int, again: bool = False) -> Procedure[int]:
        """Measure, fit and check the curves; how many settings it took. `again`: where new curves may not be trusted,
        the ones that were known are kept if all elements can be found on them.
        """
        reach = Range.of(self.spec, theta, self.span.shape[1] > 1)
        how = {"settings": self.settings, "calls": calls, "harmonics": self.harmonics}
        new = yield from calibrate(self.spec, reach, self.input_rms, theta, generator, **how)
        if not (again and not new.trusted and self._found_on_old(new)):
            self._take(new)
        asked, new = new.asked, None  # its samples are the largest part of all
        self._stand_at(theta)
        return asked

    def _found_on_old(self, new: Calibration) -> bool:
        """Find every element on the known curves from half of the new settings; whether that explains the others,
        or at least better than the new curves are expected to.
        """
        places = [new.setting(k) for k in range(new.settings)]
        offset, left = within(self._curves, places, new.values, self.offset, self._reach, self._noise(new.values))
        if left > new.trust.left and self._surprised(left, new.values):
            return False
        self.offset.copy_(offset)
        return True

    def _take(self, new: Calibration) -> None:
        trust = new.trust
        verdict = Verdict(trust.cosine, trust.signs, new.settings, new.trusted, new.moving)
        verdict.spread = float(new.fit.noise + trust.left)
        # Where slopes are withheld, cheaper curves serve as well.
        fit = new.fit if verdict.known else replace(new.fit, family=None)
        own = own_harmonics(fit, new.sweep, new.values, 1 + self.harmonics)
        self.table.copy_(common_table(fit.found))
        self.own = torch.view_as_real(own).view(len(own), *self.own.shape[1:]).to(self.own)
        self.span.copy_(torch.stack((new.range.low, new.range.high)))
        self.doubts.copy_(trust.doubts)
        self.offset.zero_()
        self.countered.zero_()
        self.verdict: Verdict = verdict

    def _stand_at(self, theta: Tensor) -> None:
        value, slope = self._curves.read(theta + self.offset if self._offsets[0] else theta)
        verdict, A = self.verdict, value.view_as(self.A)
        if not verdict.trusted and bool(self.theta.any()):  # keep the corrections of the batches
            A = self.A + A - self._curves.read(self.theta + self.offset)[0].view_as(A)
        self.theta.copy_(theta)
        self._buffers["A"] = A  # faster than an assignment
        self._buffers["slope"] = slope.view_as(A) if verdict.known else torch.zeros_like(A)

    @property
    def _curves(self) -> Curves:
        """The curves that the buffers hold; made again where these were replaced or written to."""
        buffers = (self.table, self.own, self.doubts, self.span)
        if not self._curves_of.unchanged(*buffers):
            self._made = Curves.of(*buffers, periodic(self.spec))
        return self._made

    def extra_repr(self) -> str:
        settings = self.settings if self.calls == 1 else None
        return f"settings={settings}, harmonics={self.harmonics}, watch={self.watch}, share={self.monitor.share}"
