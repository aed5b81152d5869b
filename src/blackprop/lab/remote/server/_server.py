"""Serves a device: takes rounds from clients that are authorised, measures each once, answers for as long as asked."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch

from blackprop.core._query import Count
from blackprop.devices import Device
from blackprop.errors import ArgumentError, BlackpropError, DeviceError
from blackprop.lab.remote.server._asking import answered, guards
from blackprop.lab.remote.server._dispatcher import Dispatcher
from blackprop.lab.remote.server._journal import Journal
from blackprop.lab.remote.server._leases import Leases
from blackprop.lab.remote.server._waiting import Due
from blackprop.lab.remote.shared import _messages as say
from blackprop.lab.remote.shared import _wire as wire
from blackprop.lab.remote.shared._sockets import ServerSockets
from blackprop.lab.wrappers._guarded import Guarded
from blackprop.lab.wrappers._printable import error_text

IDLE = 100  # ms between two looks at the clock
TURN = 5  # ms, the same while somebody waits for the end of another's turn
AT_ONCE = 32  # messages that are heard before the next round is begun
HEARING = 0.001  # s for which a round that waits lets others be heard: clients that wait ask several times a round
LONG = 0.001  # s after which a measurement is long, and somebody else attends to the clients
SELDOM, OFTEN = 50, 2  # ms between two looks of somebody else: at rest, and within a second of a measurement
PARK_AGAIN = (1.0, 60.0)  # s until parking is tried again: at first, and at last


class Server:
    """Serves the device that `make` returns at `bind`, to the clients whose keys are in `keys`.

    The device lives in the thread that calls `serve`, as many drivers ask for: that thread takes a message, measures,
    and answers, with no hand-over between. While a measurement is long, a second thread attends to the clients
    meanwhile: who is alive, who waits, who has just come.

    The device is put behind a `Guarded`, unless it is one. It is parked when its last client leaves or falls silent,
    when it fails, and at the end; then it is closed too, where it has a `close()`. Parking that fails is tried again,
    after 1 s and then at longer intervals of up to 60 s, until it succeeds or a client comes.

    No message and no exception of a driver ends the server, `SystemExit` included; `KeyboardInterrupt` does.

    **Arguments:**

    - `make`: makes the device, in the thread that calls `serve`.
    - `bind`: tcp://host:port.
    - `keys`: the folder that `blackprop keys` made; None serves all users of this machine, and no other machine.
    - `journal` (default: a folder in `keys`): the folder of the last answers; each address needs its own.
    - `lease_seconds` (s, at most a week): silence after which a client's lease ends.
    - `turn_seconds` (s): time after which a client's turn ends when others wait.

    **Raises** `ArgumentError` if other users can change the keys or the journal, and for a device whose declaration is
    too large to be sent.
    """

    def __init__(
        self,
        make: Callable[[], Device],
        bind: str,
        *,
        keys: Path | None = None,
        journal: Path | None = None,
        lease_seconds: float = 30.0,
        turn_seconds: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if journal is None and keys is None:
            raise ArgumentError("a server without keys needs a folder for its `journal`")
        self._clock = clock
        leases = Leases(lease_seconds, turn_seconds)
        self._sockets = ServerSockets(bind, keys)
        with contextlib.ExitStack() as undo:
            undo.callback(self._sockets.close)
            self.address: str = self._sockets.address
            folder = journal if journal is not None else Path(str(keys)) / "journal"
            folder /= "".join(c if c.isalnum() else "-" for c in self.address)
            self._journal = Journal(folder, lease_seconds, clock)
            undo.callback(self._journal.close)
            self.device: Guarded = _guarded(make)
            self._spec = self.device.declaration
            self._dispatcher = Dispatcher(self._spec, self._sockets, self._journal, leases, clock)
            undo.pop_all()
        self._park_at, self._park_pause = -math.inf, PARK_AGAIN[0]
        self._lock = threading.Lock()  # held while the sockets or the dispatcher are used
        self._running_since: float | None = None
        self._stopping, self._closed = threading.Event(), threading.Event()

    @property
    def clients(self) -> int | None:
        """How many keys are authorised, None where none is needed."""
        return None if self._sockets.authorised is None else len(self._sockets.authorised)

    def report(self) -> dict[str, object]:
        """Return the state of the server, as `blackprop serve --status` shows it."""
        return self._dispatcher.report()

    def stop(self) -> None:
        """Finish the round in progress, answer it, park, and return from `serve`. May be called from anywhere."""
        self._stopping.set()

    def serve(self) -> None:
        """Serve until `stop`; then park the device, also after a failure."""
        attendant = threading.Thread(target=self._attend, name="blackprop-attendant")
        attendant.start()
        self._dispatcher.background.start()
        try:
            with torch.no_grad():
                self._serve()
        finally:
            self._closed.set()
            attendant.join()
            self._dispatcher.background.close()
            try:
                _close(self.device)
            finally:
                self._journal.close()
                self._sockets.close()

    def _serve(self) -> None:
        dispatcher, due = self._dispatcher, None
        while not self._stopping.is_set():
            with self._lock:
                waits = dispatcher.waited_for or dispatcher.background.busy
                self._listen(IDLE if not waits else TURN if due is None else 0)
                due = dispatcher.next()
                self._running_since = None if due is None else self._clock()
            if due is not None:
                self._carry_out(due)
            elif dispatcher.left_alone:
                self._park()

    def _attend(self) -> None:
        """The second thread: lets clients in, and answers them while a measurement is long."""
        at_rest_from = -math.inf
        while not self._closed.is_set():
            since, now = self._running_since, self._clock()
            if since is not None:
                at_rest_from = now + 1.0
            try:
                if since is not None and now - since > LONG:
                    with self._lock:
                        self._listen(0, measuring=True)
                self._sockets.attend(OFTEN if now < at_rest_from else SELDOM)
            except Exception as error:  # without this thread no client would be let in any more
                with self._lock:
                    self._dispatcher.statistics.fault(error_text(error))

    def _listen(self, milliseconds: int, *, measuring: bool = False) -> None:
        """Hear some messages; with `measuring`, no longer than a measurement lasts."""
        self._dispatcher.background.collect()
        until = math.inf
        for _ in range(AT_ONCE):
            if measuring and self._running_since is None:
                return
            received = self._sockets.receive(milliseconds)
            if received is None:
                return
            route, user, frames = received
            if self._sockets.authorises(user):
                self._dispatcher.hear(route, user, frames)
            milliseconds = 0
            if until == math.inf and self._dispatcher.idle and self._dispatcher.waited_for:
                until = time.perf_counter() + HEARING
            if until < math.inf and time.perf_counter() > until:
                return

    def _carry_out(self, due: Due) -> None:
        frames, spent, fault = self._measure(due)
        self._running_since = None
        with self._lock:
            self._dispatcher.settle(due, frames, spent, fault)
            self._park_at, self._park_pause = -math.inf, PARK_AGAIN[0]

    def _measure(self, due: Due) -> tuple[list[wire.Buffer], Count, str | None]:
        """Measure a round; return the answer as it travels, its count, and its fault."""
        spent = Count()
        try:
            if due.fresh:
                self.device.forget()
            spent = due.asked.spending(self.device.programmed, self.device.rows_each, self._spec)
            try:
                joined, arrays = answered(self.device, due.asked, self._spec)
            finally:
                if again := self.device.repeated():
                    spent.add(again)
            fields = {"id": due.number, "joined": joined, **say.spent_fields(spent)}
            return wire.encode(say.ANSWER, fields, arrays), spent, None
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a driver may raise anything, `SystemExit` too; the client is told
            fields = say.error_fields(error, spent)
            fault = f"{fields['error']}: {fields['text']}"
            return wire.encode(say.ERROR, {"id": due.number, **fields}), spent, fault

    def _park(self) -> None:
        """Park the device, which its last client has left; where that fails, it is tried again."""
        now = self._clock()
        if now < self._park_at:
            return
        self._running_since = now
        failures = [*filter(None, map(_tried, (guard.park for guard in guards(self.device))))]
        failures += filter(None, [_tried(self.device.repeated)])  # the steps of parking are not booked to a client
        self._running_since = None
        with self._lock:
            for failure in failures:
                self._dispatcher.statistics.fault(f"not parked: {error_text(failure)}")
            if not failures:
                self._dispatcher.parked()
        self._park_at = now + self._park_pause
        self._park_pause = min(2 * self._park_pause, PARK_AGAIN[1])


def _tried(call: Callable[[], object]) -> BaseException | None:
    """Return the exception of a call to a driver, of any type; None without one."""
    try:
        call()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return error
    return None


def _close(device: Guarded) -> None:
    failure = _tried(device.close)
    if isinstance(failure, BlackpropError):
        raise failure
    if failure is not None:
        raise DeviceError(f"the device could not be closed: {error_text(failure)}") from failure


def _guarded(make: Callable[[], Device]) -> Guarded:
    try:
        device = make()
    except (BlackpropError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise DeviceError(f"the device could not be made: {error_text(error)}") from error
    if not isinstance(device, Device):
        raise ArgumentError(f"the factory returned a {type(device).__name__}, not a `blackprop.Device`")
    return device if isinstance(device, Guarded) else Guarded(device)
