"""Repetition of failed rounds, where that is safe."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from blackprop.core._query import Purpose, Query
from blackprop.core._round import Round
from blackprop.devices import Device
from blackprop.errors import ArgumentError, InDoubtError, ProtocolError, UnreachableError
from blackprop.lab.wrappers._pass_through import NOT_ASKED, Asked, PassThrough

T = TypeVar("T")

SAFE: tuple[type[Exception], ...] = (UnreachableError, ProtocolError, TimeoutError, OSError)


class Retrying(PassThrough):
    """Repeats a round that failed, after `base · 2^k · (1 − jitter · u)` s for the k-th failure (k = 0, 1, …).

    u ~ U[0, 1) is drawn from `seed`, so that clients that failed together do not come back together.

    A round is repeated after `UnreachableError`, `ProtocolError`, `TimeoutError` or another `OSError`. It may have been
    measured nevertheless. A device whose rounds must not be repeated in this case raises `InDoubtError`, after which a
    round is repeated only if `also` names this error. Instruments (`VisaDevice`, `QcodesDevice`, `CameraModulator`)
    raise it if an answer was lost after a command was sent: name it if driving a row twice does no harm. After other
    errors, such as a setting outside the limits, a repetition would fail again, so there is none. Rounds with a
    capability that writes or lasts (`Pulse`) are not repeated, because they would move the device twice.

    **Booked** in `repeated()`: every further round that may have been measured, whole. After `UnreachableError` and
    `BusyError` a round was not measured and is not booked. The last failure is raised as `InDoubtError` if a round may
    have been measured, else as `UnreachableError`.

    **Arguments:**

    - `device`: the device.
    - `attempts` (default 5): the most times that a round is sent.
    - `deadline` (s, default 60): time after which a round is not repeated.
    - `base` (s, default 0.05), `jitter` (0 to 1, default 0.5), `seed` (default 0): of the waits.
    - `also` (default none): further exceptions after which a round is repeated.
    - `clock`, `sleep` (default those of `time`): return the time in s, and wait for seconds.
    """

    attempts: int
    deadline: float
    base: float
    jitter: float

    def __init__(
        self,
        device: Device,
        attempts: int = 5,
        deadline: float = 60.0,
        base: float = 0.05,
        jitter: float = 0.5,
        *,
        also: tuple[type[Exception], ...] = (),
        seed: int = 0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        super().__init__(device)
        if not (isinstance(attempts, int) and attempts >= 1):
            raise ArgumentError(f"`Retrying(attempts=...)` must be a whole number from 1, got {attempts}")
        for name, value, most in (("deadline", deadline, math.inf), ("base", base, math.inf), ("jitter", jitter, 1.0)):
            if not 0 <= value <= most:
                raise ArgumentError(f"`Retrying({name}=...)` must be from 0 to {most:g}, got {value}")
        if not all(isinstance(kind, type) and issubclass(kind, Exception) for kind in also):
            raise ArgumentError(f"`Retrying(also=...)` takes a tuple of exception classes, got {also!r}")
        self.attempts, self.deadline, self.base, self.jitter = attempts, deadline, base, jitter
        self._kinds = (*SAFE, *also)
        self._generator = torch.Generator().manual_seed(seed)
        self._clock, self._sleep = clock, sleep

    def measure(self, queries: Sequence[Query], /) -> list[Tensor]:
        held, queries = self.programmed, Round.of(queries)
        if any(kind is not None and (kind.writes or kind.lasting) for kind in queries.kinds):
            return self.device.measure(queries)
        asked: list[Asked] = []

        try:
            return self._insist(lambda: self._asked(queries, asked), lambda: bool(asked))
        finally:
            if asked and (len(asked) > 1 or asked[0][1] is not held):
                self._book((queries, held), asked)

    def program(self, theta: Tensor, /) -> None:
        self._verb(lambda: super(Retrying, self).program(theta), programmings=1)

    def read(self, x: Tensor, /) -> Tensor:
        return self._verb(lambda: self.device.read(x), rows=len(x))

    def _verb(self, ask: Callable[[], T], rows: int = 0, programmings: int = 0) -> T:
        """Call `program` or `read` by hand; the caller counts one call, repetitions are booked as `CALIBRATE`."""
        asked = 0

        def again() -> T:
            nonlocal asked
            try:
                result = ask()
            except NOT_ASKED:
                raise
            except BaseException:
                asked += 1
                raise
            asked += 1
            return result

        try:
            return self._insist(again, lambda: bool(asked))
        finally:
            if asked > 1:
                self._again.rows[Purpose.CALIBRATE] += (asked - 1) * rows
                self._again.programmings[Purpose.CALIBRATE] += (asked - 1) * programmings

    def _insist(self, ask: Callable[[], T], may_have_asked: Callable[[], bool]) -> T:
        start = self._clock()
        for k in range(self.attempts):
            try:
                return ask()
            except self._kinds as error:
                wait = self._wait(k)
                spent = self._clock() - start
                if k + 1 == self.attempts or spent + wait > self.deadline:
                    kind = InDoubtError if may_have_asked() else UnreachableError
                    raise kind(
                        f"{self.device} failed {k + 1} times of {self.attempts} within {spent:.3g} s of "
                        f"{self.deadline:g} s, last: {type(error).__name__}: {error}"
                    ) from error
                self._sleep(wait)
        raise AssertionError("unreachable")

    def _wait(self, k: int) -> float:
        return self.base * 2.0**k * (1 - self.jitter * float(torch.rand((), generator=self._generator)))

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        generator = torch.Generator()
        generator.set_state(state["generator"].cpu())
        super().load_state_dict(state)
        self._generator = generator
