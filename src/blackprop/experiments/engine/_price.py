"""The cost of a trial, computed before it starts."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from blackprop.core._ledger import Ledger
from blackprop.core._metered import price as dry_run
from blackprop.core._probes import within
from blackprop.core._procedure import Procedure, ask, reading_first
from blackprop.core._query import Count, Purpose, Query
from blackprop.estimators.pulsed._base import PulsedUpdate
from blackprop.experiments.engine._bill import Bill, moves_theta
from blackprop.experiments.engine._execution import lent_generators
from blackprop.experiments.engine._trial import Trial
from blackprop.experiments.tasks._task import Data
from blackprop.nn._layer import PhysicalLayer
from blackprop.planning._price import PULSED_ERROR, PULSED_RATE

PRICED = 100  # steps of a method of pulses, some of which are dearer than others
_NUDGE = 1e-3  # makes the settings of a dry run differ; their values do not affect the price


def price(trial: Trial, data: Data) -> Bill:
    """Compute the bill of `trial`, including evaluations, without a query to any device.

    The parameter procedure of one step is run without a device, and its cost is multiplied by the number of steps. The
    procedures of the surrogate are run for every step, because a surrogate that rebuilds itself at intervals costs more
    in some steps. The price is exact if the queries do not depend on the course of training. A device with limits reads
    its base rows once more in each step whose settings are near a limit, which the price does not include. The number
    of pulses is an estimate, since it depends on the size of the gradients.

    - `trial`: the trial.
    - `data`: the rows of its task; only their shapes and number count.

    Returns a bill with `rows` and `programmings` by purpose, `row_overhead` and `programming_overhead`.
    """
    task = trial.task
    places: list[_Place] = []

    def place(d_in: int, d_out: int) -> _Place:
        places.append(_Place(d_in, d_out))
        return places[-1]

    network, rows = task.build(place, trial.seed), len(data.x_train)
    x, _ = task.augment(
        data.x_train[: task.batch_size], data.y_train[: task.batch_size], torch.Generator().manual_seed(0)
    )
    with lent_generators():
        network(x)
        training = [(one.rows, one.wants_grad_x) for one in places]
        network.eval()(data.x_test[:1])
    schedule = _Schedule(task.steps(rows), task.segment(rows))
    rule = trial.method.rule(trial.model(), torch.Generator().manual_seed(0))
    for one, (rows, wants) in zip(places, training, strict=True):
        one.test_rows, one.rows, one.wants_grad_x = len(data.x_test) * one.rows, rows, wants and rule.through_devices
    priced = []
    for index, found in enumerate(places):
        layer = trial.layer(found.d_in, found.d_out, index)
        by_loss = rule.passes() > 1
        cost = _asked_by_loss(layer, found, schedule, rule.passes()) if by_loss else _layer(layer, found, schedule)
        priced.append((cost, moves_theta(layer)))
    return Bill.of(priced, schedule.steps)


@dataclass(frozen=True)
class _Schedule:
    steps: int
    segment: int  # steps between two evaluations

    def segments(self) -> list[int]:
        """The steps of each segment."""
        whole, rest = divmod(self.steps, self.segment)
        return [self.segment] * whole + [rest] * (rest > 0)


class _Place(nn.Module):
    """A stand-in for a device that records how many rows arrive and whether their gradient is needed."""

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        self.d_in, self.d_out = d_in, d_out
        self.gain = nn.Parameter(torch.ones(()))  # as in a physical layer, so that the layers after it need a gradient
        self.rows, self.test_rows, self.wants_grad_x = 0, 0, False

    def forward(self, x: Tensor) -> Tensor:
        self.rows, self.wants_grad_x = math.prod(x.shape[:-1]), x.requires_grad
        return self.gain * x.new_zeros(*x.shape[:-1], self.d_out)


def _layer(layer: PhysicalLayer, place: _Place, schedule: _Schedule) -> Ledger:
    trained = moves_theta(layer)
    pulsed = isinstance(layer.estimator, PulsedUpdate)
    updates = min(schedule.steps, PRICED) if pulsed else 1
    parameter = _parameter_steps(layer, place, updates) if layer.theta.requires_grad else Ledger()
    asks = parameter.programmings[Purpose.PARAMETER] if pulsed else parameter.total_programmings
    walk = _Walk(layer, place, trained, asks=asks > 0)
    segments = [dry_run(lambda steps=steps: walk.segment(steps), layer.device) for steps in schedule.segments()]
    spent = Count()
    for ledger, times in ((parameter, schedule.steps), *((segment, updates) for segment in segments)):
        # A walk only marks where the parameter procedure would leave the device. That procedure is priced separately.
        skipped = Purpose.FORWARD if ledger is parameter else Purpose.PARAMETER
        for purpose in set(Purpose) - {skipped}:
            spent.rows[purpose] += times * ledger.rows[purpose] // updates
            spent.programmings[purpose] += times * ledger.programmings[purpose] // updates
        spent.actions.update({name: times * n // updates for name, n in ledger.actions.items()})
    return _booked(layer, spent)


def _asked_by_loss(layer: PhysicalLayer, place: _Place, schedule: _Schedule, passes: int) -> Ledger:
    """Return the queries of a method that estimates gradients from losses: each pass of a step has its own setting."""
    spent, segments = Count(), len(schedule.segments())
    spent.rows = Counter(
        {Purpose.FORWARD: schedule.steps * passes * place.rows, Purpose.EVALUATE: segments * place.test_rows}
    )
    spent.programmings = Counter({Purpose.FORWARD: schedule.steps * passes, Purpose.EVALUATE: segments})
    return _booked(layer, spent)


def _booked(layer: PhysicalLayer, spent: Count) -> Ledger:
    total = Ledger()
    total.add(spent, layer.device.declaration.costs(spent))
    return total


def _parameter_steps(layer: PhysicalLayer, place: _Place, steps: int) -> Ledger:
    """Return the queries of the parameter procedure of so many steps, each on a device that was just read."""
    generator = torch.Generator().manual_seed(0)
    x, y, grad_y = (
        torch.randn(place.rows, width, generator=generator) for width in (place.d_in, place.d_out, place.d_out)
    )
    theta, spec, estimator = layer.theta.detach(), layer.device.declaration, layer.estimator
    x = within(spec, x)

    def walk() -> Procedure[None]:
        for _ in range(steps):
            yield from ask(Query(x, theta, Purpose.FORWARD))
            if isinstance(estimator, PulsedUpdate):
                if place.wants_grad_x and layer.surrogate.asks:
                    yield from layer.surrogate.read_grad_x(x, grad_y, theta)
                yield from estimator.update(x, PULSED_ERROR * grad_y, PULSED_RATE, theta, spec, generator)
            else:
                yield from estimator.grad_theta(x, theta, y, grad_y, spec, generator)

    with torch.no_grad():
        return dry_run(walk, layer.device)


class _Walk:
    """A layer's forward passes and the updates of its surrogate, with θ alternating between two settings."""

    def __init__(self, layer: PhysicalLayer, place: _Place, trained: bool, asks: bool) -> None:
        spec, theta = layer.device.theta, layer.theta.detach()
        self.spec = layer.device.declaration
        self.surrogate, self.place, self.asks = layer.surrogate, place, asks
        self.here = spec.clamp(theta - _NUDGE)
        self.there = spec.clamp(theta + _NUDGE) if trained else self.here
        self.perturbed = (self.here + self.there) / 2
        self.generator = torch.Generator().manual_seed(0)
        self.follows = place.wants_grad_x or (trained and layer.estimator.reads is not None)
        self.tracked: Tensor | None = None

    def segment(self, steps: int) -> Procedure[None]:
        x = within(self.spec, torch.randn(self.place.rows, self.place.d_in, generator=self.generator))
        for _ in range(steps):
            query = Query(x, self.here, Purpose.FORWARD)
            if self.tracked is None:  # in the order of a layer
                yield from ask(query)
                yield from self._follow()
            else:
                yield from reading_first(query, self._follow())
            if self.asks:
                yield from ask(Query(x[:1], self.perturbed, Purpose.PARAMETER))
            self.here, self.there = self.there, self.here
        yield from ask(Query(x[:1].expand(self.place.test_rows, -1), self.here, Purpose.EVALUATE))

    def _follow(self) -> Procedure[None]:
        if not self.follows or self.tracked is self.here:
            return
        if self.tracked is None:
            yield from self.surrogate.start(self.here, self.generator)
        else:
            yield from self.surrogate.track(self.tracked, self.here, self.generator)
        self.tracked = self.here
