"""Procedures yield rounds of queries and are sent the readings; one driver runs them."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from blackprop.core._query import Query, same_setting
from blackprop.errors import BudgetExhausted

T = TypeVar("T")

# A round holds its settings and readings in memory; long ones are split so that neither passes this.
ROUND_BYTES = 64 * 2**20

Measure = Callable[[Sequence[Query]], list[Tensor]]
Procedure = Generator[Sequence[Query], list[Tensor], T]


def run(procedure: Procedure[T], measure: Measure) -> T:
    """Run `procedure`, serve each round that it yields with `measure`, and return its result.

    A round is a list of queries or a `Round`. Its server may batch, split or share it; the readings come back in the
    order of the queries. `BudgetExhausted` is raised inside the procedure, which may go on without that round.
    """
    try:
        queries = next(procedure)
        while True:
            try:
                readings = measure(queries)
            except BudgetExhausted as error:
                queries = procedure.throw(error)  # the round was not measured; a procedure may continue without it
            else:
                queries = procedure.send(readings)
    except StopIteration as stop:
        return stop.value


def ask(*queries: Query) -> Procedure[list[Tensor]]:
    """Measure one round of these queries and return their readings."""
    return (yield list(queries))


def read(query: Query) -> Procedure[Tensor]:
    """Measure one query and return its reading."""
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
            waiting.append((number, query if x is query.x else replace(query, x=x)))
            held += size
    if waiting:
        _deal(waiting, (yield [part for _, part in waiting]), found)
    return [some[0] if len(some) == 1 else torch.cat(some) for some in found]


def _deal(asked: list[tuple[int, Query]], readings: list[Tensor], found: list[list[Tensor]]) -> None:
    for (number, _), y in zip(asked, readings, strict=True):
        found[number].append(y)


def reading_first(query: Query, procedure: Procedure[object]) -> Procedure[Tensor]:
    """Run `procedure` and read `query` on the way, just before the first of its queries at the same setting.

    One programming then serves both. If `procedure` makes no query at that setting, `query` is read at the end.
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
