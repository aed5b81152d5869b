"""The price of a method on a device, from dry runs, and the currencies that it is judged in."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from blackprop.core._budget import undeclared
from blackprop.core._declaration import Declaration
from blackprop.core._ledger import Ledger, in_joules, less
from blackprop.core._metered import Measurable, price
from blackprop.core._probes import within
from blackprop.core._procedure import Procedure, ask, reading_first
from blackprop.core._query import Count, Purpose, Query
from blackprop.errors import IncompatibleError
from blackprop.estimators import Still
from blackprop.estimators.pulsed import PulsedUpdate
from blackprop.presets import Method

PULSED_RATE, PULSED_ERROR = 0.05, 0.1  # learning rate, and cotangents of a row, of a step whose pulses are priced
Objective = Callable[[Ledger], float]


def rows(ledger: Ledger) -> float:
    """Objective: the number of rows."""
    return float(ledger.total_rows)


def programmings(ledger: Ledger) -> float:
    """Objective: the number of programmings."""
    return float(ledger.total_programmings)


def seconds(ledger: Ledger) -> float:
    """Objective: the estimated lab time, from the device's `Cost`."""
    return ledger.lab_seconds


def joules(ledger: Ledger) -> float:
    """Objective: the estimated energy, from the device's `Cost`; `IncompatibleError` where it declares none."""
    if ledger.joules is None:
        raise IncompatibleError(undeclared("joules"))
    return ledger.joules


def totals(ledger: Ledger) -> defaultdict[str, float]:
    """Rows, programmings, lab seconds, joules and the uses of capabilities, by name."""
    known = {name: cost for name, cost in ledger.costs.items() if cost is not None}
    basic = {"rows": ledger.total_rows, "programmings": ledger.total_programmings}
    return defaultdict(float, {**ledger.actions, **known, **basic})


def in_words(ledger: Ledger) -> str:
    """Rows, programmings and, where there are any, lab seconds and energy, as a table shows them."""
    lab = f", {ledger.lab_seconds:,.4g} s" if ledger.lab_seconds else ""
    lab += f", {in_joules(ledger.joules)}" if ledger.joules else ""
    return f"{ledger.total_rows:>10,} rows {ledger.total_programmings:>8,} programmings{lab}"


def usual_objective(spec: Declaration) -> Objective:
    """Lab seconds where the device declares a cost, rows where it does not."""
    return seconds if spec.cost.programming or spec.cost.row else rows


@dataclass(frozen=True)
class Price:
    """The cost of a plan: of the first training step, with all queries before it, and of each later one.

    Both have the rows and the programming of the forward pass.
    """

    first: Ledger
    step: Ledger

    @property
    def start(self) -> Ledger:
        """The cost of the first step beyond that of a later one: calibration, and measurements ahead."""
        return _difference(self.first, self.step)

    def after(self, steps: int) -> Ledger:
        """The ledger of so many steps, the start included."""
        return Ledger.sum([self.first, self.step.times(steps - 1)]) if steps > 0 else Ledger()


def dry_price(method: Method, device: Measurable, batch_size: int) -> Price:
    """Price a new `method` by dry runs of its first two steps on random rows, without measurements.

    The method is used up: it learns from random readings.
    """
    spec, generator = device.declaration, torch.Generator().manual_seed(0)
    estimator, surrogate = method
    estimator.bind(spec)
    surrogate.bind(spec)
    theta = spec.theta.draw(generator)
    moved = spec.theta.clamp(theta + 1e-3 * torch.randn(theta.shape, generator=generator))
    if isinstance(estimator, Still | PulsedUpdate):
        moved = theta
    x, y = (torch.randn(batch_size, *shape, generator=generator) for shape in (spec.in_shape, spec.out_shape))
    x = within(spec, x)
    surrogate.input_rms = math.sqrt(float(x.square().sum()) / batch_size)
    held = Held(spec, device.programmed)

    def first() -> Procedure[None]:
        yield from ask(Query(x, theta, Purpose.FORWARD))
        yield from surrogate.start(theta, generator)
        if surrogate.asks:
            yield from surrogate.read_grad_x(x, y, theta)
        yield from estimator.grad_theta(x, theta, y, y, spec, generator)
        yield from pulses(theta)

    def later() -> Procedure[None]:
        yield from reading_first(Query(x, moved, Purpose.FORWARD), surrogate.track(theta, moved, generator))
        if surrogate.asks:
            yield from surrogate.read_grad_x(x, y, moved)
        yield from estimator.grad_theta(x, moved, y, y, spec, generator)
        yield from pulses(moved)

    def pulses(at: Tensor) -> Procedure[None]:
        if isinstance(estimator, PulsedUpdate):
            yield from estimator.update(x.flatten(1), PULSED_ERROR * y.flatten(1), PULSED_RATE, at, spec, generator)

    with torch.no_grad():
        return Price(price(lambda: held.followed(first()), held), price(lambda: held.followed(later()), held))


@dataclass
class Held:
    """A stand-in for the device in dry runs, which keeps the setting that the last of them ended at."""

    declaration: Declaration
    programmed: Tensor | None

    def followed(self, procedure: Procedure[None]) -> Procedure[None]:
        answers: list[Tensor] | None = None
        while True:
            try:
                queries = next(procedure) if answers is None else procedure.send(answers)
            except StopIteration:
                return
            answers = yield queries
            self.programmed = queries[-1].theta if queries else self.programmed

    def measure(self, queries: Sequence[Query], /) -> list[Tensor]:
        raise AssertionError("a dry run makes no measurements")

    def repeated(self) -> Count:
        return Count()


def _difference(larger: Ledger, smaller: Ledger) -> Ledger:
    """The positive part of the difference."""
    left = Ledger()
    left.rows = larger.rows - smaller.rows  # a Counter keeps the positive part
    left.programmings = larger.programmings - smaller.programmings
    left.actions = larger.actions - smaller.actions
    costs = less(larger.costs, smaller.costs)
    left.costs = {name: None if cost is None else max(0.0, cost) for name, cost in costs.items()}
    return left
