"""What was asked of a device: the ledger that counts it, the budget that stops it, and the price known beforehand."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from blackprop.core._declaration import Cost, Declaration
from blackprop.core._query import Count, Measure, Procedure, Purpose, Query, count, run
from blackprop.errors import ArgumentError, BudgetExhausted, LimitError, ReadingError, ShapeError

T = TypeVar("T")

ROUNDING = 1e-12  # of a limit: what sums of seconds may be off by, since 3 · 0.1 s is not 0.3 s in floating point


class Measurable(Protocol):
    """What the driver needs of a device."""

    @property
    def declaration(self) -> Declaration: ...
    @property
    def programmed(self) -> Tensor | None: ...
    def measure(self, queries: list[Query], /) -> list[Tensor]: ...
    def repeated(self) -> Count: ...


class Ledger:
    """Rows and programmings by purpose, and the lab time they stand for.

    `rows[purpose]` and `programmings[purpose]` are zero for a purpose that was never asked. `lab_seconds` is the sum of
    `rows · cost.row + programmings · cost.programming` over the devices it has counted. `measured_seconds` is the time
    by the clock, in this process, in which devices that declare no cost were asked; it differs from run to run, so it
    is neither saved nor compared.
    """

    def __init__(self) -> None:
        self.rows: Counter[Purpose] = Counter()
        self.programmings: Counter[Purpose] = Counter()
        self.lab_seconds: float = 0.0
        self.measured_seconds: float = 0.0

    @property
    def total_rows(self) -> int:
        return sum(self.rows.values())

    @property
    def total_programmings(self) -> int:
        return sum(self.programmings.values())

    def add(self, spent: Count, seconds: float) -> None:
        self.rows.update(spent.rows)
        self.programmings.update(spent.programmings)
        self.lab_seconds += seconds

    @classmethod
    def sum(cls, ledgers: Iterable[Ledger]) -> Ledger:
        total = cls()
        for ledger in ledgers:
            total.rows.update(ledger.rows)
            total.programmings.update(ledger.programmings)
            total.lab_seconds += ledger.lab_seconds
            total.measured_seconds += ledger.measured_seconds
        return total

    def times(self, count: int) -> Ledger:
        """The ledger of so many runs of what this one has counted."""
        total = Ledger()
        total.rows.update({purpose: count * n for purpose, n in self.rows.items()})
        total.programmings.update({purpose: count * n for purpose, n in self.programmings.items()})
        total.lab_seconds = count * self.lab_seconds
        total.measured_seconds = count * self.measured_seconds
        return total

    def state_dict(self) -> dict[str, Any]:
        return {
            "rows": {purpose.value: n for purpose, n in self.rows.items() if n},
            "programmings": {purpose.value: n for purpose, n in self.programmings.items() if n},
            "lab_seconds": self.lab_seconds,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.rows = Counter({Purpose(name): n for name, n in state["rows"].items()})
        self.programmings = Counter({Purpose(name): n for name, n in state["programmings"].items()})
        self.lab_seconds = float(state["lab_seconds"])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ledger) and self.state_dict() == other.state_dict()

    __hash__ = None  # pyright: ignore[reportAssignmentType]  (it changes as it counts)

    def __repr__(self) -> str:
        asked = [p for p in Purpose if self.rows[p] or self.programmings[p]]
        lines = [f"{'':12}{'rows':>14}{'programmings':>16}"]
        lines += [f"{p.value:12}{self.rows[p]:>14,}{self.programmings[p]:>16,}" for p in asked]
        lines += [f"{'total':12}{self.total_rows:>14,}{self.total_programmings:>16,}"]
        if self.lab_seconds or not self.measured_seconds:
            lines += [f"estimated lab time {_duration(self.lab_seconds)}"]
        if self.measured_seconds:
            lines += [f"measured lab time {_duration(self.measured_seconds)} (no cost is declared)"]
        return "\n".join(lines)


class Budget:
    """The most that may be asked: rows, programmings, lab seconds; None for no limit.

    Lab seconds are those that the devices' `Cost` lets expect; of a device that declares none they are measured by the
    clock and booked after each round, so that the round that passes the limit is the last.

    One budget given to several layers is shared by them. A round of queries that would exceed it raises
    `BudgetExhausted` before any of it is measured.
    """

    def __init__(self, rows: int | None = None, programmings: int | None = None, seconds: float | None = None) -> None:
        self.limits = {"rows": rows, "programmings": programmings, "seconds": seconds}
        self.spent = {"rows": 0, "programmings": 0, "seconds": 0.0}
        for name, limit in self.limits.items():
            if limit is not None and not limit >= 0:
                raise ArgumentError(f"`Budget({name}=...)` must not be negative, got {limit}")

    def reserve(self, rows: int, programmings: int, seconds: float) -> None:
        """Book what a round will cost, or raise and book nothing."""
        wanted = {"rows": rows, "programmings": programmings, "seconds": seconds}
        for name, limit in self.limits.items():
            if limit is not None and self.spent[name] + wanted[name] > limit * (1 + ROUNDING):
                raise BudgetExhausted(
                    f"{self.spent[name]:,} of {limit:,} {name} are spent and the next round of queries wants "
                    f"{wanted[name]:,}; nothing of it was measured"
                )
        self.spend(rows, programmings, seconds)

    def spend(self, rows: int, programmings: int, seconds: float) -> None:
        """Book what has been spent already."""
        for name, more in (("rows", rows), ("programmings", programmings), ("seconds", seconds)):
            self.spent[name] += more

    def __deepcopy__(self, memo: dict[int, Any]) -> Budget:
        """A copied model spends from the same budget, for it speaks to the same device."""
        del memo
        return self

    def state_dict(self) -> dict[str, Any]:
        return {"spent": dict(self.spent)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.spent = {name: type(old)(state["spent"][name]) for name, old in self.spent.items()}

    def __repr__(self) -> str:
        limits = [f"{name} {self.spent[name]:,} of {v:,}" for name, v in self.limits.items() if v is not None]
        return f"Budget({', '.join(limits) or 'no limit'})"


def metered(device: Measurable, ledger: Ledger, budget: Budget | None = None) -> Measure:
    """The way to a device: what is asked is checked and paid for, and what comes back is checked.

    Before the device is touched: every row has the device's input shape, is finite and within the limits of the inputs,
    every setting has its size and is within its limits, and the budget holds. Afterwards: every reading has the right
    shape, dtype and place and is finite. The device is sent copies of the rows, contiguous and without autograd, and
    must leave them as they are, for several queries may share them.

    A device that raises half-way has spent what the ledger then shows: the whole round, since no one can know. What the
    device says it was asked again is booked after the round, even where that passes the budget.
    """
    spec = device.declaration
    timed = spec.cost == Cost()

    def bill(spent: Count) -> tuple[int, int, float]:
        rows, programmings = sum(spent.rows.values()), sum(spent.programmings.values())
        return rows, programmings, rows * spec.cost.row + programmings * spec.cost.programming

    def measure(queries: list[Query]) -> list[Tensor]:
        check_queries(spec, queries)
        spent = count(queries, device.programmed, spec.rows_each)
        due = bill(spent)
        if budget is not None:
            budget.reserve(*due)
        ledger.add(spent, due[-1])
        rows = {id(query.x): _handed_over(query.x) for query in queries}  # many settings share their rows
        sent = [replace(query, x=rows[id(query.x)]) for query in queries]
        began = time.perf_counter()
        try:
            with torch.no_grad():
                readings = device.measure(sent)
        finally:
            seconds = time.perf_counter() - began if timed else 0.0
            ledger.measured_seconds += seconds
            if budget is not None and budget.limits["seconds"] is not None:
                budget.spend(0, 0, seconds)
            again = device.repeated()
            due = bill(again)
            if budget is not None:
                budget.spend(*due)
            ledger.add(again, due[-1])
        for query in queries:
            if (x := rows.pop(id(query.x), None)) is not None and not torch.equal(x, query.x):
                raise ReadingError(
                    f"a device leaves the rows as sent, and {spec.name} has written into them; work on a copy, as "
                    "`x.clone()`"
                )
        _check_readings(spec, queries, readings)
        return readings

    return measure


def price(procedure_factory: Callable[[], Procedure[Any]], device: Measurable) -> Ledger:
    """What a procedure would cost on `device`: a dry run, in which nothing is measured.

    `procedure_factory` makes the procedure, as `lambda: estimator.vjp(...)`; give it a generator of its own, since the
    dry run draws from it, and where the procedure writes down what it learns, as a surrogate's does, a copy:
    `lambda: copy.deepcopy(surrogate).track(...)`. The readings it is sent are normal random numbers, so a procedure
    whose next question depends on the last answer is priced as it would run on such answers.
    """
    dry = _Dry(device)
    ledger = Ledger()
    run(procedure_factory(), metered(dry, ledger))
    return ledger


class _Dry:
    """A device that answers at once and for nothing."""

    def __init__(self, device: Measurable) -> None:
        self.declaration = device.declaration
        self.programmed = device.programmed
        self._generator = torch.Generator().manual_seed(0)

    def repeated(self) -> Count:
        return Count()

    def measure(self, queries: list[Query]) -> list[Tensor]:
        self.programmed = queries[-1].theta if queries else self.programmed
        shape = self.declaration.out_shape
        return [torch.randn(len(q.x), *shape, generator=self._generator).to(q.x) for q in queries]


def check_queries(spec: Declaration, queries: list[Query]) -> None:
    """Raise unless every row and setting of a round may be sent to the device."""
    for query in queries:
        spec.theta.check_shape(query.theta)
        if query.x.dim() == 0 or tuple(query.x.shape[1:]) != spec.in_shape:
            raise ShapeError(f"{spec.name} takes rows of shape {spec.in_shape}, got {tuple(query.x.shape)}")
    rows = {id(query.x): query.x for query in queries}  # many settings share their rows
    settings = [query.theta for query in queries]
    for x in rows.values():
        spec.check_rows(x)
    if spec.theta.limited or not _all_finite([*settings, *rows.values()]):
        for query in queries:
            spec.theta.check(query.theta)
            bad = (~query.x.isfinite()).flatten(1).any(1).nonzero()
            if len(bad):
                raise LimitError(f"row {int(bad[0])} of the {query.purpose.value} query to {spec.name} is not finite")


def _handed_over(x: Tensor) -> Tensor:
    """A copy of rows as any driver can read them: contiguous, nothing pending, no autograd."""
    plain = x.detach().resolve_conj().resolve_neg().contiguous()
    return plain.clone() if plain.data_ptr() == x.data_ptr() else plain


def _check_readings(spec: Declaration, queries: list[Query], readings: list[Tensor]) -> None:
    if len(readings) != len(queries):
        raise ReadingError(f"{spec.name} answered {len(readings)} of {len(queries)} queries")
    for query, y in zip(queries, readings, strict=True):
        what = f"the {query.purpose.value} query to {spec.name}"
        expected = (len(query.x), *spec.out_shape)
        if not isinstance(y, Tensor):
            raise ReadingError(f"{what} returned {type(y).__name__}, expected a tensor of shape {expected}")
        if tuple(y.shape) != expected:
            raise ReadingError(f"{what} returned shape {tuple(y.shape)}, expected {expected}")
        if y.dtype != query.x.dtype:
            raise ReadingError(f"{what} returned {y.dtype}, expected the dtype of the rows, {query.x.dtype}")
        if y.device != query.x.device:
            raise ReadingError(f"{what} returned a tensor on {y.device}, expected the rows' own, {query.x.device}")
    if _all_finite(readings):
        return
    for query, y in zip(queries, readings, strict=True):
        bad = (~y.isfinite()).flatten(1).any(1).nonzero()
        if len(bad):
            raise ReadingError(
                f"the {query.purpose.value} query to {spec.name} returned a value that is not finite, "
                f"first in row {int(bad[0])} of {len(y)}"
            )


def _all_finite(tensors: Iterable[Tensor]) -> bool:
    """A sum is finite only if every term is, and one look serves them all. An overflow says no where all are finite."""
    sums = [t.sum() for t in tensors]
    return not sums or bool(torch.stack(sums).isfinite().all())


def _duration(seconds: float) -> str:
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.3g} s"
