"""Which estimator and surrogate suit a device: what a layer uses when nothing is said, and what it will cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from blackprop.declaration import Coupling, Declaration
from blackprop.directions import Rademacher
from blackprop.errors import ArgumentError, BudgetExhausted
from blackprop.estimators import (
    ByOutput,
    DirectionalMemory,
    Estimator,
    Modelled,
    ProbeContraction,
    RandomDirections,
    Whole,
)
from blackprop.estimators.modelled import KnowsTheta
from blackprop.ledger import Budget, Ledger, Measurable, price
from blackprop.presets import Method
from blackprop.probes import within
from blackprop.query import Procedure, Purpose, Query, ask
from blackprop.surrogates import CalibratedResponse, Streaming, Surrogate

MEMORY_BYTES = 2**28  # of what perturbations are remembered, unless told otherwise


@dataclass(frozen=True)
class Price:
    """What a plan costs: once at the start, and for every training step, forward rows and programming included."""

    start: Ledger
    step: Ledger

    def after(self, steps: int) -> Ledger:
        """The ledger of so many steps."""
        return Ledger.sum([self.start, *[self.step] * steps])


@dataclass(frozen=True)
class Plan:
    """An estimator and a surrogate for one layer, what they cost, and why they were chosen."""

    estimator: Estimator
    surrogate: Surrogate
    price: Price
    reason: str


@dataclass(frozen=True)
class Choice:
    """A method that suits a declaration, made anew each time, since a surrogate serves one layer."""

    reason: str
    make: Callable[[], Method]


def choose(spec: Declaration) -> Choice:
    """The method that asks least of a device that declares `spec`."""
    return next(_choices(spec))


def complete(
    spec: Declaration, estimator: Estimator | None, surrogate: Surrogate | None
) -> tuple[Estimator, Surrogate, str]:
    """The parts that are given, and for those that are not what suits the device beside them; and why."""
    if estimator is not None and surrogate is not None:
        return estimator, surrogate, ""
    if estimator is None and surrogate is None:
        choice = choose(spec)
        made = choice.make()
        return made.estimator, made.surrogate, choice.reason
    if estimator is not None:
        if isinstance(estimator.reads, Surrogate):
            return estimator, estimator.reads, "the surrogate is the one that the estimator reads"
        return estimator, _fitted(spec), "the surrogate is fitted to the training rows"
    assert surrogate is not None
    if isinstance(surrogate, KnowsTheta):
        return Modelled(surrogate), surrogate, "the surrogate knows both gradients"
    *_, humble = _choices(spec)
    return humble.make().estimator, surrogate, f"estimator by {humble.reason}"


def plan(device: Measurable, batch_size: int, budget: Budget | None = None) -> Plan:
    """The plan for a layer around `device` that is trained with `batch_size` rows a step.

    By declaration: *element* coupling is calibrated once and then trained without queries; another linear device is
    perturbed, and what the perturbations reveal of it is remembered (`DirectionalMemory`), with *row* coupling credited
    to each output's own parameters; the input gradient comes from a matrix fitted to the training rows. One that is not
    linear takes fresh perturbations of the whole batch, and is fitted locally.

    With a `budget`, raises `BudgetExhausted` where not even the start and one step fit into what is left of it, and
    names the cheapest plan that would.
    """
    if batch_size < 1:
        raise ArgumentError(f"`plan(batch_size=...)` must be at least 1, got {batch_size}")
    spec = device.declaration
    first = choose(spec)
    method = first.make()
    cost = _price(first, device, batch_size)
    if budget is not None and not _fits(cost, budget):
        fitting = [c for c in _choices(spec) if _fits(_price(c, device, batch_size), budget)]
        cheapest = min(fitting, key=lambda c: _price(c, device, batch_size).after(1).total_rows, default=None)
        advice = f"the cheapest that fits: {cheapest.reason}" if cheapest is not None else "no plan fits"
        once, each = cost.start, cost.step
        raise BudgetExhausted(
            f"the plan for {spec.name} takes {once.total_rows:,} rows and {once.total_programmings:,} programmings to "
            f"start, {each.total_rows:,} and {each.total_programmings:,} a step, more than {budget} has left; {advice}"
        )
    return Plan(*method, cost, first.reason)


def _choices(spec: Declaration) -> Iterator[Choice]:
    """From the best to the humblest."""
    vectors = len(spec.in_shape) == len(spec.out_shape) == 1
    linear = spec.linear and vectors
    if linear and spec.coupling is Coupling.ELEMENT:
        for settings in (16, 8, 4):
            yield Choice(
                f"element coupling: {settings} settings calibrate every response once, gradients then cost no query",
                lambda settings=settings: _calibrated(settings),
            )
    credited = linear and spec.coupling is not Coupling.NONE
    kind = "row coupling: each output is credited to its own parameters" if credited else "no coupling declared"
    if linear:
        estimator = remembered(spec, credited)
        yield Choice(
            f"{kind}; perturbations are remembered, {estimator.count} new a step (best with `bp.optim.SignalScaled`)",
            lambda: Method(remembered(spec, credited), _fitted(spec)),
        )
    for count in (8, 1) if credited else (16, 1):
        yield Choice(
            f"{kind}; {count} random perturbation{'s' if count > 1 else ''} a step"
            + ("" if linear else ", not declared linear: on the whole batch, and fitted locally"),
            lambda count=count: _perturbed(spec, count, step_size(spec), linear=linear, credited=credited),
        )


def remembered(spec: Declaration, credited: bool = False, **settings: int) -> DirectionalMemory:
    """A memory that suits a linear device: 8 new directions a step, or, where outputs are credited with their own
    parameters and a few hundred directions know all, one for every 256 of these, after 256 at the start.

    `settings` are those of `DirectionalMemory` that are to be others.
    """
    k = min(32, spec.d_in)
    size = max(64, min(4096, MEMORY_BYTES // (4 * spec.d_out * k)))
    if not credited:
        return DirectionalMemory(**{"count": 8, "size": size, "step": step_size(spec), **settings})
    count = min(8, -(-spec.theta.size // spec.d_out // 256))
    chosen = {"count": count, "size": size, "start": 256, "step": step_size(spec), **settings}
    return DirectionalMemory(**chosen, credit=ByOutput(spec.d_out))


def step_size(spec: Declaration) -> float:
    """A step for differences, `max(1/100, 0.7 √noise)` radians: small where readings are exact, and where they are not
    the balance of noise, which falls as 1/step, and curvature, which grows with it.

    2π radians are a period, or else the width of the limits; where there is neither, a radian is ten times the spread
    that θ starts with.
    """
    return _radian(spec) * max(0.01, 0.7 * math.sqrt(spec.noise))


def _radian(spec: Declaration) -> float:
    if spec.theta.period is not None:
        return spec.theta.period / (2 * math.pi)
    theta = spec.theta.draw(torch.Generator().manual_seed(0))
    low, high = spec.theta.bounds(theta)
    width = float((high - low).min())
    if math.isfinite(width):
        return width / (2 * math.pi)
    spread = float(theta.std()) if theta.numel() > 1 else 0.0
    return 10 * (spread or float(theta.abs().max()) or 1.0)


def _calibrated(settings: int) -> Method:
    surrogate = CalibratedResponse(settings)
    return Method(Modelled(surrogate), surrogate)


def _perturbed(spec: Declaration, count: int, step: float, *, linear: bool, credited: bool) -> Method:
    estimator = RandomDirections(
        count,
        step,
        Rademacher(),
        contraction=ProbeContraction(12) if linear else None,
        credit=ByOutput(spec.d_out) if credited else Whole(),
    )
    return Method(estimator, _fitted(spec))


def _fitted(spec: Declaration) -> Streaming:
    return Streaming() if spec.linear else Streaming(bias=True, exact_start=False)


def _price(choice: Choice, device: Measurable, batch_size: int) -> Price:
    """By dry runs of the start and of one step, on random rows."""
    spec, generator = device.declaration, torch.Generator().manual_seed(0)
    estimator, surrogate = choice.make()
    surrogate.bind(spec)
    theta = spec.theta.draw(generator)
    x, y = (torch.randn(batch_size, *shape, generator=generator) for shape in (spec.in_shape, spec.out_shape))
    x = within(spec, x)

    def step() -> Procedure[None]:
        yield from ask(Query(x, theta, Purpose.FORWARD))
        yield from estimator.vjp(x, theta, y, y, spec, generator)

    return Price(price(lambda: surrogate.start(theta, generator), device), price(step, device))


def _fits(cost: Price, budget: Budget) -> bool:
    first = cost.after(1)
    wanted = {"rows": first.total_rows, "programmings": first.total_programmings, "seconds": first.lab_seconds}
    return all(limit is None or budget.spent[name] + wanted[name] <= limit for name, limit in budget.limits.items())
