"""A device behind a network: an encrypted connection, and rounds that are measured once although messages are lost."""

from __future__ import annotations

import math
import os
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from torch import Tensor

from blackprop.core._declaration import properties
from blackprop.core._query import Count, Purpose, Query
from blackprop.core._round import Round
from blackprop.core.capabilities._capability import Capability
from blackprop.errors import ArgumentError, BusyError, InDoubtError, ProtocolError, ShapeError
from blackprop.lab.remote.client._connection import DAMAGED, Connection, of_other_version, unreachable
from blackprop.lab.remote.client._greeting import Greeting
from blackprop.lab.remote.client._outgoing import Outgoing, not_taken
from blackprop.lab.remote.client._timeouts import BYTES_PER_SECOND, Timeouts
from blackprop.lab.remote.shared import _messages as say
from blackprop.lab.remote.shared import _rounds as rounds
from blackprop.lab.remote.shared import _wire as wire
from blackprop.lab.remote.shared._wire import Message


class RemoteDevice(Greeting):
    """The device of the server at `address`, with the declaration of the served device.

    A round is one message and one answer. Messages that are lost or damaged, and a restart of the server, cost time and
    no measurement: the server keeps its last answers, and rounds are numbered. If the server is killed in the middle of
    a round, it is unknown whether the round was measured: the client raises `InDoubtError`, or with `repeat_in_doubt`
    measures it again as a new round. A round that raised `UnreachableError` keeps its number if the next one is equal.
    `repeated()` returns the difference between the work of the server and the count of this client: it programs again
    after another client, or a restart. `in_doubt` is the count of the rounds that were repeated in doubt; except for
    these the ledger is exact.

    **Arguments:**

    - `address`: tcp://host:port.
    - `keys` (default None): a folder with `client.key_secret` and `server.key`.
    - `insecure` (default False): connect without keys, to a server on this machine that needs none.
    - `wait` (s, default 60): the longest wait for other clients, for a session and for each round.
    - `deadline` (s, default 20): for the answer to a round, in addition to twice its declared time and the wait.
    - `repeat_in_doubt` (default False): repeat rounds of which it is unknown whether they were measured; never those
      with pulses, or another capability that lasts.
    - `capabilities` (default none): types of the served device's capabilities that this client uses; others are left
      out of the declaration.

    **Raises** `ArgumentError` for arguments outside these ranges; `BusyError` after `wait`; `UnreachableError` after
    `deadline`; `ShapeError`, before a measurement, for a round that is too large to be sent, or to be answered.
    """

    address: str
    wait: float
    deadline: float
    repeat_in_doubt: bool
    in_doubt: Count

    def __init__(
        self,
        address: str,
        *,
        keys: str | os.PathLike[str] | None = None,
        insecure: bool = False,
        wait: float = 60.0,
        deadline: float = 20.0,
        repeat_in_doubt: bool = False,
        capabilities: Iterable[type[Capability]] = (),
    ) -> None:
        if (keys is None) != insecure:
            raise ArgumentError("`RemoteDevice(keys=...)` takes the folder of its keys, or `insecure=True`; not both")
        for name, value in (("wait", wait), ("deadline", deadline)):
            if not value > 0:
                raise ArgumentError(f"`RemoteDevice({name}=...)` must be positive, got {value}")
        self.address, self.wait, self.deadline, self.repeat_in_doubt = address, wait, deadline, repeat_in_doubt
        self._keys, self._kinds = None if keys is None else Path(keys), tuple(capabilities)
        self._process = os.getpid()
        self._session = self._boot = ""
        self._resumed = False
        self._number = 0
        self._again, self.in_doubt = Count(), Count()
        self._outgoing: Outgoing | None = None
        self._usual = 0.0  # s that a round takes, from the last ones
        self._lease_seconds = 30.0
        self._spoke = -math.inf  # when the server last heard of this session
        self._setting: Tensor | None = None  # written by hand
        self._said: Any = None
        self._connection = self._connect()
        self._end = weakref.finalize(self, self._connection.close)
        try:
            self._spec = spec = self._greet(deadline)
        except BaseException:
            self._end()
            raise
        self._served = spec.name
        super().__init__(spec.in_shape, spec.out_shape, spec.theta, **properties(spec))
        self.rows_each: int = spec.rows_each

    def _connect(self) -> Connection:
        return Connection(self.address, self._keys)

    def program(self, theta: Tensor, /) -> None:
        """Send a round without rows: the server writes the setting alone."""
        self.theta.check(theta)
        self._setting = theta.detach().clone()
        self._programmed = None
        nothing = theta.new_zeros(0, *self.in_shape)
        self._round(Round.of([Query(nothing, self._setting, Purpose.CALIBRATE)]), by_hand=True)

    def read(self, x: Tensor, /) -> Tensor:
        """Measure one round at the setting of `program`, written again if another client has moved the device."""
        if self._setting is None:
            raise ArgumentError(f"{self} must be programmed before it is read")
        asked = Round.of([Query(x, self._setting, Purpose.CALIBRATE)])
        asked.check(self._spec)
        (reading,) = self._round(asked, by_hand=True)
        return reading

    def measure(self, queries: Sequence[Query], /) -> list[Tensor]:
        asked = Round.of(queries)
        return self._round(asked) if len(asked) else []

    def _round(self, asked: Round, *, by_hand: bool = False) -> list[Tensor]:
        self._check_usable()
        held, arrays, out = self._programmed, rounds.pack(asked), self._outgoing
        kinds = rounds.names(asked)
        try:
            rounds.check_travel(asked, arrays, self._spec)
        except ShapeError:
            self._again.subtract(
                Count() if by_hand else asked.spending(held, self.rows_each, self._spec)
            )  # the round was not sent
            raise
        if out is None and time.monotonic() - self._spoke > self._lease_seconds:
            self._greet(self.deadline)  # the server may have forgotten a silent session; this round it will know
        if out is None or not out.same(kinds, arrays):
            self._number += 1
            out = self._outgoing = Outgoing(self._number, held is None and not by_hand, kinds, arrays)
        self._programmed = None  # unknown, should the next line fail
        begun = time.monotonic()
        self._send(out)
        # While the server is at it already:
        counted = None if by_hand else asked.spending(held, self.rows_each, self._spec)
        holds = held if counted is None or not counted.programmings else asked.last_setting.clone()
        answer = self._insist(out, asked, counted)
        self._outgoing = None
        if out.said == 1:  # undisturbed
            self._usual += 0.2 * (time.monotonic() - begun - self._usual)
        if counted is not None and counted != say.spent_of(answer):
            self._again.add(say.spent_of(answer))
            self._again.subtract(counted)  # below zero if the server refused the round
        if answer.kind == say.ERROR:
            raise say.error_of(answer)
        readings = rounds.unpack_readings(answer["joined"], answer.arrays, asked)
        self._programmed = None if by_hand else holds
        return readings

    def _insist(self, out: Outgoing, asked: Round, counted: Count | None) -> Message:
        """Send further messages until the round, which has been sent, is answered; return the answer."""
        timeouts = self._timeouts(out, asked, counted)
        damaged, out.cancelled = 0, False
        while True:
            now = time.monotonic()
            if timeouts.gone(now) > timeouts.deadline:
                raise unreachable(self.address, timeouts.deadline)
            if not out.cancelled and timeouts.in_queue(now) > self.wait:
                timeouts.moving(now)
                out.cancelled = True
                self._say(say.CANCEL, out)
            try:
                reply = self._connection.hear(timeouts.pause)
                if reply is None:
                    timeouts.asked()
                elif reply.kind == say.ERROR and reply["id"] == 0:
                    raise say.error_of(reply)  # the server could not read the message
            except ProtocolError as error:
                damaged += 1
                if damaged > DAMAGED or of_other_version(error):
                    raise
                reply = None
            if reply is None:
                self._say(say.CANCEL if out.cancelled else say.ASK, out)
            elif reply["id"] == out.number and self._settled(out, reply, timeouts, counted):
                return reply

    def _settled(self, out: Outgoing, reply: Message, timeouts: Timeouts, counted: Count | None) -> bool:
        """Return whether this is the answer; if it is not, react to it."""
        now = time.monotonic()
        if reply.kind == say.ERROR and not_taken(reply) and not out.cancelled:
            timeouts.queued(now)
            time.sleep(timeouts.pause)
            timeouts.asked()
            self._send(out)
            return False
        if reply.kind in {say.ANSWER, say.ERROR}:
            return True
        state = reply["state"] if reply.kind == say.STATE else None
        if reply.kind == say.AGAIN:
            certain = out.said == 1  # it was this very message that the server did not take
            self._greet(max(0.1, timeouts.deadline - timeouts.gone(now)))
            if not (self._resumed or certain):
                self._doubt(out, counted)
            self._send(out)
        elif state == say.QUEUED:
            timeouts.queued(now)
        elif state == say.RUNNING:
            timeouts.moving(now)
        elif state == say.LOST and not out.cancelled:
            self._send(out)
        elif state == say.DOUBT:
            self._doubt(out, counted)
            self._send(out)
        elif state in {say.CANCELLED, say.LOST}:
            self._outgoing = None
            raise BusyError(f"{self} is held by another client; it was waited for {self.wait:g} s")
        return False

    def _doubt(self, out: Outgoing, counted: Count | None) -> None:
        lasting = [each.name for each in self._spec.capabilities if each.lasting and each.name in out.kinds]
        if lasting and self.repeat_in_doubt:
            self._outgoing = None
            raise InDoubtError(
                f"{self}: the server was stopped in the middle of a round with {lasting[0]}, and it is unknown "
                "whether it was carried out; such rounds are never repeated, since they would move the device twice: "
                "read its state, and go on from there"
            )
        if not self.repeat_in_doubt:
            self._outgoing = None
            raise InDoubtError(
                f"{self}: the server was stopped in the middle of a round, and it is unknown whether it was measured; "
                f"to measure such rounds again: `repeat_in_doubt=True`"
            )
        if counted is not None:  # it may have been measured whole
            self._again.add(counted)
            self.in_doubt.add(counted)
        self._number += 1
        out.number, out.said, out.cancelled = self._number, 0, False

    def _timeouts(self, out: Outgoing, asked: Round, counted: Count | None) -> Timeouts:
        spent = counted if counted is not None else asked.spending(None, self.rows_each, self._spec)
        declared = self._spec.seconds(spent)
        size = rounds.answer_bytes(asked, self._spec) + sum(array.nbytes for array in out.arrays)
        first = max(4 * self._usual, size / BYTES_PER_SECOND)
        deadline = self.deadline + 2 * declared
        return Timeouts(time.monotonic(), deadline, self.wait, first, self._lease_seconds / 3)

    def _send(self, out: Outgoing) -> None:
        self._say(say.ROUND, out, {"fresh": out.fresh, "kinds": out.kinds}, out.arrays)

    def _say(
        self, kind: str, out: Outgoing, more: Mapping[str, Any] = MappingProxyType({}), arrays: Sequence[Any] = ()
    ) -> None:
        fields = {"id": out.number, "session": self._session, "boot": self._boot, **more}
        self._connection.send(wire.encode(kind, fields, arrays))
        self._spoke, out.said = time.monotonic(), out.said + 1

    def repeated(self) -> Count:
        again, self._again = self._again, Count()
        return again.entries()

    def close(self) -> None:
        """Say goodbye: the server then parks the device, unless others use it."""
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Callable[[], RemoteDevice], tuple[()]]:
        """Another process connects anew."""
        options = {name: getattr(self, name) for name in ("wait", "deadline", "repeat_in_doubt")}
        options["capabilities"] = self._kinds
        return partial(RemoteDevice, self.address, keys=self._keys, insecure=self._keys is None, **options), ()

    @property
    def kind(self) -> str | None:
        return None

    def __repr__(self) -> str:
        return f"RemoteDevice({self._served} at {self.address})"
