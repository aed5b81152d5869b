"""The right to use the device: one client at a time, their owners in turn, without silent ones."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Container

from blackprop.errors import ArgumentError

LEAST, MOST = 0.001, 7 * 86400.0  # s, of a lease
OWNERS = 1024  # whose last turns are remembered


class Leases:
    """A client keeps the device from its first round on. It loses it after `lease_seconds` without a word, and after
    `turn_seconds`, at the end of a round, when others wait; it then queues behind them.

    Clients have owners: a key, which may open many sessions. The owner whose last turn is longest ago is next, with its
    client that has waited longest: an owner gets the share of one, however many clients it sends.

    Pure: the caller passes the time, in seconds.
    """

    def __init__(self, lease_seconds: float = 30.0, turn_seconds: float = 10.0) -> None:
        if not LEAST <= lease_seconds <= MOST:  # clients are told it in whole milliseconds
            raise ArgumentError(
                f"`lease_seconds` must be positive, from {LEAST:g} to {MOST:,.0f} s, got {lease_seconds}"
            )
        if not turn_seconds > 0:
            raise ArgumentError(f"`turn_seconds` must be positive, got {turn_seconds}")
        self.lease_seconds = lease_seconds
        self.turn_seconds = turn_seconds
        self.holder: str | None = None
        self.since = 0.0
        self._queue: deque[str] = deque()
        self._seen: dict[str, float] = {}
        self._owners: dict[str, bytes] = {}
        self._turns: dict[bytes, None] = {}  # the owners that have had a turn, the last one last

    @property
    def waiting(self) -> tuple[str, ...]:
        """The clients that wait, in the order in which they will be served."""
        last = {owner: number for number, owner in enumerate(self._turns)}
        before = Counter[bytes]()  # of the same owner
        order: list[tuple[int, int, int, str]] = []
        for place, client in enumerate(self._queue):
            owner = self._owners[client]
            order.append((before[owner], last.get(owner, -1), place, client))
            before[owner] += 1
        return tuple(client for *_, client in sorted(order))

    def want(self, client: str, now: float, owner: bytes = b"") -> None:
        """The client of `owner` has a round to be measured."""
        self._seen[client], self._owners[client] = now, owner
        if client != self.holder and client not in self._queue:
            self._queue.append(client)

    def seen(self, client: str, now: float) -> None:
        """The client has said something; one that neither holds nor waits is none of ours."""
        if client in self._seen:
            self._seen[client] = now

    def place(self, client: str) -> int:
        """How many are before the client: the one that holds the device, and those that wait longer."""
        return self.waiting.index(client) + (self.holder is not None) if client in self._queue else 0

    def turn(self, now: float, wanting: Container[str]) -> str | None:
        """Return the client that measures next, of those with a round; None if the holder has none."""
        if self.holder is not None and self._queue and now - self.since >= self.turn_seconds:
            if self.holder in wanting:
                self._queue.append(self.holder)
            else:
                del self._seen[self.holder], self._owners[self.holder]
            self.holder = None
        if self.holder is None and self._queue:
            self.holder, self.since = self.waiting[0], now
            self._queue.remove(self.holder)
            self._turns.pop(owner := self._owners[self.holder], None)
            self._turns[owner] = None
            if len(self._turns) > OWNERS:
                del self._turns[next(iter(self._turns))]
        return self.holder if self.holder is not None and self.holder in wanting else None

    def leave(self, client: str) -> bool:
        """The client has gone, or waits no longer; whether it held the device."""
        self._seen.pop(client, None)
        self._owners.pop(client, None)
        if client in self._queue:
            self._queue.remove(client)
        if client != self.holder:
            return False
        self.holder = None
        return True

    def expire(self, now: float, measuring: str | None = None) -> list[str]:
        """Remove and return the clients that were silent for too long, except the one whose round is measured."""
        dead = [c for c, seen in self._seen.items() if c != measuring and now - seen > self.lease_seconds]
        for client in dead:
            self.leave(client)
        return dead
