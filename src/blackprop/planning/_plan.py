"""The choice among the candidates: the cheapest of the best that fit."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from blackprop.core._budget import Budget
from blackprop.core._declaration import Declaration
from blackprop.core._ledger import Ledger
from blackprop.core._metered import Measurable
from blackprop.errors import ArgumentError, BudgetExhausted, IncompatibleError
from blackprop.estimators import Estimator, Modelled
from blackprop.estimators._modelled import KnowsTheta
from blackprop.planning import _methods as methods
from blackprop.planning._candidates import CANDIDATES, Candidate
from blackprop.planning._price import Held, Objective, Price, usual_objective
from blackprop.presets import Method
from blackprop.surrogates import Surrogate

BATCH, STEPS = 64, 1000  # of a training that nothing is said about
SAVING = (
    0.6  # a candidate takes the place of one that stands before it, as good, where it costs at most this part of it
)


@dataclass(frozen=True)
class Plan:
    """An estimator and a surrogate for one layer, what they cost, and why they were chosen.

    `method` is the pair, for `bp.PhysicalLayer(device, *plan.method)`; `name` that of the candidate.
    """

    estimator: Estimator
    surrogate: Surrogate
    price: Price
    reason: str
    name: str = ""

    @property
    def method(self) -> Method:
        return Method(self.estimator, self.surrogate)


def plan(
    device: Measurable,
    batch_size: int,
    budget: Budget | Mapping[str, float] | None = None,
    *,
    steps: int | None = None,
    objective: Objective | None = None,
    candidates: Sequence[Candidate] = CANDIDATES,
) -> Plan:
    """Choose how to train a layer around `device`: of the candidates that fit into `budget` and suit the declaration,
    those of the best quality; of these the first, unless a later one costs at most 0.6 of it.

    **Arguments:**

    - `batch_size`: rows of a training step.
    - `budget`: a `bp.Budget`, of which what is left counts, or limits by name: `rows`, `programmings`, `seconds`. The
      start and `steps` steps must fit into it, without `steps` the first step.
    - `steps`: of the training; by default candidates are compared over 1,000.
    - `objective`: what counts as cost, a function of a `bp.Ledger`, such as `bp.planning.rows`, `programmings` and
      `seconds`; by default lab seconds where the device declares a `Cost`, rows where it does not.
    - `candidates`: the table, from the best to the humblest; `[mine, *bp.planning.CANDIDATES]` adds one.

    A plan of a lower quality, which trains worse, is chosen only where the budget allows no better one, and `reason`
    then says so. Nothing is measured.

    Raises `BudgetExhausted` where no candidate fits, naming the nearest and what it lacks; `IncompatibleError` where
    none suits the device.
    """
    if batch_size < 1:
        raise ArgumentError(f"`plan(batch_size=...)` must be at least 1, got {batch_size}")
    if steps is not None and steps < 1:
        raise ArgumentError(f"`plan(steps=...)` must be at least 1, got {steps}")
    spec = device.declaration
    table = _Table(spec, device, batch_size, steps, objective or usual_objective(spec))
    suited = _suited(spec, candidates)
    if budget is None:
        return table.made(table.best(suited), "")
    left = _left(budget, spec)
    for quality in sorted({candidate.quality for candidate in suited}, reverse=True):
        fitting = [each for each in suited if each.quality == quality and not table.lacking(each, left)]
        if fitting:
            return table.made(table.best(fitting), table.forced(suited, quality, left))
    raise BudgetExhausted(table.nearest(suited, left))


def choose(spec: Declaration, candidates: Sequence[Candidate] = CANDIDATES) -> Candidate:
    """The candidate that a layer uses when nothing is said: that of a plan for 64 rows a step and 1,000 steps."""
    return _Table(spec, Held(spec, None), BATCH, None, usual_objective(spec)).best(_suited(spec, candidates))


def complete(
    spec: Declaration, estimator: Estimator | None, surrogate: Surrogate | None
) -> tuple[Estimator, Surrogate, str]:
    """The parts that are given, and for those that are not what suits the device beside them; and why."""
    if estimator is not None and surrogate is not None:
        return estimator, surrogate, ""
    if estimator is None and surrogate is None:
        candidate = choose(spec)
        made = candidate.method(spec)
        return made.estimator, made.surrogate, candidate.reason(spec)
    if estimator is not None:
        if isinstance(estimator.reads, Surrogate):
            return estimator, estimator.reads, "the surrogate is the one that the estimator reads"
        return estimator, methods.fitted(spec), "the surrogate is fitted to the training rows"
    assert surrogate is not None
    if isinstance(surrogate, KnowsTheta):
        return Modelled(surrogate), surrogate, "the surrogate knows both gradients"
    for candidate in _suited(spec, CANDIDATES):
        made = candidate.method(spec)
        if made.estimator.reads is None:
            return made.estimator, surrogate, f"estimator by {candidate.reason(spec)}"
    raise AssertionError("perturbations need no surrogate")  # pragma: no cover


class _Table:
    """The candidates' prices on one device, found when they are asked for."""

    def __init__(
        self, spec: Declaration, device: Measurable, batch_size: int, steps: int | None, objective: Objective
    ) -> None:
        self.spec, self.device, self.batch_size, self.objective = spec, device, batch_size, objective
        self.steps = steps
        self._prices: dict[str, Price] = {}

    def price(self, candidate: Candidate) -> Price:
        if candidate.name not in self._prices:
            made = candidate.method(self.spec)
            self._prices[candidate.name] = candidate.price(made, self.device, self.batch_size)
        return self._prices[candidate.name]

    def best(self, suited: Sequence[Candidate]) -> Candidate:
        """Of the best quality, the first that no later one undercuts by far."""
        top = max(candidate.quality for candidate in suited)
        chosen, *others = [candidate for candidate in suited if candidate.quality == top]
        for other in others:
            if self.cost(other) <= SAVING * self.cost(chosen):
                chosen = other
        return chosen

    def cost(self, candidate: Candidate) -> float:
        return self.objective(self.price(candidate).after(self.steps or STEPS))

    def made(self, candidate: Candidate, why: str) -> Plan:
        price, reason = self.price(candidate), candidate.reason(self.spec) + why
        return Plan(*candidate.method(self.spec), price, reason, candidate.name)

    def forced(self, suited: Sequence[Candidate], quality: int, left: Mapping[str, float]) -> str:
        """What must be said of a choice that is not of the best quality."""
        better = self.best(suited)
        if better.quality == quality:
            return ""
        lacking = self.lacking(better, left)
        return f"; known to train worse than {better.name}, which does not fit into the budget ({lacking})"

    def lacking(self, candidate: Candidate, left: Mapping[str, float]) -> str:
        """What the budget lacks for it, in words; nothing where it fits."""
        wanted = _totals(self.price(candidate).after(self.steps or 1))
        parts = [
            f"{_plain(wanted[name])} {name} of {_plain(limit)} left"
            for name, limit in left.items()
            if wanted[name] > limit
        ]
        return ", ".join(parts)

    def nearest(self, suited: Sequence[Candidate], left: Mapping[str, float]) -> str:
        """Why no candidate fits, and which comes nearest."""

        def excess(candidate: Candidate) -> float:
            wanted = _totals(self.price(candidate).after(self.steps or 1))
            return max(wanted[name] / limit if limit > 0 else math.inf for name, limit in left.items())

        near = min(suited, key=excess)
        price = self.price(near)
        after = f"the start and {self.steps:,} steps" if self.steps is not None else "the first step"
        enough = _possible(price, left)
        return (
            f"no plan for {self.spec.name} fits into the budget: the nearest, {near.name}, takes for {after} of "
            f"{self.batch_size:,} rows {self.lacking(near, left)}"
            + (f"; {enough:,} of the steps would fit" if enough else "")
        )


def _suited(spec: Declaration, candidates: Sequence[Candidate]) -> list[Candidate]:
    names = [candidate.name for candidate in candidates]
    if len(set(names)) != len(names):
        raise ArgumentError(f"`plan(candidates=...)` must have different names, got {', '.join(names)}")
    suited = [candidate for candidate in candidates if candidate.applies(spec)]
    if not suited:
        raise IncompatibleError(f"none of the candidates ({', '.join(names) or 'none given'}) suits {spec.name}")
    return suited


def _left(budget: Budget | Mapping[str, float], spec: Declaration) -> dict[str, float]:
    if not isinstance(budget, Budget):
        known = {"rows", "programmings", "seconds", *(capability.name for capability in spec.capabilities)}
        if not isinstance(budget, Mapping) or not known.issuperset(budget):
            raise ArgumentError(
                "`plan(budget=...)` takes a Budget, or limits named rows, programmings and seconds, or as a capability "
                f"of {spec.name}, got {budget!r}"
            )
        budget = Budget(**budget)  # pyright: ignore[reportArgumentType]
    return {name: limit - budget.spent[name] for name, limit in budget.limits.items() if limit is not None}


def _totals(ledger: Ledger) -> defaultdict[str, float]:
    basic = {"rows": ledger.total_rows, "programmings": ledger.total_programmings, "seconds": ledger.lab_seconds}
    return defaultdict(float, {**ledger.actions, **basic})


def _possible(price: Price, left: Mapping[str, float]) -> int:
    """How many steps fit."""
    first, step = _totals(price.first), _totals(price.step)
    each = [
        1 + (limit - first[name]) // step[name] if step[name] else math.inf
        for name, limit in left.items()
        if first[name] <= limit
    ]
    return int(min(each)) if len(each) == len(left) and math.isfinite(min(each, default=math.inf)) else 0


def _plain(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:,.4g}"
