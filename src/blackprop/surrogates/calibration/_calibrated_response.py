"""A device of independent elements, calibrated once: both gradients then cost no query."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from blackprop.core._declaration import Coupling, Declaration
from blackprop.core._probes import spanning_count
from blackprop.core._procedure import Procedure
from blackprop.errors import ArgumentError, IncompatibleError
from blackprop.surrogates._base import Surrogate
from blackprop.surrogates._monitor import AGAIN, FOUND, LEFT, Monitor, warn_of_doubt
from blackprop.surrogates._watch import NEGLIGIBLE
from blackprop.surrogates.calibration._calibration import CALLS, Calibration, calibrate
from blackprop.surrogates.calibration._curves import TABLE, WIDTHS, Curves, common_table, own_harmonics
from blackprop.surrogates.calibration._displacement import nearest, read_beside, within
from blackprop.surrogates.calibration._range import Range, periodic
from blackprop.surrogates.least_squares._rules import Projection, few_equations

SETTINGS = 16  # of a call: where none are named, up to three calls
GUESSED = 0.5  # the expected cosine of slopes below which they are guesses, and withheld
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
    spread: Tensor  # variance of A that the calibration leaves
    displaced: Tensor  # the shift of θ that this would come of
    calm: Tensor  # the least excess of a batch since the calibration
    excess: Tensor  # residual of the latest batch over the normal one
    check_found: Tensor  # expected cosine and share of right signs, settings taken
    doubts: Tensor  # of slopes over each of WIDTHS
    trusted: Tensor
    moving: Tensor  # whether elements moved during the calibration
    said: Tensor  # whether a warning was given

    def __init__(
        self, settings: int | None = None, harmonics: int = 32, *, watch: float | None = 3.0, share: float = 0.25
    ) -> None:
        super().__init__()
        if settings is not None and settings < 3:
            raise ArgumentError(f"`CalibratedResponse(settings=...)` must be at least 3, got {settings}")
        if harmonics < 1:
            raise ArgumentError(f"`CalibratedResponse(harmonics=...)` must be at least 1, got {harmonics}")
        if watch is not None and not watch > 1:
            raise ArgumentError(f"`CalibratedResponse(watch=...)` must be above 1, got {watch}")
        self.settings = settings if settings is not None else SETTINGS
        self.calls = 1 if settings is not None else CALLS
        self.harmonics = harmonics
        self.watch = watch
        self.monitor = Monitor(share)

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
            **{name: torch.zeros(()) for name in ("spread", "displaced", "excess")},
            "calm": torch.full((), LEFT),
            "check_found": torch.zeros(3),
            "trusted": torch.tensor(1),
            "moving": torch.tensor(0),
            "said": torch.tensor(0),
        }
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer)

    @property
    def moved(self) -> bool:
        """Whether the training batches say that the device is no longer the calibrated one."""
        return self.watch is not None and float(self.excess) > self.watch * max(1.0, float(self.calm))

    def _load_from_state_dict(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, state_dict: dict[str, Any], prefix: str, *args: Any
    ) -> None:
        if state_dict.pop(prefix + "used", None) is not None:  # a state of before, whose unused orders are zeros
            state_dict.setdefault(prefix + "moving", torch.zeros_like(self.moving))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def start(self, theta: Tensor, generator: torch.Generator) -> Procedure[None]:
        yield from self._calibrate(theta, generator, self.calls)
        self.monitor.reserve((self.calls * self.settings + 2) * self._count)

    def track(self, theta_old: Tensor, theta_new: Tensor, generator: torch.Generator) -> Procedure[None]:
        del theta_old
        if not self.moved:
            return self._stand_at(theta_new)
        again = self.settings * self._count
        if float(self.displaced) > self._reach and self.monitor.allowance >= again:
            yield from self._calibrate_again(theta_new, generator)
        elif bool(self.trusted) and self.monitor.covers(2 * self._count, self.spec.name):
            yield from self._find(theta_new, generator)
        elif not bool(self.trusted) and self.monitor.covers(again, self.spec.name):
            yield from self._calibrate_again(theta_new, generator)
        else:
            self._stand_at(theta_new)

    @torch.no_grad()
    def observe(self, x: Tensor, y: Tensor) -> None:
        x, y = x.flatten(1), y.flatten(1)
        residual = y - x @ self.A.mT
        length, wrong = float(x.square().sum()) / len(x), float(residual.square().mean())
        normal = max(float(self.spread) * length, max(NEGLIGIBLE, self.spec.noise**2) * float(y.square().mean()))
        if 0 < normal < math.inf and wrong < math.inf:
            self.excess.fill_(math.sqrt(wrong / normal))
            self.calm.fill_(min(float(self.calm), float(self.excess)))
            each = max(length * float(self.slope.square().mean()), torch.finfo(y.dtype).tiny)
            self.displaced.fill_(math.sqrt(max(0.0, wrong - normal) / each))
            if not bool(self.trusted):
                self._correct(x, residual, length)
        if not bool(self.trusted | self.said):
            why = {"more": self.calls == 1, "kept": self._known, "moving": bool(self.moving)}
            warn_of_doubt(self.spec.name, *self.check_found.tolist(), **why)
            self.said.fill_(True)
        self.monitor.saw(len(x))

    def _correct(self, x: Tensor, residual: Tensor, length: float) -> None:
        """Take A to the nearest matrix that explains a batch: the curves do not."""
        change, _ = Projection().step({}, *few_equations(x, residual), 1e-2 * length)
        self.A += change

    def predict(self, x: Tensor) -> Tensor | None:
        return self._through(self.A, x)

    def compensate_drift(self, theta: Tensor) -> Tensor:
        """θ (P,) less the displacement that was found since this was last asked."""
        if not torch.equal(self.offset, self.countered):
            theta = theta - (self.offset - self.countered)
            self.countered.copy_(self.offset)
        return theta

    def diagnosis(self) -> dict[str, float]:
        cosine, signs, settings = self.check_found.tolist()
        checked = {"check_cosine": cosine, "check_signs": signs, "check_settings": settings}
        moved = {"displacement": float(self.offset.square().mean().sqrt()), "excess": float(self.excess)}
        return {**checked, "trusted": float(self.trusted), **moved, **self.monitor.diagnosis()}

    def grad_x(self, x: Tensor, grad_y: Tensor) -> Tensor:
        return (grad_y.flatten(1) @ self.A).reshape(x.shape)

    def grad_theta(self, x: Tensor, grad_y: Tensor) -> Tensor:
        """`(GᵀX) ⊙ R'(θ)` (P,), at the θ that the surrogate stands at."""
        return ((grad_y.flatten(1).mT @ x.flatten(1)) * self.slope).flatten()

    def _find(self, theta: Tensor, generator: torch.Generator) -> Procedure[None]:
        """Find every element on its curve, from two settings; calibrate anew where that says little."""
        count, before = self._count, float(self.excess)
        places, values = yield from read_beside(self.spec, self._curves.range, self.input_rms, theta, generator)
        offset, left = nearest(self._curves, places, values, self.offset, self._noise(values))
        if self._surprised(left, values) and self.monitor.covers((self.settings + 2) * count, self.spec.name):
            yield from self._calibrate_again(theta, generator)
        else:
            self.offset.copy_(offset)
            self._stand_at(theta)
        self.monitor.spend(self.spec.name, FOUND, before, 2 * count, 1)

    def _noise(self, values: Tensor) -> float:
        return max(float(self.spread), (1e-2 * NEGLIGIBLE + self.spec.noise**2) * float(values.square().mean()))

    def _surprised(self, left: float, values: Tensor) -> bool:
        """Whether this mean square is more than the curves leave."""
        usual = max(self._noise(values), NEGLIGIBLE * float(values.square().mean()))
        return left > (self.watch or 0) ** 2 * usual

    def _calibrate_again(self, theta: Tensor, generator: torch.Generator) -> Procedure[None]:
        before, each = float(self.excess), self.settings * self._count
        calls = min(self.calls, max(1, int(self.monitor.allowance // each)))
        asked = yield from self._calibrate(theta, generator, calls, again=bool(self.trusted))
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
        self._stand_at(theta)
        return new.asked

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
        trust, known = new.trust, new.trusted or new.trust.cosine > GUESSED
        fit = new.fit if known else replace(new.fit, family=None)  # slopes are withheld: cheaper curves serve as well
        own = own_harmonics(fit, new.sweep, new.values, 1 + self.harmonics)
        self.table.copy_(common_table(fit.found))
        self.own = torch.view_as_real(own).view(len(own), *self.own.shape[1:]).to(self.own)
        self.span.copy_(torch.stack((new.range.low, new.range.high)))
        self.spread.fill_(new.fit.noise + trust.left)
        self.check_found.copy_(self.check_found.new_tensor([trust.cosine, trust.signs, new.settings]))
        self.doubts.copy_(trust.doubts)
        self.trusted.fill_(new.trusted)
        self.moving.fill_(new.moving)
        for each in (self.offset, self.countered, self.displaced, self.excess, self.said):
            each.zero_()
        self.calm.fill_(LEFT)

    @property
    def _known(self) -> bool:
        """Whether the slopes are more than guesses."""
        return bool(self.trusted) or float(self.check_found[0]) > GUESSED

    def _stand_at(self, theta: Tensor) -> None:
        value, slope = self._curves.read(theta + self.offset)
        A = value.view_as(self.A)
        if not bool(self.trusted) and bool(self.theta.any()):  # keep the corrections of the batches
            A = self.A + A - self._curves.read(self.theta + self.offset)[0].view_as(A)
        self.theta.copy_(theta)
        self.A, self.slope = A, slope.view_as(self.A) if self._known else torch.zeros_like(A)

    @property
    def _curves(self) -> Curves:
        return Curves(self.table, self.own, self.doubts, Range(periodic(self.spec), *self.span))

    def extra_repr(self) -> str:
        settings = self.settings if self.calls == 1 else None
        return f"settings={settings}, harmonics={self.harmonics}, watch={self.watch}, share={self.monitor.share}"
