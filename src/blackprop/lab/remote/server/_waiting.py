"""Rounds that wait to be measured, at most one a session, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from blackprop.core._round import Round
from blackprop.errors import BusyError
from blackprop.lab.remote.shared._quota import FairQuota

WAITING_BYTES = 2**30


@dataclass
class Due:
    """A round that waits to be measured."""

    session: str
    user: bytes
    number: int
    fresh: bool
    asked: Round

    @property
    def size(self) -> int:
        """The memory (bytes) that it takes."""
        tensors = (self.asked.settings, *self.asked.parts)
        return self.asked.table.nbytes + sum(t.element_size() * t.numel() for t in tensors)


class Waiting:
    """The round of each session that waits. Their memory is shared between clients, see `FairQuota`."""

    def __init__(self) -> None:
        self._due: dict[str, Due] = {}
        self._held = FairQuota(WAITING_BYTES)

    def __len__(self) -> int:
        return len(self._due)

    def __contains__(self, session: object) -> bool:
        return session in self._due

    def __iter__(self) -> Iterator[str]:
        return iter(self._due)

    def get(self, session: str) -> Due | None:
        return self._due.get(session)

    def add(self, due: Due) -> None:
        """Let a round wait, in place of the session's earlier one; `BusyError` where its client has too many here."""
        self.withdraw(due.session)
        if not self._held.take(due.user, due.size):
            raise BusyError("the rounds that wait take too much of the server's memory; come back later")
        self._due[due.session] = due

    def withdraw(self, session: str) -> Due | None:
        """Take back the round of a session, if there is one."""
        due = self._due.pop(session, None)
        if due is not None:
            self._held.give_back(due.user, due.size)
        return due
