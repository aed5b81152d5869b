"""A client's connection to a server: messages out, messages in, and requests that are repeated until answered."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from blackprop.errors import BlackpropError, ProtocolError, UnreachableError
from blackprop.lab.remote.shared import _messages as say
from blackprop.lab.remote.shared import _wire as wire
from blackprop.lab.remote.shared._sockets import ClientSocket
from blackprop.lab.remote.shared._wire import Message

PAUSE = (0.2, 1.0)  # s without a word until a request is repeated: at first, and at last
FAREWELL = 300  # ms for the last word
DAMAGED = 20  # unreadable messages that are tolerated


class Connection:
    """Messages to a server and from it. Any message may be lost, so the sender repeats it until it is answered."""

    def __init__(self, address: str, keys: Path | None) -> None:
        self.address = address
        self.farewell: list[wire.Buffer] | None = None
        self._socket = ClientSocket(address, keys)
        self._process = os.getpid()
        self._number = 2**62  # apart from the numbers of rounds

    def send(self, frames: Sequence[wire.Buffer]) -> None:
        self._socket.send(frames)

    def receive(self, seconds: float) -> list[wire.Buffer] | None:
        return self._socket.receive(seconds)

    def hear(self, seconds: float) -> Message | None:
        """Return the next message, None if none comes; raise `ProtocolError` for one that cannot be read."""
        frames = self.receive(seconds)
        return None if frames is None else say.read(frames)

    def request(self, kind: str, answer: str, deadline: float, **fields: object) -> Message:
        """Send a message that may be repeated, until it is answered."""
        self._number += 1
        frames = wire.encode(kind, {"id": self._number, **fields})
        end, pause, damaged = time.monotonic() + deadline, PAUSE[0], 0
        self.send(frames)
        while (left := end - time.monotonic()) > 0:
            try:
                reply = self.hear(min(pause, left))
            except ProtocolError as error:
                damaged += 1
                if damaged > DAMAGED or of_other_version(error):
                    raise
                reply = None
            if reply is None:
                self.send(frames)
                pause = min(2 * pause, PAUSE[1])
            elif reply["id"] == self._number and reply.kind == answer:
                return reply
            elif reply.kind == say.ERROR and reply["id"] in {self._number, 0}:
                error = say.error_of(reply)
                damaged += 1
                if reply["id"] or damaged > DAMAGED or of_other_version(error):
                    raise error
                self.send(frames)
        raise unreachable(self.address, deadline)

    def close(self) -> None:
        """Say goodbye, if there is a session, and close the socket."""
        if os.getpid() != self._process:  # a fork shares the connection; it is its parent's to end
            return
        if self.farewell is not None:
            self.send(self.farewell)
        self._socket.close(FAREWELL if self.farewell is not None else 0)


def unreachable(address: str, deadline: float) -> UnreachableError:
    return UnreachableError(
        f"no server answered at {address} within {deadline:g} s. Does the server run, is the address right, is "
        f"`server.key` the server's, and is `client.key` among its `authorised`? A wrong key looks like silence"
    )


def of_other_version(error: BlackpropError) -> bool:
    return isinstance(error, ProtocolError) and "of the protocol" in str(error)
