"""Answers on their way to clients, in bounded memory for clients that do not take them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from blackprop.lab.remote.shared._quota import FairQuota
from blackprop.lab.remote.shared._sockets import ServerSockets
from blackprop.lab.remote.shared._wire import PIECE_BYTES, Buffer

UNDER_WAY_BYTES = 2**30  # of long answers that are not sent yet


class Outbox:
    """Sends answers. A session whose last long answer is still under way gets no other, nor does a client that holds
    too much memory with answers it does not take: the client asks again.
    """

    def __init__(self, sockets: ServerSockets) -> None:
        self._sockets = sockets
        self._under_way: dict[str, tuple[Any, bytes, int]] = {}  # by session: ZeroMQ's tracker, the client's key, bytes
        self._held = FairQuota(UNDER_WAY_BYTES)

    def room_for(self, session: str, user: bytes, size: int) -> bool:
        """Whether a long answer would be sent now."""
        self._reap()
        return session not in self._under_way and self._held.fits(user, size)

    def send(self, route: bytes, session: str, user: bytes, frames: Sequence[Buffer]) -> None:
        """Send an answer to `route`, or drop it."""
        size = sum(len(frame) for frame in frames)
        if size <= PIECE_BYTES:
            self._sockets.send(route, frames)
            return
        if not self.room_for(session, user, size):
            return
        self._held.take(user, size)
        self._under_way[session] = (self._sockets.send(route, frames), user, size)
        self._reap()

    def _reap(self) -> None:
        for session, (tracker, user, size) in list(self._under_way.items()):
            if tracker is None or tracker.done:
                self._held.give_back(user, size)
                del self._under_way[session]
