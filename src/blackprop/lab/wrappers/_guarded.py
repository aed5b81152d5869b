"""The guard of a device: limits, slow motion, rate, interlock and parking."""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NoReturn, Self

from torch import Tensor

from blackprop.core._query import Count, Purpose, Query
from blackprop.core._round import Round
from blackprop.core._theta import ThetaSpec
from blackprop.devices import Device, Wrapper
from blackprop.errors import ArgumentError, DeviceError, IncompatibleError, InterlockError
from blackprop.lab.wrappers._limits import Limit, checked_idle, checked_park, tightened
from blackprop.lab.wrappers._pass_through import NOT_ASKED, Asked, PassThrough
from blackprop.lab.wrappers._setpoint import SetpointTracker
from blackprop.lab.wrappers._wear import Wear

Interlock = Callable[[Tensor, Tensor], str | bool | None]


class Guarded(PassThrough):
    """Guards a device: checks a whole round before any part of it is written.

    **Limits.** θ must be finite and within the device's limits and within `low` and `high` (numbers or (P,), inclusive;
    the tighter limit counts, and is declared, so that training stays within it). Rows must be finite and of the right
    shape. Otherwise `LimitError` or `ShapeError` is raised before a write.

    **Slew.** One programming moves no parameter by more than `slew` (θ's units): a longer way is written in equal,
    straight steps, also where θ has a period. Each is booked in `repeated()`. A device whose setting is unknown, as at
    the start, goes to `park` first, or straight to θ without one. After a failed write the last step is written again,
    because it may not have arrived. Rounds are then sent one setting at a time.

    **Rate.** `rows_per_second`: a round waits until the rows before it have had their time; rounds are never dropped.

    **Wear.** `wear`: the pulses that a cell of a pulsed device may have. A round that would give one more is refused
    with `LimitError` before a pulse is sent. Random trains count by their expected pulses, in `worn.pulses` (tiles,
    d_out, d_in), which a checkpoint keeps.

    **Interlock.** `interlock(theta, x)` is called for every query (without rows: for a step, or `program`) and returns
    None or True to agree. A reason, False, or an exception is a veto: the round is not written, the device is parked,
    and `InterlockError` is raised, now and for every later round until `reset()`. With `latch=False` the interlock is
    called again for every later round, and its agreement opens the guard: a served device can then be opened without a
    restart of its server, by the condition that the interlock tests, and never by a client.

    **Parking.** `park` (P,) is written by `park()` and `close()`, after any exception from the device, at the end of a
    `with` block, when the guard is dropped, and when the interpreter ends in order or by an exception. A process that
    is killed cannot park. Then the row `idle` (in_shape) is sent, so that the inputs do not keep their last values; its
    reading is dropped. If either fails, `DeviceError` names both. Parking is booked as `CALIBRATE`; afterwards
    `programmed` is None. Put `Retrying` inside the guard, or every failure parks the device. `close()` and the end of a
    `with` block then close the device too, if it has a `close()` method.

    - `device`: the device to guard.
    - `low`, `high` (default None, no further limit), `slew`, `rows_per_second`, `wear`, `interlock`, `park`, `idle`
      (default None, off), `latch` (default True): as above.
    - `clock`, `sleep` (default those of `time`): return the time in s, and wait for seconds.
    """

    def __init__(
        self,
        device: Device,
        *,
        low: Limit = None,
        high: Limit = None,
        slew: float | None = None,
        rows_per_second: float | None = None,
        wear: float | None = None,
        interlock: Interlock | None = None,
        latch: bool = True,
        park: Tensor | None = None,
        idle: Tensor | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        super().__init__(device)
        if not device.single and (slew is not None or park is not None):
            raise IncompatibleError(
                f"{device} stands for several devices, and a guard around it cannot move or park each of them: guard "
                "the members, as `Farm([Guarded(device, slew=..., park=...) for device in devices])`"
            )
        for name, value in (("slew", slew), ("rows_per_second", rows_per_second)):
            if value is not None and not 0 < value < math.inf:
                raise ArgumentError(f"`Guarded({name}=...)` must be positive and finite, got {value}")
        self.theta: ThetaSpec = tightened(device.theta, low, high)
        self._setpoint = SetpointTracker(
            device, checked_park(self.theta, park), slew, checked_idle(self.in_shape, idle)
        )
        self._slew, self._rate, self._interlock, self._latch = slew, rows_per_second, interlock, latch
        self._clock, self._sleep = clock, sleep
        self.worn: Wear | None = None if wear is None else Wear(device.declaration, wear)
        self._paid_at = -math.inf  # when the rows sent so far are paid for
        self.closed: str | None = None  # the reason of a veto, until it is opened again
        # Runs once: when the guard is dropped, or when the interpreter ends.
        self._finalizer = weakref.finalize(self, self._setpoint.leave_if_used)

    def measure(self, queries: Sequence[Query], /) -> list[Tensor]:
        queries = Round.of(queries, self.declaration)
        self.admit([queries])
        if self.worn is not None:  # of a round that fails, too, since its pulses may have been sent
            self.worn.pulses += self.worn.of([queries])
        if self._slew is not None:
            return self._step_by_step(queries)
        if self._rate is not None:
            self._wait(sum(queries.sizes()))
        return self._measure_at_once(queries)

    def admit(self, parts: Iterable[Round]) -> None:
        """Check a whole round, whose parts are measured one by one afterwards; raises as `measure` does."""
        self._check_open()
        at = self._setpoint.at
        parts = list(parts)
        if self.worn is not None:
            self.worn.check(parts)
        for part in parts:
            part.check(self.declaration)
            at = self._ask_interlock(part, at)

    def _measure_at_once(self, queries: Round) -> list[Tensor]:
        if len(queries):
            self._setpoint.begin(queries.last_setting)
        try:
            readings = self.device.measure(queries)
        except BaseException as error:
            self._park_after(error)
            raise
        if len(queries):
            self._setpoint.arrived(self.device.programmed)
        return readings

    def _step_by_step(self, queries: Round) -> list[Tensor]:
        held, asked, readings = self.programmed, list[Asked](), []
        try:
            for at in queries.runs:
                run, theta = queries.only(at.first, at.last), queries.settings[at.setting]
                self._wait(sum(run.sizes()))
                with self._parked_on_failure(None):
                    for step in self._setpoint.way(self._setpoint.at, theta):
                        self._setpoint.write(step, run[0].purpose)
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
        self._ask_interlock([Query(rows, theta, Purpose.CALIBRATE)], self._setpoint.at)
        with self._parked_on_failure(None):
            for step in self._setpoint.way(self._setpoint.at, theta):
                self._setpoint.write(step, Purpose.CALIBRATE)
        with self._parked_on_failure(theta):
            super().program(theta)

    def read(self, x: Tensor, /) -> Tensor:
        self._check_open()
        if self._setpoint.at is None or self._setpoint.parked:
            raise ArgumentError(f"{self} must be programmed before it is read")
        queries = [Query(x, self._setpoint.at, Purpose.CALIBRATE)]
        self.admit([Round.of(queries, self.declaration)])
        self._wait(len(x))
        with self._parked_on_failure(None):
            return self.device.read(x)

    @property
    def interlocked(self) -> bool:
        """Whether there is an interlock."""
        return self._interlock is not None

    def park(self) -> None:
        """Write the parking setting and send the idle row, where there are any and the device is not parked already."""
        self._setpoint.leave()

    def close(self) -> None:
        """Park, and close the device, or the device that it wraps, if there is a `close()`."""
        try:
            self.park()
        finally:
            _close(self.device)

    def reset(self) -> None:
        """Open again after a veto."""
        self.closed = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del kind, trace
        try:
            self._park_after(error)
        finally:
            _close(self.device)

    def repeated(self) -> Count:
        if self._setpoint.steps.programmings or self._setpoint.steps.rows:
            self._again.add(self._setpoint.steps)
            self._setpoint.steps = Count()
        return super().repeated()

    def state_dict(self) -> dict[str, Any]:
        worn = {} if self.worn is None else {"worn": self.worn.pulses.clone()}
        return {**super().state_dict(), **worn}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        super().load_state_dict(state)
        if self.worn is not None:
            self.worn.load(state["worn"])

    def _check_open(self) -> None:
        if self.closed is not None and self._latch:
            raise InterlockError(f"{self.device} is stopped until `reset()`: {self.closed}")

    def _ask_interlock(self, queries: Sequence[Query], at: Tensor | None) -> Tensor | None:
        """Ask about every query and the steps to it, with the setpoint at `at`; returns where it ends."""
        if self._interlock is None:
            return at
        for query in queries:
            for step in self._setpoint.way(at, query.theta):
                self._ask(step, query.x[:0])
            self._ask(query.theta, query.x)
            at = query.theta
        self.closed = None
        return at

    def _ask(self, theta: Tensor, x: Tensor) -> None:
        assert self._interlock is not None
        try:
            verdict = self._interlock(theta, x)
        except Exception as error:  # an interlock that fails is a veto
            verdict = f"the interlock failed: {error!r}"
        if verdict is not None and verdict is not True:
            self._stop(verdict if isinstance(verdict, str) and verdict else "the interlock gave no reason")

    def _stop(self, reason: str) -> NoReturn:
        self.closed = reason
        until = "`reset()`" if self._latch else "it agrees"
        error = InterlockError(f"the interlock of {self.device} forbids it: {reason}; stopped until {until}")
        self._park_after(error)
        raise error

    def _wait(self, rows: int) -> None:
        if self._rate is None:
            return
        while (left := self._paid_at - self._clock()) > 1e-9:  # of rounding
            self._sleep(left)
        self._paid_at = self._clock() + rows / self._rate

    @contextmanager
    def _parked_on_failure(self, theta: Tensor | None) -> Iterator[None]:
        """Asking the device, which stands at `theta` afterwards (None: where it was told to stand by then)."""
        if theta is not None:
            self._setpoint.begin(theta)
        try:
            yield
        except BaseException as error:
            self._park_after(error)
            raise
        if theta is not None:
            self._setpoint.arrived()

    def _park_after(self, error: BaseException | None) -> None:
        try:
            self._setpoint.leave()
        except DeviceError as failure:
            if error is None:
                raise
            raise DeviceError(f"{failure}; this was to be done after {error!r}") from error


def _close(device: Device) -> None:
    """Close the outermost of the device and the devices that it wraps that has a `close()`."""
    close = getattr(device, "close", None)
    if callable(close):
        close()
    elif isinstance(device, Wrapper):
        _close(device.device)
