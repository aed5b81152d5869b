"""Where clients are heard: sessions, turns, rounds that wait, and what has become of them."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass

import torch

from blackprop.declaration import Declaration
from blackprop.errors import BlackpropError, DeviceError, ProtocolError
from blackprop.lab import messages as say
from blackprop.lab import rounds, wire
from blackprop.lab.describing import describe
from blackprop.lab.journal import Entry, Journal
from blackprop.lab.leases import Leases
from blackprop.lab.sockets import ServerSockets
from blackprop.lab.tally import Tally, name_of
from blackprop.lab.wire import Message
from blackprop.query import Count, Query


@dataclass
class Due:
    """A round that waits to be measured."""

    session: str
    user: bytes
    number: int
    fresh: bool
    queries: list[Query]


class Reception:
    """Hears what clients say, and answers all that takes no measurement.

    `next` is the round to be measured, `settle` takes what came of it. It touches no device; whoever calls holds the
    lock.
    """

    def __init__(
        self,
        spec: Declaration,
        sockets: ServerSockets,
        journal: Journal,
        leases: Leases,
        clock: Callable[[], float],
    ) -> None:
        self._spec, self._sockets, self._journal, self._leases, self._clock = spec, sockets, journal, leases, clock
        self.tally = Tally(clock)
        self._boot = secrets.token_hex(8)
        self._due: dict[str, Due] = {}
        self._running: Due | None = None
        self._left_alone = False
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
    def waited_for(self) -> bool:
        """Whether there is a round that waits."""
        return bool(self._due)

    @property
    def idle(self) -> bool:
        """Whether nothing is measured."""
        return self._running is None

    @property
    def left_alone(self) -> bool:
        """Whether the last client has left or fallen silent, and nobody has come since."""
        return self._left_alone and self._leases.holder is None

    def hear(self, route: bytes, user: bytes, frames: list[wire.Buffer]) -> None:
        self.tally.seen(user)
        number = 0
        try:
            message = say.read(frames)
            if message.kind not in self._handlers:
                raise ProtocolError(f"{message.kind!r} is what a server says")
            number = message["id"]
            self._handlers[message.kind](message, route, user)
        except BlackpropError as error:
            if isinstance(error, ProtocolError):
                self.tally.refused += 1
            self._say(route, say.ERROR, number, **say.error_fields(error, Count()))
        except Exception as error:  # whatever a client sends, the others are served
            self.tally.fault(f"{type(error).__name__}: {error}")
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
        self._due[session] = Due(session, user, number, message["fresh"], queries)
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
        """Say what has become of a round."""
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
        """How the server is doing."""
        lease, now = self._leases, self._clock()
        return {
            **self.tally.report(),
            "device": self._spec.name,
            "address": self._sockets.address,
            "boot": self._boot,
            "measuring": self._running is not None,
            "lease": None if lease.holder is None else [self._name(lease.holder), now - lease.since],
            "queue": [self._name(session) for session in lease.waiting],
            "sessions": len(self._journal),
        }

    def _name(self, session: str) -> str:
        return name_of(self._journal.user(session))

    def next(self) -> Due | None:
        """The round whose turn it is, written down as begun."""
        now = self._clock()
        for session in self._leases.expire(now):
            self._due.pop(session, None)
            self.tally.fault(f"the client {self._name(session)} was silent for {self._leases.lease_seconds:g} s")
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
            self.tally.fault(fields["text"])
            if entry.route is not None:
                self._say(entry.route, say.ERROR, due.number, **fields)
            return None
        self._running, self._left_alone = due, False
        return due

    def settle(self, due: Due, frames: list[wire.Buffer], spent: Count, fault: str | None) -> None:
        """The answer to a round, what it took, and what went wrong."""
        self._running = None
        entry = self._journal.get(due.session, due.user)
        if entry is not None and entry.route is not None:
            # At once: the client goes on meanwhile. Killed before it is written, its answer lost, it is in doubt.
            self._sockets.send(entry.route, frames)
        self.tally.measured(due.user, spent)
        self._leases.seen(due.session, self._clock())
        if fault is not None:
            self.tally.fault(fault)
        if entry is None:
            return
        if entry.route is None:  # it said goodbye meanwhile
            self._journal.drop(due.session)
            return
        try:
            entry.answer(frames)
        except OSError as error:  # the client has its answer; asked again, the round would be in doubt
            self.tally.fault(f"the journal failed: {error}")

    def parked(self) -> None:
        """The device was parked, or that was tried."""
        self._left_alone = False

    def _leave(self, session: str) -> None:
        if self._leases.leave(session):
            self._left_alone = True

    def _say(self, route: bytes, kind: str, number: int, **fields: object) -> None:
        self._sockets.send(route, wire.encode(kind, {"id": number, **fields}))
