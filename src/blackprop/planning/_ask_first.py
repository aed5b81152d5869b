"""A surrogate and an estimator that ask the device what it is at their first batch, and then are what suits it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from blackprop.core._budget import Budget
from blackprop.core._declaration import Declaration
from blackprop.core._packing import pack, unpack
from blackprop.core._procedure import Procedure
from blackprop.errors import BudgetExhausted
from blackprop.estimators import Estimator, FromSurrogate
from blackprop.planning._candidates import Candidate, Quality
from blackprop.planning._choice import pick
from blackprop.planning._finding import Family, InquiryResult
from blackprop.planning._inquiry import PART, inquire, most
from blackprop.planning._methods import held_subspace
from blackprop.planning._price import Held, totals
from blackprop.planning._workload import Workload, left
from blackprop.presets import Method
from blackprop.surrogates import PhaseMask, Surrogate

T = TypeVar("T")

NAME = "ask-first"
BASIC = ("rows", "programmings", "seconds")
FEWEST = 100  # steps of a training by perturbations

ACCEPTED = 0.02  # beside three times the noise: what a phase mask may leave of readings that it was not fitted to


class AskFirst(Surrogate):
    """Asks the device which family it belongs to (`inquire`), then is the surrogate that suits it, with its estimator.

    It asks once, at the first training batch, at most a quarter of what the `workload` allows: `asked` says of what;
    then it takes the best of the `candidates` for what is left. What was found and chosen is in `finding`, `chosen` and
    the `repr`. All that is asked is booked as `CALIBRATE`. Where the allowance is too small to ask, it says so and
    chooses by what is declared.

    **Arguments:** `candidates`, the table; `workload`, the training: `bp.PhysicalLayer` sets it from its budget.
    """

    def __init__(self, candidates: Sequence[Candidate], workload: Workload | None = None) -> None:
        super().__init__()
        self.candidates = tuple(candidates)
        self.workload = workload if workload is not None else Workload()
        self.finding: InquiryResult | None = None
        self.chosen = ""
        self.estimator: Estimator | None = None
        self.inner: Surrogate | None = None

    def start(self, theta: Tensor, generator: torch.Generator) -> Procedure[None]:
        spec, workload = self.spec, self.workload
        limits = [workload.limits.get(name, math.inf) * PART for name in ("programmings", "rows")]
        amplitude = self._amplitude
        finding = yield from inquire(spec, theta, amplitude, generator, *limits)
        if finding.family is Family.MASK:
            mask = PhaseMask(24 if spec.x_limited else 8)
            mask.bind(spec)
            mask.to(theta)
            mask.input_rms = self.input_rms
            if mask._cost <= limits[1] and mask.settings + 2 <= limits[0]:
                try:
                    yield from mask.start(theta, generator)
                except BudgetExhausted:
                    finding = InquiryResult(
                        Family.OTHER, "the budget ended the inquiry", sure=False, noise=finding.noise
                    )
            residual = float(mask.residual)
            if residual <= ACCEPTED + 3 * finding.noise:
                why = f"{finding.why}; {residual:.1%} is left of readings that it was not fitted to"
                self._settle(
                    InquiryResult(Family.MASK, why, True, finding.noise), FromSurrogate(mask), mask, "phase-mask"
                )
                return
            finding = InquiryResult(Family.OTHER, f"{finding.why}, but no phase mask explains it", noise=finding.noise)
        method, name = self._method(finding)
        known = finding.declaration(spec)
        method.estimator.bind(known)
        method.surrogate.bind(known)
        for part in method:
            if isinstance(part, nn.Module):
                part.to(theta)
        method.surrogate.input_rms = self.input_rms
        yield from self._renumbered(method.surrogate.start(finding.ordered(theta), generator), finding)
        self._settle(finding, *method, name)

    def track(self, theta_old: Tensor, theta_new: Tensor, generator: torch.Generator) -> Procedure[None]:
        inner, finding = self._settled
        inner.input_rms = self.input_rms
        old, new = finding.ordered(theta_old), finding.ordered(theta_new)
        yield from self._renumbered(inner.track(old, new, generator), finding)

    def ask_theta(
        self, x: Tensor, theta: Tensor, y: Tensor, grad_y: Tensor, generator: torch.Generator
    ) -> Procedure[Tensor]:
        """`∂L/∂θ` by the chosen estimator."""
        _, finding = self._settled
        assert self.estimator is not None
        known = finding.declaration(self.spec)
        procedure = self.estimator.grad_theta(x, finding.ordered(theta), y, grad_y, known, generator)
        return finding.placed((yield from self._renumbered(procedure, finding)))

    def grad_x(self, x: Tensor, grad_y: Tensor) -> Tensor:
        return self._settled[0].grad_x(x, grad_y)

    def grad_x_recalled(self, x: Tensor, y: Tensor, grad_y: Tensor) -> Tensor:
        return self._settled[0].grad_x_recalled(x, y, grad_y)

    def observe(self, x: Tensor, y: Tensor) -> None:
        self._settled[0].observe(x, y)

    def predict(self, x: Tensor) -> Tensor | None:
        return None if self.inner is None else self.inner.predict(x)

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
        candidate = fallback(spec, (*held(finding), *self.candidates), workload)
        return candidate.method(spec, workload), candidate.name

    @property
    def _remaining(self) -> Workload:
        """The workload, less the most that may have been asked."""
        asked = totals(most(self.spec))
        limits = self.workload.limits.items()
        spent = {name: min(asked[name], PART * limit) for name, limit in limits if name in BASIC}
        return self.workload.after(**spent)

    def _settle(self, finding: InquiryResult, estimator: Estimator, surrogate: Surrogate, name: str) -> None:
        self.finding, self.chosen, self.inner, self.estimator = finding, name, surrogate, estimator

    def _renumbered(self, procedure: Procedure[T], finding: InquiryResult) -> Procedure[T]:
        """The procedure, its settings in the device's own order."""
        if finding.order is None:
            return (yield from procedure)
        try:
            queries = next(procedure)
            while True:
                placed = [replace(q, theta=finding.placed(q.theta)) for q in queries]
                try:
                    readings = yield placed
                except BudgetExhausted as error:
                    queries = procedure.throw(error)
                else:
                    queries = procedure.send(readings)
        except StopIteration as stop:
            return stop.value

    # The parts that were chosen are made anew before their buffers are loaded.

    def get_extra_state(self) -> Tensor:
        finding = None if self.finding is None else self.finding.state_dict()
        return pack({"finding": finding, "chosen": self.chosen, "workload": asdict(self.workload)})

    def set_extra_state(self, state: object) -> None:
        saved: dict[str, Any] = unpack(state)
        self.workload = Workload(**saved["workload"])
        if saved["finding"] is None:
            self.finding, self.chosen, self.inner, self.estimator = None, "", None, None
            return
        finding, spec = InquiryResult.from_state(saved["finding"]), self.spec
        if saved["chosen"] == "phase-mask":
            mask = PhaseMask(24 if spec.x_limited else 8)
            method, known = Method(FromSurrogate(mask), mask), spec
        else:
            known = finding.declaration(spec)
            table = (*held(finding), *self.candidates)
            method = next(each for each in table if each.name == saved["chosen"]).method(known, self._remaining)
            method.estimator.bind(known)
        method.surrogate.bind(known)
        self._settle(finding, *method, saved["chosen"])

    def extra_repr(self) -> str:
        if self.finding is None:
            return "not asked yet"
        return f"found {self.finding},\nchosen {self.chosen}"


@dataclass(frozen=True)
class Asked(Estimator):
    """`∂L/∂θ` as an `AskFirst` surrogate finds it once it knows the device."""

    surrogate: AskFirst

    @property
    def reads(self) -> object | None:
        return self.surrogate

    @property
    def bias_order(self) -> int | None:
        chosen = self.surrogate.estimator
        return None if chosen is None else chosen.bias_order

    def relative_variance(self, size: int) -> float:
        chosen = self.surrogate.estimator
        return 0.0 if chosen is None else chosen.relative_variance(size)

    @property
    def cosine(self) -> float | None:
        chosen = self.surrogate.estimator
        return None if chosen is None else chosen.cosine

    def advance(self, old: Tensor, new: Tensor, rate: float) -> Tensor:
        return self.surrogate.advance(old, new, rate)

    def diagnosis(self) -> dict[str, float]:
        chosen = self.surrogate.estimator
        return {} if chosen is None else chosen.diagnosis()

    def grad_theta(
        self, x: Tensor, theta: Tensor, y: Tensor, grad_y: Tensor, spec: Declaration, generator: torch.Generator
    ) -> Procedure[Tensor]:
        del spec  # what is declared is less than what was found
        return (yield from self.surrogate.ask_theta(x, theta, y, grad_y, generator))


def held(finding: InquiryResult) -> tuple[Candidate, ...]:
    """The candidate for a matrix whose derivatives hold as far as was measured."""
    length = finding.length
    if finding.family is not Family.LINEAR or length is None:
        return ()
    return (
        Candidate(
            "held-subspace",
            Quality.HELD,
            lambda spec: spec.linear,
            lambda spec: held_subspace(spec, Workload(), length),
            lambda spec: f"derivatives hold over {length:.2g}: measured once along random directions, then held",
            divide=lambda spec, workload: held_subspace(spec, workload, length),
        ),
    )


def fallback(spec: Declaration, candidates: Sequence[Candidate], workload: Workload) -> Candidate:
    """The best of the table that has steps enough within the limits of the workload.

    Perturbations that are not remembered need `FEWEST` steps, and in all a direction for every ten parameters; with
    fewer a device that is not trained does better.
    """
    if not workload.limits:
        return pick(spec, candidates, workload)

    def enough(candidate: Candidate) -> bool:
        if not Quality.FROZEN < candidate.quality <= Quality.SAMPLED or candidate.why_not(spec):
            return True
        method = candidate.method(spec, workload)
        count = getattr(method.estimator, "count", 1)
        step = totals(candidate.price(method, Held(spec, None), workload.batch_size).step)
        steps = min(limit / step[name] if step[name] else math.inf for name, limit in workload.limits.items())
        return steps >= FEWEST and count * steps >= spec.theta.size / 10

    fitting = [candidate for candidate in candidates if enough(candidate)]
    try:
        return pick(spec, fitting, workload)
    except BudgetExhausted:  # then the training will end as soon as it can go no further
        return min(fitting, key=lambda candidate: candidate.quality)


def tell_allowance(surrogate: Surrogate, batch_size: int, budget: Budget | None, steps: int | None = None) -> None:
    """Tell a surrogate that asks first how large training's batches are and what is left of its budget; others are left
    as they are. A layer calls this before it starts a surrogate.
    """
    if isinstance(surrogate, AskFirst) and surrogate.finding is None:
        limits = left(budget, surrogate.spec)
        if limits or steps is not None:
            surrogate.workload = Workload.within(budget, batch_size, steps, surrogate.spec)
