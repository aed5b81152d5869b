"""The dispatcher of a server: sessions, turns, rounds that wait, and their states."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import partial

import torch

from blackprop.core._declaration import Declaration
from blackprop.core._query import Count
from blackprop.errors import BlackpropError, DeviceError, ProtocolError
from blackprop.lab.remote.server._background import Background
from blackprop.lab.remote.server._entry import Entry
from blackprop.lab.remote.server._journal import Journal
from blackprop.lab.remote.server._leases import Leases
from blackprop.lab.remote.server._reading import Heard, read
from blackprop.lab.remote.server._replies import Replies
from blackprop.lab.remote.server._statistics import Statistics, name_of
from blackprop.lab.remote.server._waiting import Due, Waiting
from blackprop.lab.remote.shared import _messages as say
from blackprop.lab.remote.shared import _rounds as rounds
from blackprop.lab.remote.shared import _wire as wire
from blackprop.lab.remote.shared._sockets import ServerSockets
from blackprop.lab.remote.shared._wire import Message
from blackprop.lab.wrappers._printable import error_text, printable


class Dispatcher:
    """Receives the messages of clients, and answers those that need no measurement.

    `next` returns the round to be measured, and `settle` takes its result. The dispatcher never touches the device; the
    caller holds the lock. Long messages are read, and repeated long answers fetched, in the background.
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
        self.statistics = Statistics(clock)
        if journal.forgotten:
            self.statistics.fault(f"{journal.forgotten} sessions were damaged or of another version, and are forgotten")
        self.background = Background()
        self._replies = Replies(spec, sockets, self.background)
        self._boot = secrets.token_hex(8)
        self._due = Waiting()
        self._running: Due | None = None
        self._left_alone = False
        self._handlers = {
            say.HELLO: self._hello,
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
        """Whether there is no measurement in progress."""
        return self._running is None

    @property
    def left_alone(self) -> bool:
        """Whether the last client has left or fallen silent, and no client has come since."""
        return self._left_alone and self._leases.holder is None

    def hear(self, route: bytes, user: bytes, frames: list[wire.Buffer]) -> None:
        """Take a message: a short one at once; a long one, and the next ones of its sender, after it has been read."""
        size = sum(len(frame) for frame in frames)
        if size <= wire.PIECE_BYTES and not self.background.concerns(route):
            self._heard(route, user, read(frames, self._spec))
            return
        work, then = partial(read, frames, self._spec), partial(self._heard, route, user)
        if not self.background.put(route, user, size, work, then):
            self.statistics.refused += 1  # too many of this client's wait already; it asks, and sends it again

    def _heard(self, route: bytes, user: bytes, heard: Heard) -> None:
        self.statistics.seen(user)
        message, number = heard.message, 0
        try:
            if message is None:
                raise heard.fault or ProtocolError("the message could not be read")
            if message.kind != say.ROUND and message.kind not in self._handlers:
                raise ProtocolError(f"{message.kind!r} is a message of servers")
            number = message["id"]
            if message.kind == say.ROUND:
                self._round(heard, message, route, user)
            else:
                self._handlers[message.kind](message, route, user)
        except BlackpropError as error:
            if isinstance(error, ProtocolError):
                self.statistics.refused += 1
            self._replies.say(route, say.ERROR, number, **say.error_fields(error, Count()))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # the other clients are served; a driver draws initial values
            self.statistics.fault(error_text(error))
            self._replies.say(route, say.ERROR, number, **say.error_fields(error, Count()))

    def _hello(self, message: Message, route: bytes, user: bytes) -> None:
        session, greeting = message["resume"], (route, message["id"])
        resumed = self._journal.get(session, user) is not None
        if not resumed:
            # A hello that is repeated begins no second session.
            same = (s for s, e in self._journal if (e.greeting, e.user, e.number) == (greeting, user, 0))
            session = next((s for s in same if s not in self._due), "")
            session = session or self._journal.new(user, self._busy())
        entry = self._journal.get(session, user)
        assert entry is not None
        entry.heard = self._clock()
        if not resumed:
            entry.greeting = greeting
        fields = {"session": session, "boot": self._boot, "resumed": resumed}
        fields["lease_milliseconds"] = round(1000 * self._leases.lease_seconds)
        self._replies.welcome(route, message["id"], **fields)

    def _busy(self) -> set[str]:
        """The sessions that hold the device, wait for it, or are measured."""
        running = () if self._running is None else (self._running.session,)
        holder = () if self._leases.holder is None else (self._leases.holder,)
        return {*self._due, *self._leases.waiting, *running, *holder}

    def _round(self, heard: Heard, message: Message, route: bytes, user: bytes) -> None:
        session, number = message["session"], message["id"]
        entry, due = self._entry(message, route, user), self._due.get(session)
        if entry is None or number <= entry.number or (due is not None and number <= due.number):
            self._tell(entry, message, route)  # asked again, or late
            return
        if heard.round is None:
            raise heard.fault or ProtocolError("the round could not be read")
        if number <= 0:
            raise ProtocolError("a round has a number from 1")
        self._due.add(Due(session, user, number, message["fresh"], heard.round))
        self._leases.want(session, self._clock(), user)

    def _ask(self, message: Message, route: bytes, user: bytes) -> None:
        entry = self._entry(message, route, user)
        self._tell(entry, message, route)

    def _cancel(self, message: Message, route: bytes, user: bytes) -> None:
        entry, session = self._entry(message, route, user), message["session"]
        due = self._due.get(session)
        if entry is not None and due is not None and due.number == message["id"]:
            self._due.withdraw(session)
            self._leave(session)
            self._replies.say(route, say.STATE, message["id"], state=say.CANCELLED, place=0)
        else:
            self._tell(entry, message, route)

    def _entry(self, message: Message, route: bytes, user: bytes) -> Entry | None:
        """The session of a message; None where it is not known, or known to have spoken to a server before this one."""
        session = message["session"]
        entry = self._journal.get(session, user)
        if entry is None or message["boot"] != self._boot:
            return None
        entry.route, entry.heard = route, self._clock()
        self._leases.seen(session, entry.heard)
        return entry

    def _tell(self, entry: Entry | None, message: Message, route: bytes) -> None:
        """Send the state of a round."""
        session, number = message["session"], message["id"]
        due, running = self._due.get(session), self._running
        if entry is None:
            self._replies.say(route, say.AGAIN, number)
        elif due is not None and number > entry.number and number < due.number:
            return  # late: its client has given it up
        elif due is not None and due.number == number:
            self._replies.say(route, say.STATE, number, state=say.QUEUED, place=self._leases.place(session))
        elif running is not None and (running.session, running.number) == (session, number):
            self._replies.say(route, say.STATE, number, state=say.RUNNING, place=0)
        elif number > entry.number:
            self._replies.say(route, say.STATE, number, state=say.LOST, place=0)
        elif number == entry.number:  # an older number is a late message, whose answer is not awaited
            self._replies.answer_again(entry, session)

    def _draw(self, message: Message, route: bytes, user: bytes) -> None:
        del user
        theta = self._spec.theta.draw(torch.Generator().manual_seed(message["seed"]))
        frames = wire.encode(say.INITIAL, {"id": message["id"]}, [theta.cpu().contiguous().numpy()])
        self._sockets.send(route, frames)

    def _status(self, message: Message, route: bytes, user: bytes) -> None:
        del user
        self._replies.say(route, say.REPORT, message["id"], report=self.report())

    def _bye(self, message: Message, route: bytes, user: bytes) -> None:
        del route
        session = message["session"]
        entry = self._journal.get(session, user)
        if entry is not None:
            entry.route = None
            self._due.withdraw(session)
            self._leave(session)
            if self._running is None or self._running.session != session:
                self._journal.drop(session)

    def report(self) -> dict[str, object]:
        """How the server is doing."""
        lease, now = self._leases, self._clock()
        return {
            **self.statistics.report(),
            "device": printable(self._spec.name, 200),
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
            self._due.withdraw(session)
            self.statistics.fault(f"the client {self._name(session)} was silent for {self._leases.lease_seconds:g} s")
            self._left_alone = True
        session = self._leases.turn(now, self._due)
        if session is None:
            return None
        due = self._due.withdraw(session)
        assert due is not None
        entry = self._journal.get(session, due.user)
        if entry is None or not self._sockets.authorises(due.user):  # its key was taken away
            self._leave(session)
            return None
        try:
            entry.begin(due.number, rounds.answer_bytes(due.asked, self._spec))
        except OSError as error:
            fields = say.error_fields(DeviceError(f"the round was not measured, the journal failed: {error}"), Count())
            self.statistics.fault(fields["text"])
            if entry.route is not None:
                self._replies.say(entry.route, say.ERROR, due.number, **fields)
            return None
        self._running, self._left_alone = due, False
        return due

    def settle(self, due: Due, frames: list[wire.Buffer], spent: Count, fault: str | None) -> None:
        """Take the answer to a round, its count, and its fault."""
        self._running = None
        entry = self._journal.get(due.session, due.user)
        if entry is not None:
            # At once: the client goes on meanwhile. Killed before it is written, its answer lost, it is in doubt.
            self._replies.answer(entry, due.session, frames)
        self.statistics.measured(due.user, spent)
        self._leases.seen(due.session, self._clock())
        if fault is not None:
            self.statistics.fault(fault)
        if entry is None:
            return
        if entry.route is None:  # it said goodbye meanwhile
            self._journal.drop(due.session)
            return
        try:
            entry.answer(frames)
        except OSError as error:  # the client has its answer; asked again, the round would be in doubt
            self.statistics.fault(f"the journal failed: {error}")

    def parked(self) -> None:
        """The device was parked, or that was tried."""
        self._left_alone = False

    def _leave(self, session: str) -> None:
        if self._leases.leave(session):
            self._left_alone = True
