"""Whoever wants a measurement asks for it: queries, the procedures that yield them, and the one driver that runs
them.
"""

from __future__ import annotations

import enum
import math
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from blackprop.errors import BudgetExhausted

T = TypeVar("T")

# A round of queries holds its settings and readings in memory; long ones are split so that neither passes this.
ROUND_BYTES = 64 * 2**20


class Purpose(enum.Enum):
    """What a query is for; the ledger counts by it."""

    FORWARD = "forward"
    PARAMETER = "parameter"
    SURROGATE = "surrogate"
    EVALUATE = "evaluate"
    CALIBRATE = "calibrate"


@dataclass(frozen=True, eq=False)
class Query:
    """The rows `x` measured at the setting `theta`."""

    x: Tensor  # (rows, *in_shape)
    theta: Tensor  # (P,)
    purpose: Purpose


Measure = Callable[[list[Query]], list[Tensor]]
Procedure = Generator[list[Query], list[Tensor], T]


def run(procedure: Procedure[T], measure: Measure) -> T:
    """Run `procedure`, serving each list of queries (a round) with `measure`, and return its result.

    Nothing else in the library measures. A round may be batched, split or shared out by whoever serves it; its outputs
    come back in the order of its queries. `BudgetExhausted` is raised inside the procedure, which may make do without
    that round.
    """
    try:
        queries = next(procedure)
        while True:
            try:
                readings = measure(queries)
            except BudgetExhausted as error:
                queries = procedure.throw(error)  # nothing was asked; a procedure may go on with what it has
            else:
                queries = procedure.send(readings)
    except StopIteration as stop:
        return stop.value


def ask(*queries: Query) -> Procedure[list[Tensor]]:
    """The smallest procedure: one round."""
    return (yield list(queries))


def read(query: Query) -> Procedure[Tensor]:
    """One query: its reading."""
    (reading,) = yield [query]
    return reading


def in_rounds(queries: Iterable[Query], outputs: int) -> Procedure[list[Tensor]]:
    """Read `queries` in order, in as few rounds as hold at most `ROUND_BYTES` of rows, settings and readings each.

    `outputs` is the size of the reading of a row. The rows of a query that no round can hold are read in parts, at the
    one programming.
    """
    found: list[list[Tensor]] = []
    waiting: list[tuple[int, Query]] = []
    held = 0
    for number, query in enumerate(queries):
        found.append([])
        row = query.x.element_size() * (math.prod(query.x.shape[1:]) + outputs)
        setting = query.theta.element_size() * query.theta.numel()
        most = max(1, (ROUND_BYTES - setting) // row)
        for x in [query.x] if len(query.x) <= most else query.x.split(most):
            size = row * len(x) + setting
            if waiting and held + size > ROUND_BYTES:
                _deal(waiting, (yield [part for _, part in waiting]), found)
                waiting, held = [], 0
            waiting.append((number, query if x is query.x else Query(x, query.theta, query.purpose)))
            held += size
    if waiting:
        _deal(waiting, (yield [part for _, part in waiting]), found)
    return [some[0] if len(some) == 1 else torch.cat(some) for some in found]


def _deal(asked: list[tuple[int, Query]], readings: list[Tensor], found: list[list[Tensor]]) -> None:
    for (number, _), y in zip(asked, readings, strict=True):
        found[number].append(y)


def reading_first(query: Query, procedure: Procedure[object]) -> Procedure[Tensor]:
    """Run `procedure` and read `query` on the way, just before the first of its queries at the same setting.

    One programming then serves both. Where `procedure` never asks at that setting, `query` is read at the end.
    Returns the reading; the procedure's own result is dropped.
    """
    reading: Tensor | None = None
    answers: list[Tensor] | BudgetExhausted | None = None
    while True:
        try:
            if isinstance(answers, BudgetExhausted):
                round_ = procedure.throw(answers)
            else:
                round_ = next(procedure) if answers is None else procedure.send(answers)
        except StopIteration:
            break
        at = next((i for i, other in enumerate(round_) if same_setting(other.theta, query.theta)), None)
        try:
            if reading is None and at is not None:
                answers = yield [*round_[:at], query, *round_[at:]]
                reading = answers[at]
                answers = [*answers[:at], *answers[at + 1 :]]
            else:
                answers = yield round_
        except BudgetExhausted as error:
            answers = error
    if reading is None:
        (reading,) = yield [query]
    return reading


def same_setting(a: Tensor | None, b: Tensor) -> bool:
    """Whether a device that holds `a` already holds `b`."""
    if a is None or a is b:
        return a is b
    return (a.shape, a.dtype, a.device) == (b.shape, b.dtype, b.device) and torch.equal(a, b)


@dataclass
class Count:
    """Rows and programmings by purpose."""

    rows: Counter[Purpose] = field(default_factory=Counter)
    programmings: Counter[Purpose] = field(default_factory=Counter)

    def add(self, other: Count) -> None:
        self.rows.update(other.rows)
        self.programmings.update(other.programmings)

    def subtract(self, other: Count) -> None:
        self.rows.subtract(other.rows)
        self.programmings.subtract(other.programmings)

    def entries(self) -> Count:
        """Without those of nothing: ledgers are compared by their entries."""
        return Count(*(Counter({k: n for k, n in counts.items() if n}) for counts in (self.rows, self.programmings)))


def count(queries: Iterable[Query], programmed: Tensor | None, rows_each: int = 1) -> Count:
    """What serving `queries` in order costs a device that now holds `programmed`, and is driven `rows_each` times for
    each of their rows.

    Consecutive queries at one setting are one programming, booked under the purpose of the first.
    """
    total = Count()
    for query in queries:
        if not same_setting(programmed, query.theta):
            total.programmings[query.purpose] += 1
            programmed = query.theta
        total.rows[query.purpose] += rows_each * len(query.x)
    return total
