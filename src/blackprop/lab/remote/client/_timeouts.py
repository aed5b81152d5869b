"""How long a client waits for its round: until it asks what has become of it, for others, and at all."""

from __future__ import annotations

FIRST, LAST = 0.05, 1.0  # s of silence until the first question, and between late ones
BYTES_PER_SECOND = 20e6  # a connection slower than this is asked about sooner than it needs


class Timeouts:
    """Of one round. Pure: whoever calls says what time it is, in seconds.

    **Arguments:** `now`; `deadline`, for the round without the time in the queue; `wait`, in the queue; `first`,
    seconds until the first question; `last`, the most between two.
    """

    def __init__(self, now: float, deadline: float, wait: float, first: float, last: float) -> None:
        self.deadline, self.wait = deadline, wait
        self._begun, self._queued_at, self._queued = now, None, 0.0
        self.pause = min(max(FIRST, first), last)
        self._last = min(max(LAST, first), last)

    def asked(self) -> None:
        """A question was asked: the next one later."""
        self.pause = min(2 * self.pause, self._last)

    def queued(self, now: float) -> None:
        """The round waits for other clients."""
        if self._queued_at is None:
            self._queued_at = now

    def moving(self, now: float) -> None:
        """The round waits for nobody."""
        if self._queued_at is not None:
            self._queued += now - self._queued_at
            self._queued_at = None

    def in_queue(self, now: float) -> float:
        """Seconds for which the round has waited for other clients."""
        return self._queued + (0.0 if self._queued_at is None else now - self._queued_at)

    def gone(self, now: float) -> float:
        """Seconds that count towards the deadline."""
        return now - self._begun - self.in_queue(now)
