"""The messages of a server to its clients: short ones, welcomes, and repeated answers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from blackprop.core._declaration import Declaration
from blackprop.lab.remote.server._background import Background
from blackprop.lab.remote.server._entry import Entry
from blackprop.lab.remote.server._outbox import Outbox
from blackprop.lab.remote.shared import _messages as say
from blackprop.lab.remote.shared import _wire as wire
from blackprop.lab.remote.shared._sockets import ServerSockets
from blackprop.lab.remote.shared._spec_codec import describe


class Replies:
    """Sends messages to clients; a client that does not take them gets none, and asks again.

    Raises `ArgumentError` at construction where the declaration `spec` is too large to be sent.
    """

    def __init__(self, spec: Declaration, sockets: ServerSockets, background: Background) -> None:
        self._sockets, self._background = sockets, background
        self._outbox = Outbox(sockets)
        self._described = describe(spec)
        wire.encode(say.WELCOME, {"device": self._described[0]}, self._described[1])

    def say(self, route: bytes, kind: str, number: int, **fields: object) -> None:
        """Send a message without arrays."""
        self._sockets.send(route, wire.encode(kind, {"id": number, **fields}))

    def welcome(self, route: bytes, number: int, **fields: object) -> None:
        """Send a welcome, with the device's declaration."""
        device, limits = self._described
        self._sockets.send(route, wire.encode(say.WELCOME, {"id": number, "device": device, **fields}, limits))

    def answer(self, entry: Entry, session: str, frames: Sequence[wire.Buffer]) -> None:
        """Send the answer to a round to where its client was heard last."""
        if entry.route is not None:
            self._outbox.send(entry.route, session, entry.user, frames)

    def answer_again(self, entry: Entry, session: str) -> None:
        """Send the answer to the last round from the journal. A long one is fetched in the background."""
        number, size, route = entry.number, entry.size, entry.route

        def send(answer: bytes | BaseException | None) -> None:
            entry.fetched = False
            if entry.closed or (entry.number, entry.size) != (number, size):
                return  # it was overwritten meanwhile
            if isinstance(answer, bytes):
                self.answer(entry, session, wire.pieces(answer))
            elif route is not None:
                self.say(route, say.STATE, number, state=say.DOUBT, place=0)

        if size <= wire.PIECE_BYTES:
            send(entry.last())
        elif route is not None and not entry.fetched and self._outbox.room_for(session, entry.user, size):
            file = entry.copy()
            work = partial(entry.last_of, file, size)
            entry.fetched = self._background.put(route, entry.user, size, work, send)
            if not entry.fetched:
                file.close()
