"""The waits of a client for its round: until it asks for its state, for other clients, and in total."""

from __future__ import annotations

FIRST, LAST = 0.05, 1.0  # s of silence until the first question, and between late ones
BYTES_PER_SECOND = 20e6  # a connection slower than this is asked about sooner than it needs


class Timeouts:
    """The waits for one round. Pure: the caller passes the time.

    **Arguments**, in s:

    - `now`: the time.
    - `deadline`: for the round, without the time in the queue.
    - `wait`: in the queue.
    - `first`, `last`: until the first question about the round, and the most between two.
    """

    def __init__(self, now: float, deadline: float, wait: float, first: float, last: float) -> None:
        self.deadline, self.wait = deadline, wait
        self._begun, self._queued_at, self._queued = now, None, 0.0
        self.pause = min(max(FIRST, first), last)
        self._last = min(max(LAST, first), last)

    def asked(self) -> None:
        """Note a question: the next one comes later."""
        self.pause = min(2 * self.pause, self._last)

    def queued(self, now: float) -> None:
        """Note that the round waits for other clients."""
        if self._queued_at is None:
            self._queued_at = now

    def moving(self, now: float) -> None:
        """Note that the round no longer waits for other clients."""
        if self._queued_at is not None:
            self._queued += now - self._queued_at
            self._queued_at = None

    def in_queue(self, now: float) -> float:
        """Seconds for which the round has waited for other clients."""
        return self._queued + (0.0 if self._queued_at is None else now - self._queued_at)

    def gone(self, now: float) -> float:
        """Seconds that count towards the deadline."""
        return now - self._begun - self.in_queue(now)
