"""Serves a device: takes rounds from clients that are authorised, measures each once, answers for as long as asked."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from blackprop.devices import Device, Wrapper
from blackprop.errors import ArgumentError, BlackpropError, DeviceError, ProtocolError
from blackprop.lab import messages as say
from blackprop.lab import rounds, wire
from blackprop.lab.describing import describe
from blackprop.lab.guarded import Guarded
from blackprop.lab.journal import Entry, Journal
from blackprop.lab.leases import Leases
from blackprop.lab.sockets import ServerSockets
from blackprop.lab.tally import Tally, name_of
from blackprop.lab.wire import Message
from blackprop.query import Count, Query, count

IDLE = 100  # ms between two looks at the clock
TURN = 5  # ms, the same while somebody waits for the end of another's turn
AT_ONCE = 32  # messages that are heard before the next round is begun
LONG = 0.05  # s after which a measurement is long, and somebody else attends to the clients


@dataclass
class _Due:
    """A round that waits to be measured."""

    session: str
    user: bytes
    number: int
    fresh: bool
    queries: list[Query]


class Server:
    """Serves the device that `make` returns at `bind`, to the clients whose keys are in `keys`.

    The device lives in the thread that calls `serve`, as many drivers ask for: that thread takes a message, measures,
    and answers, with no hand-over between. While a measurement is long, a second thread attends to the clients
    meanwhile: who is alive, who waits, who has just come.

    The device is put behind a `Guarded`, unless it is one. It is parked when its last client leaves or falls silent,
    when it fails, and at the end.

    **Arguments:** `keys`, the folder that `blackprop keys` made; None serves everyone on this machine, and no other.
    `journal`, the folder that remembers the last answers, by default in `keys`; every address has one of its own.
    `lease_seconds` without a word end a client's lease, `turn_seconds` its turn when others wait.
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
        self._leases = Leases(lease_seconds, turn_seconds)
        self._sockets = ServerSockets(bind, keys)
        try:
            self.address = self._sockets.address
            folder = journal if journal is not None else Path(str(keys)) / "journal"
            self._journal = Journal(folder / "".join(c if c.isalnum() else "-" for c in self.address))
            self.device = _guarded(make)
        except BaseException:
            self._sockets.close()
            raise
        self._spec = self.device.declaration
        self._boot = secrets.token_hex(8)
        self._tally = Tally(clock)
        self._lock = threading.Lock()  # held by whoever touches the sockets, the leases, the journal
        self._due: dict[str, _Due] = {}
        self._running: _Due | None = None
        self._running_since: float | None = None
        self._left_alone = False  # whether the device is to be parked
        self._stopping, self._closed = threading.Event(), threading.Event()
        self._handlers = {
            say.HELLO: self._hello,
            say.ROUND: self._round,
            say.ASK: self._ask,
            say.CANCEL: self._cancel,
            say.DRAW: self._draw,
            say.STATUS: self._status,
            say.BYE: self._bye,
        }

    @property
    def clients(self) -> int | None:
        """How many keys are authorised, None where none is needed."""
        return None if self._sockets.authorised is None else len(self._sockets.authorised)

    def stop(self) -> None:
        """Finish the round in progress, answer it, park, and return from `serve`. May be called from anywhere."""
        self._stopping.set()

    def serve(self) -> None:
        """Serve until `stop`; the device is parked then, whatever has happened."""
        attendant = threading.Thread(target=self._attend, name="blackprop-attendant")
        attendant.start()
        try:
            with torch.no_grad():
                self._serve()
        finally:
            self._closed.set()
            attendant.join()
            try:
                self.device.close()
            finally:
                self._journal.close()
                self._sockets.close()

    def _serve(self) -> None:
        due = None
        while not self._stopping.is_set():
            with self._lock:
                self._listen(0 if self._due and due else TURN if self._due else IDLE)
                due = self._next()
            if due is not None:
                self._carry_out(due)
            elif self._left_alone and self._leases.holder is None:
                self._park()

    def _attend(self) -> None:
        """The second thread: lets clients in, and answers them while a measurement is long."""
        while not self._closed.is_set():
            since = self._running_since
            long = since is not None and self._clock() - since > LONG
            self._sockets.attend(5 if long else 50)
            if long:
                with self._lock:
                    if self._running_since is not None:
                        self._listen(0)

    # ---- what a client says -------------------------------------------------------------------------------------

    def _listen(self, milliseconds: int) -> None:
        for _ in range(AT_ONCE):
            received = self._sockets.receive(milliseconds)
            if received is None:
                return
            route, user, frames = received
            if self._sockets.authorised is None or user in self._sockets.authorised:
                self._hear(route, user, frames)
            if self._running is None and self._due:
                return
            milliseconds = 0

    def _hear(self, route: bytes, user: bytes, frames: list[wire.Buffer]) -> None:
        self._tally.seen(user)
        number = 0
        try:
            message = say.read(frames)
            if message.kind not in self._handlers:
                raise ProtocolError(f"{message.kind!r} is what a server says")
            number = message["id"]
            self._handlers[message.kind](message, route, user)
        except BlackpropError as error:
            if isinstance(error, ProtocolError):
                self._tally.refused += 1
            self._say(route, say.ERROR, number, **say.error_fields(error, Count()))
        except Exception as error:  # whatever a client sends, the others are served
            self._tally.fault(f"{type(error).__name__}: {error}")
            self._say(route, say.ERROR, number, **say.error_fields(error, Count()))

    def _hello(self, message: Message, route: bytes, user: bytes) -> None:
        session = message["resume"]
        resumed = self._journal.get(session, user) is not None
        if not resumed:
            session = self._journal.new(user)
            if self._leases.holder is not None and self._leases.holder not in self._journal:
                self._leave(self._leases.holder)  # forgotten, for the new one
        device, limits = describe(self._spec)
        fields = {"session": session, "boot": self._boot, "resumed": resumed, "device": device}
        fields["lease_milliseconds"] = round(1000 * self._leases.lease_seconds)
        self._sockets.send(route, wire.encode(say.WELCOME, {"id": message["id"], **fields}, limits))

    def _round(self, message: Message, route: bytes, user: bytes) -> None:
        session, number = message["session"], message["id"]
        entry = self._entry(message, route, user)
        if entry is None or number <= entry.number:
            self._tell(entry, message, route)
            return
        queries = rounds.unpack(message.arrays, self._spec)
        rounds.check(queries, message.arrays, self._spec)
        if number <= 0 or not queries:
            raise ProtocolError("a round has a number from 1, and at least one query")
        self._due[session] = _Due(session, user, number, message["fresh"], queries)
        self._leases.want(session, self._clock())

    def _ask(self, message: Message, route: bytes, user: bytes) -> None:
        entry = self._entry(message, route, user)
        self._tell(entry, message, route)

    def _cancel(self, message: Message, route: bytes, user: bytes) -> None:
        entry, session = self._entry(message, route, user), message["session"]
        due = self._due.get(session)
        if entry is not None and due is not None and due.number == message["id"]:
            del self._due[session]
            self._leave(session)
            self._say(route, say.STATE, message["id"], state=say.CANCELLED, place=0)
        else:
            self._tell(entry, message, route)

    def _entry(self, message: Message, route: bytes, user: bytes) -> Entry | None:
        """The session of a message; None where it is not known, or known to have spoken to a server before this one."""
        session = message["session"]
        entry = self._journal.get(session, user)
        if entry is None or message["boot"] != self._boot:
            return None
        entry.route = route
        self._leases.seen(session, self._clock())
        return entry

    def _tell(self, entry: Entry | None, message: Message, route: bytes) -> None:
        """What has become of a round."""
        session, number = message["session"], message["id"]
        due, running = self._due.get(session), self._running
        if entry is None:
            self._say(route, say.AGAIN, number)
        elif due is not None and due.number == number:
            self._say(route, say.STATE, number, state=say.QUEUED, place=self._leases.place(session))
        elif running is not None and (running.session, running.number) == (session, number):
            self._say(route, say.STATE, number, state=say.RUNNING, place=0)
        elif number > entry.number:
            self._say(route, say.STATE, number, state=say.LOST, place=0)
        elif number == entry.number:  # an older one is a message that was late; nobody waits for its answer
            answer = entry.last()
            if answer is not None:
                self._sockets.send(route, wire.pieces(answer))
            else:
                self._say(route, say.STATE, number, state=say.DOUBT, place=0)

    def _draw(self, message: Message, route: bytes, user: bytes) -> None:
        del user
        theta = self._spec.theta.draw(torch.Generator().manual_seed(message["seed"]))
        frames = wire.encode(say.INITIAL, {"id": message["id"]}, [theta.cpu().contiguous().numpy()])
        self._sockets.send(route, frames)

    def _status(self, message: Message, route: bytes, user: bytes) -> None:
        del user
        self._say(route, say.REPORT, message["id"], report=self.report())

    def _bye(self, message: Message, route: bytes, user: bytes) -> None:
        del route
        session = message["session"]
        entry = self._journal.get(session, user)
        if entry is not None:
            entry.route = None
            self._due.pop(session, None)
            self._leave(session)
            if self._running is None or self._running.session != session:
                self._journal.drop(session)

    def report(self) -> dict[str, object]:
        """How the server is doing; what `blackprop serve --status` shows."""
        lease, now = self._leases, self._clock()
        return {
            **self._tally.report(),
            "device": self._spec.name,
            "address": self.address,
            "boot": self._boot,
            "measuring": self._running is not None,
            "lease": None if lease.holder is None else [self._name(lease.holder), now - lease.since],
            "queue": [self._name(session) for session in lease.waiting],
            "sessions": len(self._journal),
        }

    def _name(self, session: str) -> str:
        return name_of(self._journal.user(session))

    # ---- what is done about it ----------------------------------------------------------------------------------

    def _next(self) -> _Due | None:
        now = self._clock()
        for session in self._leases.expire(now):
            self._due.pop(session, None)
            self._tally.fault(f"the client {self._name(session)} was silent for {self._leases.lease_seconds:g} s")
            self._left_alone = True
        session = self._leases.turn(now, self._due)
        if session is None:
            return None
        due = self._due.pop(session)
        entry = self._journal.get(session, due.user)
        if entry is None:  # sixteen others have spoken since
            self._leave(session)
            return None
        try:
            entry.begin(due.number)
        except OSError as error:
            fields = say.error_fields(DeviceError(f"nothing was measured, the journal failed: {error}"), Count())
            self._tally.fault(fields["text"])
            if entry.route is not None:
                self._say(entry.route, say.ERROR, due.number, **fields)
            return None
        self._running, self._running_since, self._left_alone = due, now, False
        return due

    def _carry_out(self, due: _Due) -> None:
        frames, spent, fault = self._measure(due)
        self._running_since = None
        with self._lock:
            self._running = None
            entry = self._journal.get(due.session, due.user)
            if entry is not None and entry.route is not None:
                # At once: the client goes on meanwhile. Killed before it is written, its answer lost, it is in doubt.
                self._sockets.send(entry.route, frames)
            self._tally.measured(due.user, spent)
            self._leases.seen(due.session, self._clock())
            if fault is not None:
                self._tally.fault(fault)
            if entry is None:
                return
            if entry.route is None:  # it said goodbye meanwhile
                self._journal.drop(due.session)
                return
            try:
                entry.answer(frames)
            except OSError as error:  # the client has its answer; asked again, the round would be in doubt
                self._tally.fault(f"the journal failed: {error}")

    def _measure(self, due: _Due) -> tuple[list[wire.Buffer], Count, str | None]:
        """The answer as it travels, what it took, and what went wrong."""
        if due.fresh:
            self.device.forget()
        spent = count(due.queries, self.device.programmed)
        try:
            try:
                readings = self._ask_device(due.queries)
            finally:
                again = self.device.repeated()
                if again.rows or again.programmings:
                    spent.add(again)
            joined, arrays = rounds.pack_readings(readings, due.queries)
            fields = {"id": due.number, "joined": joined, **say.spent_fields(spent)}
            return wire.encode(say.ANSWER, fields, arrays), spent, None
        except Exception as error:  # a driver may raise anything; the client is told
            fields = say.error_fields(error, spent)
            fault = f"{fields['error']}: {fields['text']}"
            return wire.encode(say.ERROR, {"id": due.number, **fields}), spent, fault

    def _ask_device(self, queries: list[Query]) -> list[Tensor]:
        (first, *others) = queries
        if others or len(first.x):
            return self.device.measure(queries)
        self.device.program(first.theta)  # a round of one query without rows is a programming by hand
        return [first.x.new_zeros(0, *self._spec.out_shape)]

    def _leave(self, session: str) -> None:
        if self._leases.leave(session):
            self._left_alone = True

    def _park(self) -> None:
        self._left_alone, self._running_since = False, self._clock()
        try:
            for guard in _guards(self.device):
                guard.park()
        except Exception as error:  # the server goes on: somebody may come who can do something about it
            with self._lock:
                self._tally.fault(f"not parked: {error}")
        finally:
            self._running_since = None
            self.device.repeated()  # the way to the parking place is no client's to pay

    def _say(self, route: bytes, kind: str, number: int, **fields: object) -> None:
        self._sockets.send(route, wire.encode(kind, {"id": number, **fields}))


def _guarded(make: Callable[[], Device]) -> Guarded:
    try:
        device = make()
    except BlackpropError:
        raise
    except Exception as error:
        raise DeviceError(f"the device could not be made: {type(error).__name__}: {error}") from error
    if not isinstance(device, Device):
        raise ArgumentError(f"the factory returned a {type(device).__name__}, not a `blackprop.Device`")
    return device if isinstance(device, Guarded) else Guarded(device)


def _guards(device: Device) -> list[Guarded]:
    """Every guard of a device behind several wrappers, the outermost first."""
    found = [device] if isinstance(device, Guarded) else []
    return found + _guards(device.device) if isinstance(device, Wrapper) else found
