"""A surrogate that asks the device at its first batch which family it belongs to, and is then the one that suits it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from blackprop.core._declaration import Declaration
from blackprop.core._packing import pack, unpack
from blackprop.core._procedure import Procedure
from blackprop.errors import BudgetExhausted
from blackprop.estimators import Estimator, FromSurrogate, Still
from blackprop.planning.asking._affordable import fallback, held
from blackprop.planning._candidates import Candidate
from blackprop.planning._physics import CHIP, calibrated_chip, chip_queries, is_chip
from blackprop.planning._price import totals
from blackprop.planning.asking._revision import revise
from blackprop.planning._workload import Workload
from blackprop.planning.inquiry._cost import most
from blackprop.planning.inquiry._finding import Family, InquiryResult, translated
from blackprop.planning.inquiry._inquiry import PART, inquire
from blackprop.presets import Method
from blackprop.surrogates import PhaseMask, PowerMatrix, Surrogate

NAME = "ask-first"
MASK = "phase-mask"
POWER = "frozen, read as power"
BASIC = ("rows", "programmings", "seconds")
CHIP_PART = 0.75  # of an allowance that the calibration of a chip may use: its steps cost no query then
ACCEPTED = 0.02  # beside three times the noise: the part of fresh readings that a phase mask may leave unexplained


class AskFirst(Surrogate):
    """Asks the device which family it belongs to (`inquire`), then is the surrogate that suits it, with its estimator.

    It asks once, at the first training batch, and uses at most a quarter of the allowance that the `workload` states.
    Then it takes the best of the `candidates` for the rest. A device that declares the design of a chip is calibrated
    in place of that (`twins.CalibratedChip`, at most three quarters of the allowance); where the calibration does not
    explain fresh readings, the inquiry follows. `finding`, `chosen` and the `repr` tell the result. All queries are
    booked as `CALIBRATE`. Where the allowance is too small to ask, `finding` says so, and the declaration decides.

    **Arguments:** `candidates`, the table; `workload`, the training: `bp.PhysicalLayer` sets it from its budget.
    """

    def __init__(self, candidates: Sequence[Candidate], workload: Workload | None = None) -> None:
        super().__init__()
        self.candidates: tuple[Candidate, ...] = tuple(candidates)
        self.workload = workload if workload is not None else Workload()
        self.finding: InquiryResult | None = None
        self.chosen: str = ""
        self.estimator: Estimator | None = None
        self.inner: Surrogate | None = None
        self._tried_chip = False

    @property
    def asks(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]  (it is that of the chosen one)
        return self.inner is not None and self.inner.asks

    def start(self, theta: Tensor, generator: torch.Generator) -> Procedure[None]:
        failed = yield from self._calibrate_chip(theta, generator)
        if self.finding is not None:
            return
        spec, limits = self.spec, self._limits(PART)
        finding = yield from inquire(spec, theta, self._amplitude, generator, *limits)
        finding = replace(finding, why=f"{failed}{finding.why}")
        if finding.family is Family.MASK:
            finding = yield from self._retrieve(finding, theta, generator, limits)
            if finding.family is Family.MASK:
                return
        if finding.family is Family.POWER:
            finding = yield from self._retrieve_power(finding, theta, generator, limits)
            if finding.family is Family.POWER:
                return
        yield from self._start(finding, theta, generator)

    def _start(self, finding: InquiryResult, theta: Tensor, generator: torch.Generator) -> Procedure[None]:
        """Start the best method for the finding, and of a weaker one where the curves of single elements fail."""
        while True:
            method, name = self._method(finding)
            method = self._bound(method, theta, finding.declaration(self.spec))
            yield from translated(method.surrogate.start(finding.ordered(theta), generator), finding)
            revised = yield from revise(finding, method.surrogate, self.spec, theta, self._amplitude, generator)
            if revised is finding:
                return self._settle(finding, *method, name)
            finding = revised

    def _calibrate_chip(self, theta: Tensor, generator: torch.Generator) -> Procedure[str]:
        """Calibrate a declared chip, where the allowance suffices; return why that failed, empty where not tried."""
        spec, limits = self.spec, self._limits(CHIP_PART)
        self._tried_chip = False
        if not is_chip(spec):
            return ""
        cost = totals(chip_queries(spec))
        if cost["programmings"] > limits[0] or cost["rows"] > limits[1]:
            return ""
        self._tried_chip = True
        method = self._bound(calibrated_chip(spec), theta)
        try:
            yield from method.surrogate.start(theta, generator)
        except BudgetExhausted:
            return "the budget ended the calibration of the chip; "
        left = method.surrogate.diagnosis().get("check_residual", math.inf)
        if not bool(getattr(method.surrogate, "accepted", False)):
            return f"the calibration of the declared design left {left:.0%} of fresh readings unexplained; "
        why = f"the calibration of the declared design leaves {left:.1%} of fresh readings unexplained"
        noise = method.surrogate.diagnosis()["noise"]
        self._settle(InquiryResult(Family.LINEAR, why, noise=noise), *method, CHIP)
        return ""

    def _retrieve(
        self, finding: InquiryResult, theta: Tensor, generator: torch.Generator, limits: list[float]
    ) -> Procedure[InquiryResult]:
        """Fit a phase mask and check it on settings of its own; the finding is another family where that fails."""
        method = self._bound(self._masked(), theta)
        mask = method.surrogate
        assert isinstance(mask, PhaseMask)
        if mask.settings + 2 > limits[0] or mask._cost > limits[1]:
            return replace(
                finding, family=Family.OTHER, why=f"{finding.why}, and the allowance is too small for a mask"
            )
        try:
            yield from mask.start(theta, generator)
        except BudgetExhausted:
            return replace(finding, family=Family.OTHER, why="the budget ended the inquiry", sure=False)
        residual = float(mask.residual)
        why = f"{finding.why}; a phase mask leaves {residual:.1%} of readings that it was not fitted to unexplained"
        if residual > ACCEPTED + 3 * finding.noise:
            return replace(finding, family=Family.OTHER, why=why, sure=True)
        finding = replace(finding, why=why, sure=True)
        self._settle(finding, *method, MASK)
        return finding

    def _retrieve_power(
        self, finding: InquiryResult, theta: Tensor, generator: torch.Generator, limits: list[float]
    ) -> Procedure[InquiryResult]:
        """Retrieve the matrix at θ, which then stays: perturbations of such a device do not pay. Another family where
        the powers of fresh rows are not explained.
        """
        method = self._bound(Method(Still(), PowerMatrix()), theta)
        matrix = method.surrogate
        assert isinstance(matrix, PowerMatrix)
        other = replace(finding, family=Family.OTHER)
        if matrix.cost > limits[1]:
            return replace(other, why=f"{finding.why}, and the allowance is too small to retrieve its matrix")
        try:
            yield from matrix.start(theta, generator)
        except BudgetExhausted:
            return replace(other, why="the budget ended the inquiry")
        residual = float(matrix.residual)
        why = f"{finding.why}; a matrix of fields leaves {residual:.1%} of the powers of fresh rows unexplained"
        if residual > ACCEPTED + 3 * finding.noise:
            return replace(other, why=why, sure=True)
        finding = replace(finding, why=why, sure=True)
        self._settle(finding, *method, POWER)
        return finding

    def track(self, theta_old: Tensor, theta_new: Tensor, generator: torch.Generator) -> Procedure[None]:
        inner, finding = self._settled
        inner.input_rms = self.input_rms
        old, new = finding.ordered(theta_old), finding.ordered(theta_new)
        yield from translated(inner.track(old, new, generator), finding)
        revised = yield from revise(finding, inner, self.spec, theta_new, self._amplitude, generator)
        if revised is not finding:
            yield from self._start(revised, theta_new, generator)

    def ask_theta(
        self, x: Tensor, theta: Tensor, y: Tensor, grad_y: Tensor, generator: torch.Generator
    ) -> Procedure[Tensor]:
        """`∂L/∂θ` by the chosen estimator."""
        _, finding = self._settled
        assert self.estimator is not None
        known = finding.declaration(self.spec)
        procedure = self.estimator.grad_theta(x, finding.ordered(theta), finding.lit(y), grad_y, known, generator)
        return finding.placed((yield from translated(procedure, finding)))

    def grad_x(self, x: Tensor, grad_y: Tensor) -> Tensor:
        return self._settled[0].grad_x(x, grad_y)

    def read_grad_x(self, x: Tensor, grad_y: Tensor, theta: Tensor) -> Procedure[Tensor]:
        inner, finding = self._settled
        return (yield from translated(inner.read_grad_x(x, grad_y, finding.ordered(theta)), finding))

    def grad_x_recalled(self, x: Tensor, y: Tensor, grad_y: Tensor) -> Tensor:
        inner, finding = self._settled
        return inner.grad_x_recalled(x, finding.lit(y), grad_y)

    def observe(self, x: Tensor, y: Tensor) -> None:
        inner, finding = self._settled
        inner.observe(x, finding.lit(y))

    def predict(self, x: Tensor) -> Tensor | None:
        expected = None if self.inner is None else self.inner.predict(x)
        dark = None if self.finding is None else self.finding.dark
        return expected if expected is None or dark is None else expected + dark.to(expected)

    def compensate_drift(self, theta: Tensor) -> Tensor:
        inner, finding = self._settled
        return finding.placed(inner.compensate_drift(finding.ordered(theta)))

    def advance(self, old: Tensor, new: Tensor, rate: float) -> Tensor:
        if self.finding is None or self.estimator is None:
            return new
        before, after = self.finding.ordered(old), self.finding.ordered(new)
        chosen = self.estimator.advance(before, after, rate)
        return new if chosen is after else self.finding.placed(chosen)

    def diagnosis(self) -> dict[str, float]:
        return {} if self.inner is None else self.inner.diagnosis()

    @property
    def _settled(self) -> tuple[Surrogate, InquiryResult]:
        assert self.inner is not None, "a layer starts a surrogate before it is used"
        assert self.finding is not None
        return self.inner, self.finding

    def _method(self, finding: InquiryResult) -> tuple[Method, str]:
        spec, workload = finding.declaration(self.spec), self._remaining
        candidate = fallback(spec, (*held(finding, workload), *self.candidates), workload)
        return candidate.method(spec, workload), candidate.name

    def _masked(self) -> Method:
        mask = PhaseMask(24 if self.spec.x_limited else 8)
        return Method(FromSurrogate(mask), mask)

    def _bound(self, method: Method, theta: Tensor, spec: Declaration | None = None) -> Method:
        for part in method:
            part.bind(self.spec if spec is None else spec)
            if isinstance(part, nn.Module):
                part.to(theta)
        method.surrogate.input_rms = self.input_rms
        return method

    def _limits(self, part: float) -> list[float]:
        """The programmings and rows of this part of the allowance."""
        return [self.workload.limits.get(name, math.inf) * part for name in ("programmings", "rows")]

    @property
    def _remaining(self) -> Workload:
        """The workload, less the most that may have been asked."""
        asked, limits = totals(most(self.spec)), self.workload.limits
        spent = {name: min(asked[name], PART * limit) for name, limit in limits.items() if name in BASIC}
        if self._tried_chip:
            spent = {name: cost + totals(chip_queries(self.spec))[name] for name, cost in spent.items()}
        return self.workload.after(**spent)

    def _settle(self, finding: InquiryResult, estimator: Estimator, surrogate: Surrogate, name: str) -> None:
        self.finding, self.chosen, self.inner, self.estimator = finding, name, surrogate, estimator

    # The parts that were chosen are made anew before their buffers are loaded.

    def get_extra_state(self) -> Tensor:
        finding = None if self.finding is None else self.finding.state_dict()
        said = {"finding": finding, "chosen": self.chosen, "tried_chip": self._tried_chip}
        return pack({**said, "workload": asdict(self.workload)})

    def set_extra_state(self, state: object) -> None:
        saved: dict[str, Any] = unpack(state)
        self.workload: Workload = Workload(**saved["workload"])
        if saved["finding"] is None:
            self.finding, self.chosen, self.inner, self.estimator = None, "", None, None
            return
        finding, spec = InquiryResult.from_state(saved["finding"]), self.spec
        self._tried_chip = saved["tried_chip"]
        known = finding.declaration(spec)
        if saved["chosen"] == MASK:
            method = self._masked()
        elif saved["chosen"] == POWER:
            method = Method(Still(), PowerMatrix())
        elif saved["chosen"] == CHIP:
            method, known = calibrated_chip(spec), spec
        else:
            table = (*held(finding, self._remaining), *self.candidates)
            method = next(each for each in table if each.name == saved["chosen"]).method(known, self._remaining)
        for part in method:
            part.bind(known)
        self._settle(finding, *method, saved["chosen"])

    def extra_repr(self) -> str:
        limits = self.workload.limits
        words = ", ".join(f"{limit:,.4g} {name}" for name, limit in limits.items()) or "no limit"
        allowance = f"allowance: {words}, of which at most {PART:.0%} ask"
        if self.finding is None:
            return f"{allowance},\nnot asked yet"
        return f"{allowance},\nfound {self.finding},\nchosen {self.chosen}"
