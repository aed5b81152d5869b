"""Nothing outside its limits reaches a device, and nobody leaves it where it should not stay."""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby
from types import TracebackType
from typing import NoReturn, Self

import torch
from torch import Tensor

from blackprop.declaration import ThetaSpec
from blackprop.devices import Device
from blackprop.errors import ArgumentError, DeviceError, InterlockError, LimitError, ShapeError
from blackprop.lab.parking import Stand
from blackprop.lab.transparent import NOT_ASKED, Asked, Transparent
from blackprop.ledger import check_queries
from blackprop.query import Count, Purpose, Query

Limit = float | Tensor | None
Interlock = Callable[[Tensor, Tensor], str | bool | None]


class Guarded(Transparent):
    """Stands before a device: what it is asked is checked as a whole before any of it is written.

    **Limits.** θ must be finite and within the device's limits and within `low` and `high` (numbers or (P,), inclusive;
    the tighter one counts, and is declared, so that training stays within it), rows finite and of the right shape:
    else `LimitError` or `ShapeError`, and nothing was written.

    **Slew.** One programming moves no parameter by more than `slew` (θ's units): a longer way is written in equal,
    straight steps, also where θ has a period. Each is booked in `repeated()`. A device whose place is unknown, as at
    the start, goes to `park` first, or straight to θ where there is none; after a failed write the last step is written
    again, for it may not have arrived. Rounds are then sent one setting at a time.

    **Rate.** `rows_per_second`: a round is sent once the ones before it are paid for; it waits, and drops nothing.

    **Interlock.** `interlock(theta, x)` is asked for every query (without rows: for a step, or `program`) and returns
    None or True where it agrees. A reason, False, or an exception is a veto: nothing is written, the device is parked,
    and `InterlockError` is raised, now and at every further question until `reset()`.

    **Parking.** `park` (P,) is written by `park()` and `close()`, after any exception from the device, at the end of a
    `with` block, when the guard is dropped, and when the interpreter ends in order or by an exception; a process that
    is killed parks nothing. Where that fails, `DeviceError` names both. Parking is booked as `CALIBRATE`; afterwards
    `programmed` is forgotten. Put what asks again (`Retrying`) inside the guard, or every failure parks the device.
    """

    def __init__(
        self,
        device: Device,
        *,
        low: Limit = None,
        high: Limit = None,
        slew: float | None = None,
        rows_per_second: float | None = None,
        interlock: Interlock | None = None,
        park: Tensor | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        super().__init__(device)
        for name, value in (("slew", slew), ("rows_per_second", rows_per_second)):
            if value is not None and not 0 < value < math.inf:
                raise ArgumentError(f"`Guarded({name}=...)` must be positive and finite, got {value}")
        self.theta = _tightened(device.theta, low, high)
        self._stand = Stand(device, self._checked_park(park), slew)
        self._slew, self._rate, self._interlock = slew, rows_per_second, interlock
        self._clock, self._sleep = clock, sleep
        self._paid_at = -math.inf  # when the rows sent so far are paid for
        self.closed: str | None = None  # the reason of a veto, until `reset()`
        # Runs once: when the guard is dropped, or when the interpreter ends.
        self._finalizer = weakref.finalize(self, self._stand.leave_if_used)

    def _checked_park(self, park: Tensor | None) -> Tensor | None:
        if park is None:
            return None
        try:
            park = torch.as_tensor(park, dtype=torch.get_default_dtype()).detach().clone()
            self.theta.check(park)
        except (LimitError, ShapeError, TypeError, ValueError) as error:
            raise ArgumentError(f"`Guarded(park=...)` must be a setting that the device may take: {error}") from error
        return park

    def measure(self, queries: list[Query], /) -> list[Tensor]:
        self._check_open()
        self._check(queries)
        self._ask_interlock(queries)
        if self._slew is not None:
            return self._step_by_step(queries)
        self._wait(sum(len(query.x) for query in queries))
        with self._parked_on_failure(queries[-1].theta if queries else None):
            return self.device.measure(queries)

    def _step_by_step(self, queries: list[Query]) -> list[Tensor]:
        held, asked, readings = self.programmed, list[Asked](), []
        try:
            for _, same in groupby(queries, key=lambda query: id(query.theta)):
                run = list(same)
                theta = run[0].theta
                self._wait(sum(len(query.x) for query in run))
                with self._parked_on_failure(None):
                    for step in self._stand.way(self._stand.at, theta):
                        self._stand.write(step, run[0].purpose)
                with self._parked_on_failure(theta):
                    readings += self._asked(run, asked)
        except NOT_ASKED as error:
            if not asked:
                raise
            raise TimeoutError(f"{self.device} was measured at {len(asked)} settings of a round: {error}") from error
        finally:
            if asked:
                self._book((queries, held), asked)
        return readings

    def program(self, theta: Tensor, /) -> None:
        self._check_open()
        self.theta.check(theta)
        rows = theta.new_zeros(0, *self.in_shape)
        self._ask_interlock([Query(rows, theta, Purpose.CALIBRATE)])
        with self._parked_on_failure(None):
            for step in self._stand.way(self._stand.at, theta):
                self._stand.write(step, Purpose.CALIBRATE)
        with self._parked_on_failure(theta):
            super().program(theta)

    def read(self, x: Tensor, /) -> Tensor:
        self._check_open()
        if self._stand.at is None or self._stand.parked:
            raise ArgumentError(f"{self} must be programmed before it is read")
        queries = [Query(x, self._stand.at, Purpose.CALIBRATE)]
        self._check(queries)
        self._ask_interlock(queries)
        self._wait(len(x))
        with self._parked_on_failure(None):
            return self.device.read(x)

    def park(self) -> None:
        """Write the parking setting, if there is one and the device is not there already."""
        self._stand.leave()

    def close(self) -> None:
        self.park()

    def reset(self) -> None:
        """Open again after a veto."""
        self.closed = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del kind, trace
        self._park_after(error)

    def repeated(self) -> Count:
        self._again.add(self._stand.steps)
        self._stand.steps = Count()
        return super().repeated()

    def _check_open(self) -> None:
        if self.closed is not None:
            raise InterlockError(f"{self.device} is stopped until `reset()`: {self.closed}")

    def _check(self, queries: list[Query]) -> None:
        """Look at everything at once; what is not clearly right is looked at one by one, for the driver's words."""
        if not self._clearly_right(queries):
            check_queries(self.declaration, queries)

    def _clearly_right(self, queries: list[Query]) -> bool:
        settings = list({id(query.theta): query.theta for query in queries}.values())
        rows = {id(query.x): query.x for query in queries}.values()
        if any(theta.shape != (self.theta.size,) or theta.dtype != settings[0].dtype for theta in settings):
            return False
        if any(x.dim() == 0 or tuple(x.shape[1:]) != self.in_shape for x in rows) or not settings:
            return False
        stacked = torch.stack(settings) if len(settings) > 1 else settings[0]
        low, high = self.theta.bounds(stacked)
        # NaN is the smallest and the largest of all, and neither comparison holds for it.
        ends = stacked.aminmax() if low.dim() == high.dim() == 0 else (stacked, stacked)
        fine = [(ends[0] >= low).all(), (ends[1] <= high).all(), stacked.sum().isfinite()]
        return bool(torch.stack([*fine, *(x.sum().isfinite().to(stacked.device) for x in rows)]).all())

    def _ask_interlock(self, queries: list[Query]) -> None:
        if self._interlock is None:
            return
        at = self._stand.at
        for query in queries:
            for step in self._stand.way(at, query.theta):
                self._ask(step, query.x[:0])
            self._ask(query.theta, query.x)
            at = query.theta

    def _ask(self, theta: Tensor, x: Tensor) -> None:
        assert self._interlock is not None
        try:
            verdict = self._interlock(theta, x)
        except Exception as error:  # what cannot say yes says no
            verdict = f"the interlock failed: {error!r}"
        if verdict is not None and verdict is not True:
            self._stop(verdict if isinstance(verdict, str) and verdict else "the interlock gave no reason")

    def _stop(self, reason: str) -> NoReturn:
        self.closed = reason
        error = InterlockError(f"the interlock of {self.device} forbids it: {reason}; stopped until `reset()`")
        self._park_after(error)
        raise error

    def _wait(self, rows: int) -> None:
        if self._rate is None:
            return
        while (left := self._paid_at - self._clock()) > 1e-9:  # what rounding leaves is no time to wait
            self._sleep(left)
        self._paid_at = self._clock() + rows / self._rate

    @contextmanager
    def _parked_on_failure(self, theta: Tensor | None) -> Iterator[None]:
        """Asking the device, which stands at `theta` afterwards (None: where it was told to stand by then)."""
        if theta is not None:
            self._stand.begin(theta)
        try:
            yield
        except BaseException as error:
            self._park_after(error)
            raise
        if theta is not None:
            self._stand.arrived()

    def _park_after(self, error: BaseException | None) -> None:
        try:
            self._stand.leave()
        except DeviceError as failure:
            if error is None:
                raise
            raise DeviceError(f"{failure}; this was to be done after {error!r}") from error


def _tightened(spec: ThetaSpec, low: Limit, high: Limit) -> ThetaSpec:
    """The limits of both, and what the device starts from moved into them."""
    if low is None and high is None:
        return spec
    try:
        ThetaSpec(spec.size, low=low, high=high)  # each is right for itself
        limits = {"low": _tighter(spec.low, low, spec.size, max), "high": _tighter(spec.high, high, spec.size, min)}
        tight = replace(spec, **limits, initial=None)
    except ArgumentError as error:
        raise ArgumentError(
            f"`Guarded(low=..., high=...)` must leave every parameter a range within the device's own: {error}"
        ) from error
    return (
        tight if spec.initial is None else replace(tight, initial=lambda generator: tight.clamp(spec.draw(generator)))
    )


def _tighter(own: Limit, other: Limit, size: int, pick: Callable[[float, float], float]) -> Limit:
    if own is None or other is None:
        return other if own is None else own
    if not isinstance(own, Tensor) and not isinstance(other, Tensor):
        return pick(own, other)
    both = [torch.as_tensor(limit, dtype=torch.get_default_dtype()).expand(size) for limit in (own, other)]
    return torch.stack(both).amax(0) if pick is max else torch.stack(both).amin(0)
