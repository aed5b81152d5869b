"""Lines and binary blocks over one opened link, each waited for until a deadline."""

from __future__ import annotations

import time
from collections import deque
from contextlib import suppress
from typing import Any, Protocol

from blackprop.errors import ArgumentError, ReadingError
from blackprop.lab.instruments._scpi import split_block


class Resource(Protocol):
    """An opened link: the part of a PyVISA resource, or of an object of yours, that `VisaDevice` uses.

    Used where present: `read() -> str`, one line, without which the link cannot be brought back in step; `read_raw() ->
    bytes`, for binary blocks, up to and with a terminator; `clear()`, `close()`; `timeout` in ms.
    """

    def write(self, message: str, /) -> Any: ...
    def query(self, message: str, /) -> str: ...


class Lines:
    """One opened link.

    **Arguments:**

    - `resource`: the link.
    - `name`: for messages.
    - `framed`: whether each question goes through `query`, which returns its answer.
    - `timeout` (s): the longest wait for an answer.
    - `sets_timeout`: whether the resource's own `timeout` may be shortened to the remaining wait.

    `sent` holds the messages since it was last cleared, which an echo may repeat.
    """

    def __init__(self, resource: Any, *, name: str, framed: bool, timeout: float, sets_timeout: bool) -> None:
        if not (hasattr(resource, "write") and hasattr(resource, "query")):
            raise ArgumentError(f"`VisaDevice(resource)` must have `write` and `query`, got {resource!r}")
        self.resource, self._name = resource, name
        self.reads = hasattr(resource, "read") and not framed
        self.timeout, self._sets_timeout = timeout, sets_timeout and not framed
        self.sent: set[str] = set()
        self._waiting: deque[str] = deque()  # messages for `query`, where the resource cannot `read`
        self._lines: deque[str] = deque()  # received, and not looked at

    def deadline(self) -> float:
        return time.monotonic() + self.timeout

    def write(self, message: str) -> None:
        """Send a message that has no answer."""
        self.sent.add(message)
        self.resource.write(message)

    def send(self, message: str) -> None:
        """Send a message that has an answer."""
        if self.reads:
            self.write(message)
        else:
            self.sent.add(message)
            self._waiting.append(message)

    def line(self, deadline: float, skipped: set[str]) -> str:
        """The next line that is none of these, as far as more than one can be read."""
        while (line := self._next(deadline)) in skipped and (self.reads or self._waiting):
            pass
        return line

    def block(self, question: str, deadline: float, skipped: set[str]) -> bytes:
        """Ask for a binary block; lines before it are skipped if they are among these."""
        self._lines.clear()
        self.write(question)
        raw = b""
        while (found := split_block(raw)) is None:
            self._give(self._left(deadline))
            raw += self.resource.read_raw()
            if not raw.startswith(b"#") and raw.strip().decode("latin-1") in skipped:
                raw = b""
        content, rest = found
        self._lines.extend(rest.decode("latin-1").split("\n"))
        return content

    def drop_waiting(self) -> None:
        """Read the lines that have arrived, and drop them."""
        self._lines.clear()
        if self.reads and self._sets_timeout:
            end = self.deadline()
            with suppress(Exception):  # no line is left
                while time.monotonic() < end:
                    self._give(1e-3)
                    self.resource.read()
            self.restore_timeout()

    def drop_until_silent(self, deadline: float) -> None:
        """Drop lines until none has arrived for a quarter of the timeout."""
        with suppress(Exception):
            while True:
                self._next(min(deadline, time.monotonic() + self.timeout / 4))

    def restore_timeout(self) -> None:
        with suppress(Exception):  # of a link that has just failed
            self._give(self.timeout)

    def _next(self, deadline: float) -> str:
        if not self._lines:
            self._give(self._left(deadline))
            self._lines.extend(self._received().rstrip("\r\n").split("\n"))
        return self._lines.popleft().strip()

    def _received(self) -> str:
        message = None
        try:
            if self.reads:
                return self.resource.read()
            if not self._waiting:
                raise ReadingError(f"{self._name} answers by several lines: its resource needs a `read`")
            message = self._waiting.popleft()
            return self.resource.query(message)
        except UnicodeDecodeError as error:
            asked = f" {message!r}" if message is not None else ""
            raise ReadingError(f"{self._name} answered{asked} by {error.object!r}, which is not text") from error

    def _left(self, deadline: float) -> float:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"no answer within {self.timeout:g} s")
        return left

    def _give(self, seconds: float) -> None:
        if self._sets_timeout:
            self.resource.timeout = max(1.0, 1000 * seconds)  # ms
