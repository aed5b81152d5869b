"""Questions to one instrument and the answers that belong to them, over a link that may be late, repeat or die."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from blackprop.errors import DeviceError, ReadingError
from blackprop.lab.instruments._scpi import is_number
from blackprop.lab.instruments._scpi_lines import Lines, Resource

Answer = TypeVar("Answer", str, bytes)

SECONDS = 10.0  # for an answer, where neither the caller nor PyVISA says
WHAT_TO_DO = (
    "assign a link that you have opened anew to the device's `resource`, or give the device an address or a function "
    "that opens the link, in place of the link"
)


class Session:
    """Asks one instrument, and returns an answer only where it is certain that it belongs to the question.

    A **framed** link (GPIB, USB-TMC, VXI-11, HiSLIP) keeps questions and answers apart; after a failure it is cleared.
    A **stream** (a raw socket, a serial line) is a row of lines. There, every question is followed by `marker`, a
    question whose answer is a known text: an instrument answers in the order in which it is asked, so the line between
    the two is the answer, and any other line between them is an error. After a failure the link is opened anew by
    `reopen`; where it cannot be, the marker is asked until as many markers have been answered as were asked. A stream
    without a marker is emptied before each question, and opened anew after a failure.

    `connect` and each question end within `timeout` seconds, as far as the resource keeps to the time that it is given.
    """

    def __init__(
        self,
        resource: Resource,
        reopen: Callable[[], Resource] | None,
        *,
        name: str,
        is_framed: Callable[[Any], bool],
        marker: str | None,
        acknowledgement: str | None,
        timeout: float | None,
        sets_timeout: bool,
    ) -> None:
        self._reopen, self._name, self._is_framed = reopen, name, is_framed
        self._marker, self._acknowledgement = marker, acknowledgement
        self._timeout, self._sets_timeout = timeout if timeout is not None else SECONDS, sets_timeout
        self._marked_by: str | None = None  # the marker's answer, once it is known
        self._closed = False
        self.attach(resource)

    @property
    def resource(self) -> Any:
        return self._link.resource

    def attach(self, resource: Resource) -> None:
        """Use this link from now on."""
        self._framed = self._is_framed(resource)
        self._link = Lines(
            resource,
            name=self._name,
            framed=self._framed,
            timeout=self._timeout,
            sets_timeout=self._sets_timeout,
        )
        self._marked = self._marker is not None and not self._framed
        self._in_step, self._fresh = False, True
        self._owed, self._asked_at = 0, 0.0  # markers that are not answered yet, and when the last was asked

    def close(self) -> None:
        self._closed = True
        self.resource.close()

    def connect(self) -> None:
        """Raise unless the next answer will be that to the next question. Writes no command."""
        if self._closed:
            raise DeviceError(f"{self._name} is closed")
        if self._in_step:
            return
        deadline = self._link.deadline() - self._timeout / 4  # with the next question, within twice the timeout
        if not self._fresh:
            self._renew()
        self._fresh = False
        if self._marked:
            self._bring_in_step(deadline)
        self._in_step = True

    def write(self, command: str) -> None:
        """Send a command, and wait for its acknowledgement where there is one."""
        in_step, self._in_step = self._in_step, False
        try:
            if self._acknowledgement is None:
                self._link.write(command)
            else:
                self._link.send(command)
                self._await_acknowledgement(command)
        except Exception:
            self._clear()
            raise
        self._in_step = in_step

    def ask(self, question: str) -> str:
        """One line of text."""
        return self._asked(question, self._text)

    def ask_block(self, question: str) -> bytes:
        """The content of a definite-length block, IEEE 488.2: `#`, the number of digits, the length, the bytes."""
        return self._asked(question, self._block)

    def discard(self) -> None:
        """Note that the last answer did not fit the question, and that more of it may follow."""
        if not self._marked:  # a marked answer belongs to its question
            self._in_step = False
            self._clear()

    def _asked(self, question: str, receive: Callable[[str, float], Answer]) -> Answer:
        self._in_step = False
        deadline = self._link.deadline()
        try:
            if not self._marked:
                self._link.drop_waiting()
            answer = receive(question, deadline)
            if self._marked:
                self._confirm(question, answer, deadline)
        except Exception:
            self._clear()
            raise
        finally:
            self._link.restore_timeout()
        self._link.sent.clear()
        self._in_step = True
        return answer

    def _text(self, question: str, deadline: float) -> str:
        self._link.send(question)
        while (line := self._line(deadline)) == self._marked_by:
            self._owed = max(0, self._owed - 1)  # late, or a second copy
        return line

    def _block(self, question: str, deadline: float) -> bytes:
        return self._link.block(question, deadline, {"", question, self._marked_by or ""} | self._link.sent)

    def _line(self, deadline: float) -> str:
        """Return the next line, except echoes, empty lines, and acknowledgements that cannot be a reading."""
        skipped = self._link.sent | {""}
        if self._acknowledgement is not None and not is_number(self._acknowledgement):
            skipped.add(self._acknowledgement)
        return self._link.line(deadline, skipped)

    def _await_acknowledgement(self, command: str) -> None:
        passed = self._link.sent | {self._marked_by or ""}  # echoes, late markers
        try:
            line = self._link.line(self._link.deadline(), passed - {self._acknowledgement})
        finally:
            self._link.restore_timeout()
        if line != self._acknowledgement:
            raise DeviceError(
                f"{self._name} answered {command!r} by {line!r}, expected the acknowledgement {self._acknowledgement!r}"
            )

    def _confirm(self, question: str, answer: object, deadline: float) -> None:
        self._ask_marker()
        line = self._line(deadline)
        if line != self._marked_by:
            raise ReadingError(
                f"{self._name} answered {question!r} by {answer!r:.80}, and {self._marker!r}, asked next, by {line!r}, "
                f"not {self._marked_by!r}: the first may belong to another question. An instrument that answers "
                "commands needs `acknowledgement=`"
            )
        self._owed -= 1

    def _ask_marker(self) -> None:
        assert self._marker is not None
        self._owed += 1
        self._asked_at = time.monotonic()
        self._link.send(self._marker)

    def _bring_in_step(self, deadline: float) -> None:
        heard = None
        try:
            if self._owed and time.monotonic() > self._asked_at + 2 * self._timeout:
                self._link.drop_until_silent(deadline)
                self._owed = 0  # lost, not late
            if self._marked_by is None:
                self._learn(deadline)
            elif not self._owed:
                self._ask_marker()
            while self._owed:
                heard = self._heard(deadline)
                self._owed -= heard == self._marked_by
        except DeviceError:
            raise
        except Exception as error:
            expected = "" if self._marked_by is None else f" by {self._marked_by!r}"
            last = "" if heard in (None, self._marked_by) else f", but by {heard!r}"
            raise TimeoutError(
                f"the marker question {self._marker!r} was not answered{expected} within {self._timeout:g} s{last} "
                f"({type(error).__name__}: {error}). Where the instrument does not know the question, name another by "
                f"`marker=`; where the link was lost, {WHAT_TO_DO}"
            ) from error
        finally:
            self._link.restore_timeout()
        self._link.sent.clear()

    def _heard(self, deadline: float) -> str:
        """Return the next line of any kind."""
        try:
            return self._line(deadline)
        except ReadingError as error:
            if not self._link.reads:  # no more can be had of it
                raise
            return str(error)

    def _learn(self, deadline: float) -> None:
        """The marker's answer: a line that comes twice running, since it is asked twice and greetings are not."""
        self._ask_marker()
        self._ask_marker()
        last, line = None, self._line(deadline)
        while line != last:
            last, line = line, self._line(deadline)
        if is_number(line):
            raise DeviceError(
                f"{self._name} answers the marker question {self._marker!r} by {line!r}, as it would a reading: name "
                "a question that is answered by a text, by `marker=`, or give `marker=None` if your object keeps "
                "answers and questions apart itself"
            )
        self._marked_by = line
        self._owed -= 2

    def _renew(self) -> None:
        if self._reopen is not None:
            with suppress(Exception):  # of a link that is lost already
                self.resource.close()
            self.attach(self._reopen())
        elif not (self._marked and self._link.reads):
            raise ConnectionError(f"the link failed, and answers may be late on it: {WHAT_TO_DO}")

    def _clear(self) -> None:
        """After a failure. A stream is not cleared: on some, that waits for ever once the peer has gone."""
        if self._framed:
            with suppress(Exception):  # the failure that led here is the one raised
                self.resource.clear()
                self._in_step = True
