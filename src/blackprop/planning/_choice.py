"""Choose among candidates: the cheapest of the best that fit into the budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from blackprop.core._declaration import Declaration
from blackprop.core._metered import Measurable
from blackprop.errors import ArgumentError, BudgetExhausted, IncompatibleError
from blackprop.planning._candidates import Candidate
from blackprop.planning._price import Held, Objective, Price, totals, usual_objective
from blackprop.planning._workload import STEPS, Workload

SAVING = (
    0.6  # a candidate takes the place of one that stands before it, as good, where it costs at most this part of it
)


def pick(spec: Declaration, candidates: Sequence[Candidate], workload: Workload) -> Candidate:
    """The candidate of the table for such a device and workload."""
    return Table(spec, Held(spec, None), workload, usual_objective(spec), candidates).fitting()


class Table:
    """The candidates and their prices on one device, for one workload; prices are computed on demand."""

    def __init__(
        self,
        spec: Declaration,
        device: Measurable,
        workload: Workload,
        objective: Objective,
        candidates: Sequence[Candidate],
    ) -> None:
        self.spec, self.device, self.workload, self.objective = spec, device, workload, objective
        self.candidates, self.suited = candidates, suited(spec, candidates)
        self._prices: dict[str, Price] = {}

    def price(self, candidate: Candidate) -> Price:
        if candidate.name not in self._prices:
            made = candidate.method(self.spec, self.workload)
            self._prices[candidate.name] = candidate.price(made, self.device, self.workload.batch_size)
        return self._prices[candidate.name]

    def fitting(self) -> Candidate:
        """The best of those that fit into the limits."""
        for quality in sorted({candidate.quality for candidate in self.suited}, reverse=True):
            fitting = [each for each in self.suited if each.quality == quality and not self.lacking(each)]
            if fitting:
                return self.best(fitting)
        raise BudgetExhausted(self.nearest())

    def best(self, suited: Sequence[Candidate]) -> Candidate:
        """The first of the best quality, or a later one that costs at most `SAVING` of it."""
        top = max(candidate.quality for candidate in suited)
        chosen, *others = [candidate for candidate in suited if candidate.quality == top]
        for other in others:
            if self.cost(other) <= SAVING * self.cost(chosen):
                chosen = other
        return chosen

    def cost(self, candidate: Candidate) -> float:
        return self.objective(self.price(candidate).after(self.workload.steps or STEPS))

    def against(self, other: Candidate, chosen: Candidate) -> str:
        """Why `other` was not chosen."""
        if why := other.why_not(self.spec):
            return why
        if other.quality < chosen.quality:
            return "trains worse"
        if lacking := self.lacking(other):
            return f"does not fit into the budget: {lacking}"
        return "costs more" if self.cost(other) > self.cost(chosen) else "trains as well, and does not save enough"

    def forced(self, candidate: Candidate) -> str:
        """The addition to the reason of a choice that is not of the best quality."""
        better = self.best(self.suited)
        if better.quality == candidate.quality:
            return ""
        lacking = self.lacking(better)
        return f"; known to train worse than {better.name}, which does not fit into the budget ({lacking})"

    def lacking(self, candidate: Candidate) -> str:
        """The limits that the candidate exceeds, in words; empty where it fits."""
        limits = self.workload.limits
        wanted = totals(self.price(candidate).after(self.workload.steps or 1)) if limits else {}
        parts = [
            f"{_plain(wanted[name])} {name} of {_plain(limit)} left"
            for name, limit in limits.items()
            if wanted[name] > limit
        ]
        return ", ".join(parts)

    def nearest(self) -> str:
        """Why no candidate fits, and which comes nearest."""
        limits, steps = self.workload.limits, self.workload.steps

        def excess(candidate: Candidate) -> float:
            wanted = totals(self.price(candidate).after(steps or 1))
            return max(wanted[name] / limit if limit > 0 else math.inf for name, limit in limits.items())

        near = min(self.suited, key=excess)
        after = f"the start and {steps:,} steps" if steps is not None else "the first step"
        enough = _possible(self.price(near), limits)
        return (
            f"no plan for {self.spec.name} fits into the budget: the nearest, {near.name}, takes for {after} of "
            f"{self.workload.batch_size:,} rows {self.lacking(near)}"
            + (f"; {enough:,} of the steps would fit" if enough else "")
        )


def suited(spec: Declaration, candidates: Sequence[Candidate]) -> list[Candidate]:
    names = [candidate.name for candidate in candidates]
    if len(set(names)) != len(names):
        raise ArgumentError(f"`plan(candidates=...)` must have different names, got {', '.join(names)}")
    suited = [candidate for candidate in candidates if candidate.applies(spec)]
    if not suited:
        why = "; ".join(f"{candidate.name} {candidate.why_not(spec)}" for candidate in candidates) or "none given"
        raise IncompatibleError(f"none of the candidates suits {spec.name}: {why}")
    return suited


def _possible(price: Price, left: Mapping[str, float]) -> int:
    """The number of steps that fit."""
    first, step = totals(price.first), totals(price.step)
    each = [
        1 + (limit - first[name]) // step[name] if step[name] else math.inf
        for name, limit in left.items()
        if first[name] <= limit
    ]
    return int(min(each)) if len(each) == len(left) and math.isfinite(min(each, default=math.inf)) else 0


def _plain(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:,.4g}"
