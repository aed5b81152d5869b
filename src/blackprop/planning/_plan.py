"""The choice among the candidates: the cheapest of the best that fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from blackprop.core._budget import Budget
from blackprop.core._declaration import Declaration
from blackprop.core._metered import Measurable
from blackprop.estimators import Estimator, FromSurrogate
from blackprop.estimators._from_surrogate import KnowsTheta
from blackprop.planning import _methods as methods
from blackprop.planning._candidates import Candidate
from blackprop.planning._choice import Table, pick, suited
from blackprop.planning._price import Objective, Price, in_words, usual_objective
from blackprop.planning._table import CANDIDATES
from blackprop.planning._workload import STEPS, Workload
from blackprop.presets import Method
from blackprop.surrogates import Surrogate


@dataclass(frozen=True)
class Plan:
    """An estimator and a surrogate for one layer, their price, and the reason for the choice.

    `method` is the pair, for `bp.PhysicalLayer(device, *plan.method)`; `name` that of the candidate; `workload` the
    training it is made for; `passed_over` why each other candidate of the table was not chosen, by name. `print(plan)`
    shows all of it.
    """

    estimator: Estimator
    surrogate: Surrogate
    price: Price
    reason: str
    name: str = ""
    workload: Workload = field(default_factory=Workload)
    passed_over: Mapping[str, str] = field(default_factory=dict)

    @property
    def method(self) -> Method:
        return Method(self.estimator, self.surrogate)

    def __str__(self) -> str:
        steps = self.workload.steps if self.workload.steps is not None else STEPS
        lines = [
            f"{self.name}: {self.reason}",
            f"  first step          {in_words(self.price.first)}",
            f"  each later step     {in_words(self.price.step)}",
            f"  {f'{steps:,} steps':<18}  {in_words(self.price.after(steps))}",
        ]
        width = max((len(name) for name in self.passed_over), default=0)
        return "\n".join([*lines, *(f"  not {name:<{width}}  {why}" for name, why in self.passed_over.items())])


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
    - `budget`: a `bp.Budget`, whose remainder counts, or limits by name: `rows`, `programmings`, `seconds`,
      `joules`. The start and `steps` steps must fit into it, without `steps` the first step.
    - `steps`: of the training; by default candidates are compared over 1,000.
    - `objective`: the cost, a function of a `bp.Ledger`, such as `bp.planning.rows`, `programmings`, `seconds`
      and `joules`; by default lab seconds where the device declares a `Cost`, rows where it does not.
    - `candidates`: the table, from the best to the humblest; `[mine, *bp.planning.CANDIDATES]` adds one.

    A plan of a lower quality, which trains worse, is chosen only where the budget allows no better one, and `reason`
    then says so. A plan makes no queries.

    Raises `BudgetExhausted` where no candidate fits, naming the nearest and the limits it exceeds, and
    `IncompatibleError` where none suits the device.
    """
    workload = Workload.within(budget, batch_size, steps, device.declaration)
    spec = device.declaration
    table = Table(spec, device, workload, objective or usual_objective(spec), candidates)
    chosen = table.fitting()
    others = {other.name: table.against(other, chosen) for other in candidates if other is not chosen}
    method, reason = chosen.method(spec, workload), chosen.reason(spec) + table.forced(chosen)
    return Plan(*method, table.price(chosen), reason, chosen.name, workload, others)


def choose(
    spec: Declaration, candidates: Sequence[Candidate] = CANDIDATES, workload: Workload | None = None
) -> Candidate:
    """Return the candidate of a plan for the `workload`. Where it is None: for 64 rows a step and 1,000 steps, which is
    the default of a layer.
    """
    return pick(spec, candidates, workload if workload is not None else Workload())


def complete(
    spec: Declaration, estimator: Estimator | None, surrogate: Surrogate | None
) -> tuple[Estimator, Surrogate, str]:
    """Return the given parts, those that suit the device in place of the others, and the reason."""
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
        return FromSurrogate(surrogate), surrogate, "the surrogate knows both gradients"
    for candidate in suited(spec, CANDIDATES):
        made = candidate.method(spec)
        if made.estimator.reads is None:
            return made.estimator, surrogate, f"estimator by {candidate.reason(spec)}"
    raise AssertionError("perturbations need no surrogate")  # pragma: no cover
