"""One device of a farm: its worker thread, its health, and the query by which it is known again."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from blackprop.core._declaration import Cost
from blackprop.core._ledger import Ledger
from blackprop.core._metered import metered
from blackprop.core._procedure import Measure, ask, run
from blackprop.core._query import Purpose, Query
from blackprop.devices._base import Device
from blackprop.errors import DeviceError, ReadingError
from blackprop.lab.farm._cross_calibration import corrected, disagreement

T = TypeVar("T")
FAULTS = (DeviceError, ReadingError, OSError)  # faults of a device, in contrast to wrong queries
LONGEST = 300.0  # s, between two trials of a device that is out
KNOWN = 8  # rows of its last good answer that a device is tried with


@dataclass(frozen=True)
class Health:
    """The state of a member of a farm."""

    name: str
    in_service: bool
    reason: str
    """Why it is out; empty while it serves."""
    rounds: int
    """Rounds it had a share of and answered."""
    rows: int
    """Rows it was asked, trials and failures among them."""
    programmings: int
    faults: int
    """Rounds and trials it failed."""
    retry_in: float | None
    """Seconds until it is tried again; None while it serves, and where only `Farm.calibrate` brings it back."""


class Member:
    """A device that is used in its own thread alone, with a ledger of its queries."""

    def __init__(self, device: Device, tolerance: float, backoff: float, clock: Callable[[], float]) -> None:
        self.device, self.tolerance, self.backoff, self.clock = device, tolerance, backoff, clock
        self.cost: Cost = device.cost
        self.ledger = Ledger()
        self.correction: Tensor | None = None
        self.reason = ""  # why it is out
        self.disagrees = False  # out until it is calibrated
        self.rounds = self.faults = 0
        self.trial: Future[str] | None = None
        self.stale = False  # whether its setting is unknown, because it may have been switched off
        self._strikes, self._due = 0, math.inf
        self._known: tuple[Query, Tensor | None] | None = None
        self._measure = metered(device, self.ledger)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix=f"farm {device}")

    def do(self, work: Callable[[], T]) -> Future[T]:
        """`work` in the member's own thread."""
        return self._worker.submit(work)

    def serve(self, queries: Sequence[Query]) -> Future[list[Tensor]]:
        """Checked readings, as the device gives them."""
        return self.do(lambda: self.asked(queries, self._measure))

    def asked(self, queries: Sequence[Query], measure: Measure) -> list[Tensor]:
        """In the member's thread."""
        if self.stale:
            self.device.forget()
            self.stale = False
        return run(ask(*queries), measure)

    @property
    def held(self) -> Tensor | None:
        """The setting that it is known to hold."""
        return None if self.stale else self.device.programmed

    @property
    def in_service(self) -> bool:
        return not self.reason

    def answered(self, queries: Sequence[Query], readings: list[Tensor]) -> list[Tensor]:
        """Return the corrected readings, and keep one query with its reading for later trials."""
        self.rounds += 1
        self._strikes = 0
        at = next((i for i, query in enumerate(queries) if len(query.x)), None)
        if at is not None:
            self._known = _small(queries[at]), readings[at][:KNOWN].clone()
        return [corrected(y, self.correction) for y in readings]

    def failed(self, reason: str, query: Query | None = None) -> None:
        """Take it out, and plan when to try again: after `backoff` s, and twice as long each time it fails again."""
        self.faults += 1
        self._strikes += 1
        self.reason, self.stale = reason, True
        wait = min(LONGEST, self.backoff * 2.0 ** min(self._strikes - 1, 60))
        self._due = math.inf if self.disagrees else self.clock() + wait
        if self._known is None and query is not None:
            self._known = _small(query), None

    def refuse(self, reason: str) -> None:
        """Take it out until it is calibrated again."""
        self.reason, self.disagrees, self._due = reason, True, math.inf

    def accept(self, correction: Tensor | None) -> None:
        """It serves, corrected so."""
        self.reason, self.disagrees, self.correction = "", False, correction

    def try_again(self) -> None:
        """Begin a trial where it is time for one; it goes on beside the rounds of the others."""
        if self.reason and self.trial is None and self.clock() >= self._due:
            self.trial = self.do(self._tried)

    def conclude(self) -> None:
        """Take the outcome of the trial, waiting for it: back in service, or out for longer."""
        if self.trial is None:
            return
        fault, self.trial = self.trial.result(), None
        if fault:
            self.failed(fault)
        else:
            self.reason = ""

    def allowed(self) -> float:
        """How far two answers to one query may lie apart, over their size: the tolerance, and the declared noise."""
        return self.tolerance + 2 * self.device.noise

    def health(self) -> Health:
        waits = None if self.in_service or self.disagrees else max(0.0, self._due - self.clock())
        spent = self.ledger.total_rows, self.ledger.total_programmings
        return Health(str(self.device), self.in_service, self.reason, self.rounds, *spent, self.faults, waits)

    def state(self) -> Any:
        return self.do(self.device.state_dict).result()

    def close(self) -> None:
        """Close the device, where it can be closed, and end the thread."""
        try:
            if callable(close := getattr(self.device, "close", None)):
                self.do(close).result()
        finally:
            self._worker.shutdown()

    def _tried(self) -> str:
        """Return the fault of its answer to the known query; empty if it agrees with the earlier one."""
        if self._known is None:
            return ""
        query, before = self._known
        try:
            (y,) = self.asked([query], self._measure)
        except FAULTS as error:
            return told(error)
        if before is None or (apart := disagreement(y, before)) <= self.allowed():
            return ""
        return f"its answer to the last query it served now differs by {apart:.2g} (allowed {self.allowed():.2g})"


def told(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _small(query: Query) -> Query:
    """Copy a few rows of the query."""
    with torch.no_grad():
        return Query(query.x[:KNOWN].clone(), query.theta.clone(), Purpose.CALIBRATE, query.capability)
