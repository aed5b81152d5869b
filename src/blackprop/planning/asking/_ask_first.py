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
from blackprop.estimators import Estimator
from blackprop.planning._candidates import Candidate
from blackprop.planning._physics import is_chip
from blackprop.planning._price import totals
from blackprop.planning._workload import BASIC, Workload
from blackprop.planning.asking._affordable import fallback, held
from blackprop.planning.asking._fits import FITS, Asker
from blackprop.planning.asking._revision import revise
from blackprop.planning.inquiry._cost import most
from blackprop.planning.inquiry._finding import Family, InquiryResult, translated
from blackprop.planning.inquiry._inquiry import PART, inquire
from blackprop.presets import Method
from blackprop.surrogates import Surrogate

NAME = "ask-first"


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
        self.beside_exact: bool = False  # as in `Workload`, and known once all layers have started
        self._spent: dict[str, float] = {}  # on models that were tried
        self._considered = False

    @property
    def asks(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]  (it is that of the chosen one)
        return self.inner is not None and self.inner.asks

    def start(self, theta: Tensor, generator: torch.Generator) -> Procedure[None]:
        failed, self._spent = "", {}
        if is_chip(self.spec):
            declared = InquiryResult(Family.MESH, "its design is declared", sure=False)
            finding = yield from self._fit(declared, theta, generator)
            if finding is None:
                return
            failed = f"{finding.why}; " if self._spent else ""
        finding = yield from inquire(self.spec, theta, self._amplitude, generator, *self._limits(PART))
        finding = replace(finding, why=f"{failed}{finding.why}")
        while finding.family in FITS:
            finding = yield from self._fit(finding, theta, generator)
            if finding is None:
                return
        yield from self._start(finding, theta, generator)

    def _fit(
        self, finding: InquiryResult, theta: Tensor, generator: torch.Generator
    ) -> Procedure[InquiryResult | None]:
        """Settle on the model of such a family, and return None; where it fails, return the next finding."""
        fit, name, _ = FITS[finding.family]

        def bound(method: Method, spec: Declaration) -> Method:
            return self._bound(method, theta, spec)

        asker = Asker(self.spec, theta, self._amplitude, generator, bound, self._limits)
        found, method, spent = yield from fit(finding, asker)
        self._spent = spent or self._spent
        if method is None:
            return found
        self._settle(found, *method, name)
        return None

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

    def track(self, theta_old: Tensor, theta_new: Tensor, generator: torch.Generator) -> Procedure[None]:
        inner, finding = self._settled
        inner.input_rms = self.input_rms
        old, new = finding.ordered(theta_old), finding.ordered(theta_new)
        yield from translated(inner.track(old, new, generator), finding)
        revised = yield from revise(finding, inner, self.spec, theta_new, self._amplitude, generator)
        if revised is not finding:
            yield from self._start(revised, theta_new, generator)

    def reconsider(self, theta: Tensor, generator: torch.Generator) -> Procedure[None]:
        """Choose again, once, where another layer of the same budget has turned out to have exact gradients."""
        if self._considered:
            return
        self._considered = True
        finding = self._settled[1]
        if not self.beside_exact or finding.family in FITS:
            return
        self.workload = replace(self.workload, beside_exact=True)
        method, name = self._method(finding)
        if name != self.chosen:
            method = self._bound(method, theta, finding.declaration(self.spec))
            yield from translated(method.surrogate.start(finding.ordered(theta), generator), finding)
            self._settle(finding, *method, name)

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
        spent = {name: cost + self._spent.get(name, 0) for name, cost in spent.items()}
        return self.workload.after(**spent)

    def _settle(self, finding: InquiryResult, estimator: Estimator, surrogate: Surrogate, name: str) -> None:
        self._modules.pop("estimator", None)  # one that is a module may give way to one that is none
        self.finding, self.chosen, self.inner, self.estimator = finding, name, surrogate, estimator

    # The parts that were chosen are made anew before their buffers are loaded.

    def get_extra_state(self) -> Tensor:
        finding = None if self.finding is None else self.finding.state_dict()
        said = {"finding": finding, "chosen": self.chosen, "spent": self._spent, "considered": self._considered}
        return pack({**said, "workload": asdict(self.workload)})

    def set_extra_state(self, state: object) -> None:
        saved: dict[str, Any] = unpack(state)
        self.workload: Workload = Workload(**saved["workload"])
        if saved["finding"] is None:
            self.finding, self.chosen, self.inner, self.estimator = None, "", None, None
            return
        finding, spec = InquiryResult.from_state(saved["finding"]), self.spec
        self._spent, self._considered = saved["spent"], saved["considered"]
        known = finding.declaration(spec)
        fits = [make for _, name, make in FITS.values() if name == saved["chosen"]]
        if fits:
            method = fits[0](known)
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
