"""The driver: checks a round, counts it, reserves its budget, measures it, and checks its readings."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from blackprop.core._budget import Budget
from blackprop.core._declaration import Declaration
from blackprop.core._ledger import Ledger
from blackprop.core._procedure import Measure, Procedure, run
from blackprop.core._query import Count, Query
from blackprop.core._round import KIND, SIZE, Round
from blackprop.core._stacking import all_finite, equal
from blackprop.errors import ReadingError

T = TypeVar("T")


class Measurable(Protocol):
    """The part of a device that the driver uses."""

    @property
    def declaration(self) -> Declaration: ...
    @property
    def programmed(self) -> Tensor | None: ...
    def measure(self, queries: Sequence[Query], /) -> list[Tensor]: ...
    def repeated(self) -> Count: ...


def metered(device: Measurable, ledger: Ledger, budget: Budget | None = None) -> Measure:
    """Return the function that measures rounds on `device`, books them, and checks rounds and readings.

    The whole round is checked (`Round.check`) and reserved in the budget before the device is used. Afterwards every
    reading must be finite and have the shape, dtype and device expected. The device receives copies of the rows,
    contiguous and without autograd. It must not write into them, because several queries may share them.

    If the device raises in the middle of a round, the ledger contains the whole round, because the measured part is
    unknown. Repetitions by the device (`repeated`) are booked after the round, even beyond the budget.

    - `device`: the device, a `Device` or any object with the methods of `Measurable`.
    - `ledger`: counts the rounds.
    - `budget` (default None, no limit): limits them.

    **Raises**, when called, `ShapeError`, `LimitError`, `IncompatibleError` or `BudgetExhausted` before a measurement,
    `ReadingError` after one.
    """
    return partial(measure, device, ledger, budget)


def measure(device: Measurable, ledger: Ledger, budget: Budget | None, queries: Sequence[Query]) -> list[Tensor]:
    """Measure one round on `device`; see `metered`."""
    spec = device.declaration
    asked = Round.of(queries, spec)
    asked.check(spec)
    spent = asked.spending(device.programmed, spec.rows_each, spec)
    costs = spec.costs(spent)
    if budget is not None:
        budget.reserve(spent, costs)
    ledger.add(spent, costs)
    sent = asked.copy()
    began = time.perf_counter()
    try:
        with torch.no_grad():
            readings = device.measure(sent)
    finally:
        took = time.perf_counter() - began if not spec.cost.timed else 0.0
        ledger.measured_seconds += took
        if budget is not None and budget.limits["seconds"] is not None:
            budget.spend(Count(), {"seconds": took})
        again = device.repeated()
        if again:
            costs = spec.costs(again)
            if budget is not None:
                budget.spend(again, costs)
            ledger.add(again, costs)
    if not all(map(equal, sent.parts, asked.parts)):
        raise ReadingError(
            f"a device leaves the rows as sent, and {spec.name} has written into them; work on a copy, as `x.clone()`"
        )
    _check_readings(spec, asked, readings)
    return readings


def price(procedure_factory: Callable[[], Procedure[Any]], device: Measurable) -> Ledger:
    """Return the price of a procedure on `device`, from a dry run without measurements.

    The procedure receives normal random numbers as readings. If its queries depend on its readings, the price is that
    for such readings.

    - `procedure_factory`: makes the procedure, as `lambda: estimator.grad_theta(...)`. Give it its own generator:
      the dry run draws from it. If the procedure changes an object, as a surrogate's does, give it a copy:
      `lambda: copy.deepcopy(surrogate).track(...)`.
    - `device`: is not used, except for its declaration and its setting.
    """
    dry = _Dry(device)
    ledger = Ledger()
    run(procedure_factory(), metered(dry, ledger))
    return ledger


class _Dry:
    """A device that returns random readings at no cost."""

    def __init__(self, device: Measurable) -> None:
        self.declaration = device.declaration
        self.programmed = device.programmed
        self._generator = torch.Generator().manual_seed(0)

    def repeated(self) -> Count:
        return Count()

    def measure(self, queries: Sequence[Query]) -> list[Tensor]:
        spec, self.programmed = self.declaration, queries[-1].theta if queries else self.programmed
        shapes = [spec.reading_shape(query.capability) for query in queries]
        return [
            torch.randn(len(q.x), *shape, generator=self._generator).to(q.x)
            for q, shape in zip(queries, shapes, strict=True)
        ]


def _check_readings(spec: Declaration, asked: Round, readings: list[Tensor]) -> None:
    if len(readings) != len(asked.table):
        raise ReadingError(f"{spec.name} answered {len(readings)} of {len(asked)} queries")
    for number, (size, kind, y) in enumerate(zip(asked.table[:, SIZE], asked.table[:, KIND], readings, strict=True)):
        part, capability = asked.parts[kind], asked.kinds[kind]
        expected = (int(size), *(spec.out_shape if capability is None else spec.reading_shape(capability)))
        if isinstance(y, Tensor) and (y.shape, y.dtype, y.device) == (expected, part.dtype, part.device):
            continue
        query = asked[number]
        what = f"the {query.purpose.value} query to {spec.name}"
        if not isinstance(y, Tensor):
            raise ReadingError(f"{what} returned {type(y).__name__}, expected a tensor of shape {expected}")
        if tuple(y.shape) != expected:
            raise ReadingError(f"{what} returned shape {tuple(y.shape)}, expected {expected}")
        if y.dtype != query.x.dtype:
            raise ReadingError(f"{what} returned {y.dtype}, expected the dtype of the rows, {query.x.dtype}")
        if y.device != query.x.device:
            raise ReadingError(f"{what} returned a tensor on {y.device}, expected the rows' own, {query.x.device}")
    if all_finite(readings):
        return
    for query, y in zip(asked, readings, strict=True):
        bad = (~y.isfinite()).flatten(1).any(1).nonzero()
        if len(bad):
            raise ReadingError(
                f"the {query.purpose.value} query to {spec.name} returned a value that is not finite, "
                f"first in row {int(bad[0])} of {len(y)}"
            )
