"""An instrument behind a raw socket that speaks SCPI badly, and the ways in which a user reaches it.

It answers in the order in which it is asked, as instruments do, and serves one connection after the other. It counts
what it did itself: settings written, rows driven.
"""

from __future__ import annotations

import contextlib
import random
import select
import socket
import struct
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from pyvisa import highlevel, rname
from pyvisa.constants import ResourceAttribute, StatusCode
from pyvisa.util import LibraryPath

IDENTITY = "ACME,MODEL 1,0,1.0"


@dataclass(frozen=True)
class Faults:
    """How often each happens, of all questions; `timeout` in s is the one that the client was given."""

    late: float = 0.0
    """The instrument stalls for longer than the timeout, and answers then."""
    twice: float = 0.0
    """The answer comes a second time, at once or a little later."""
    echo: float = 0.0
    """The question comes back first, as a command may."""
    pieces: float = 0.0
    """The answer comes in three pieces, with pauses."""
    silent: float = 0.0
    """No answer at all."""
    dies: float = 0.0
    """The connection closes, before or after the question is answered; half the time it cannot be opened for a while.
    The settings are lost."""
    timeout: float = 0.5


class Scpi:
    """`y = θ_A x_C + θ_B x_D`: `VOLT A,0.5` sets one of the four, `READ?` measures.

    **Arguments:** `acknowledges`, the line that answers each command, None for no such line; `binary`, whether a
    reading is a block of float64 in place of text; `greets`, whether a connection begins with a line of text.
    """

    def __init__(
        self,
        faults: Faults | None = None,
        *,
        acknowledges: str | None = None,
        binary: bool = False,
        greets: bool = False,
        seed: int = 0,
    ) -> None:
        self.faults, self._rng = faults or Faults(), random.Random(seed)
        self._acknowledges, self._binary, self._greets = acknowledges, binary, greets
        self.volts = dict.fromkeys("ABCD", 0.0)
        self.rows = self.programmings = self.connections = 0
        self.injected: Counter[str] = Counter()
        self.script: list[str] = []  # faults of the next questions but the marker's, before any is drawn
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        return f"TCPIP0::127.0.0.1::{self.port}::SOCKET"

    def close(self) -> None:
        self._over.set()
        self._listener.close()
        self._thread.join(5)

    def _serve(self) -> None:
        while not self._over.is_set():
            try:
                if not select.select([self._listener], [], [], 0.05)[0]:
                    continue
                connection, _ = self._listener.accept()
            except (OSError, ValueError):
                return
            self.connections += 1
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with connection, contextlib.suppress(OSError):
                self._attend(connection)

    def _attend(self, connection: socket.socket) -> None:
        if self._greets:
            connection.sendall(b"Welcome\r\n")
        waiting = b""
        while not self._over.is_set():
            if not select.select([connection], [], [], 0.05)[0]:
                continue
            received = connection.recv(4096)
            waiting += received
            while b"\n" in waiting:
                line, _, waiting = waiting.partition(b"\n")
                if not self._obey(connection, line.decode().strip()):
                    return
            if not received:
                return

    def _obey(self, connection: socket.socket, line: str) -> bool:
        """Whether the connection goes on."""
        if not line.endswith("?"):
            name, volts = line.removeprefix("VOLT ").split(",")
            self.volts[name] = float(volts)
            self.programmings += name == "B"
            self.rows += name == "D"
            if self._acknowledges is not None:
                connection.sendall(f"{self._acknowledges}\n".encode())
            return True
        fault = self.script.pop(0) if self.script and line != "*IDN?" else self._drawn()
        if fault:
            self.injected[fault] += 1
        answer = IDENTITY.encode() if line == "*IDN?" else self._reading()
        return self._answer(connection, line, answer + b"\n", fault)

    def _reading(self) -> bytes:
        volts = self.volts
        y = volts["A"] * volts["C"] + volts["B"] * volts["D"]
        return b"#18" + struct.pack("<d", y) if self._binary else f"{y:+.15E}".encode()

    def _drawn(self) -> str:
        u = self._rng.random()
        for name in ("late", "twice", "echo", "pieces", "silent", "dies"):
            if u < (rate := getattr(self.faults, name)):
                return name
            u -= rate
        return ""

    def _answer(self, connection: socket.socket, question: str, answer: bytes, fault: str) -> bool:
        timeout, u = self.faults.timeout, self._rng.random()
        if fault == "late":
            time.sleep((1.1 + u) * timeout)
        elif fault == "echo":
            connection.sendall(question.encode() + b"\r\n")
        elif fault == "dies" and u < 0.5:
            self._die(refuses=u < 0.25)
            return False
        if fault == "pieces":
            for part in (answer[:3], answer[3:-2], answer[-2:]):
                connection.sendall(part)
                time.sleep(0.002 * u)
        elif fault != "silent":
            connection.sendall(answer)
        if fault == "twice":
            time.sleep(0.01 * max(0.0, u - 0.5))
            connection.sendall(answer)
        if fault == "dies":
            self._die(refuses=u > 0.75)
            return False
        return True

    def _die(self, refuses: bool) -> None:
        self.volts = dict.fromkeys("ABCD", 0.0)
        if refuses:
            self._listener.close()
            time.sleep(self.faults.timeout)
            self._listener = socket.create_server(("127.0.0.1", self.port))


class RawSocket:
    """A user's own link: lines over a TCP connection. `timeout` in ms, as PyVISA's."""

    def __init__(self, port: int, timeout: float = 0.2) -> None:
        self.timeout = 1000 * timeout
        self._socket = socket.create_connection(("127.0.0.1", port), timeout)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._waiting = b""

    def write(self, message: str) -> None:
        self._socket.sendall(f"{message}\n".encode())

    def read_raw(self) -> bytes:
        end = time.monotonic() + self.timeout / 1000
        while b"\n" not in self._waiting:
            self._socket.settimeout(max(1e-4, end - time.monotonic()))
            received = self._socket.recv(4096)
            if not received:
                raise ConnectionError("the instrument closed the connection")
            self._waiting += received
        line, newline, self._waiting = self._waiting.partition(b"\n")
        return line + newline

    def read(self) -> str:
        return self.read_raw().decode("ascii").rstrip("\r\n")

    def query(self, message: str) -> str:
        self.write(message)
        return self.read()

    def clear(self) -> None:
        """As some libraries do it: at the end of file it loops for ever."""
        while select.select([self._socket], [], [], 0.1)[0]:
            self._socket.recv(4096)

    def close(self) -> None:
        self._socket.close()


class Sockets(highlevel.VisaLibraryBase):
    """PyVISA's raw sockets without a VISA library: reads as its backend in pure Python does, which tells of a closed
    connection by a time-out alone, and whose clear loops at the end of file.
    """

    @staticmethod
    def get_library_paths() -> tuple[Any, ...]:
        return (LibraryPath("sockets"),)

    def _init(self) -> None:
        self._links: dict[Any, socket.socket] = {}
        self._waiting: dict[Any, bytes] = {}
        self._attributes: dict[Any, dict[Any, Any]] = {}
        self._numbers = iter(range(1, 10**9))

    def open_default_resource_manager(self) -> Any:
        return next(self._numbers), StatusCode.success

    def open(self, session: Any, resource_name: str, access_mode: Any = 0, open_timeout: Any = 0) -> Any:
        del access_mode
        parsed: Any = rname.parse_resource_name(resource_name)
        try:
            link = socket.create_connection((parsed.host_address, int(parsed.port)), (open_timeout or 2000) / 1000)
        except OSError:
            return 0, self.handle_return_value(None, StatusCode.error_resource_not_found)
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        number = next(self._numbers)
        self._links[number], self._waiting[number] = link, b""
        self._attributes[number] = {ResourceAttribute.timeout_value: 2000}
        return number, self.handle_return_value(session, StatusCode.success)

    def close(self, session: Any) -> Any:
        if session in self._links:
            self._links.pop(session).close()
        return StatusCode.success

    def read(self, session: Any, count: int) -> Any:
        link, attributes = self._links[session], self._attributes[session]
        ends = bytes([attributes.get(ResourceAttribute.termchar, 10)])
        end = time.monotonic() + attributes[ResourceAttribute.timeout_value] / 1000
        while True:
            waiting = self._waiting[session]
            at = waiting.find(ends) + 1
            if at or len(waiting) >= count:
                size = min(at or count, count)
                self._waiting[session] = waiting[size:]
                status = (
                    StatusCode.success_termination_character_read if size == at else StatusCode.success_max_count_read
                )
                return waiting[:size], self.handle_return_value(session, status)
            left = end - time.monotonic()
            if left <= 0:
                self.handle_return_value(session, StatusCode.error_timeout)
            if select.select([link], [], [], max(0.0, min(left, 0.05)))[0]:
                received = link.recv(4096)
                self._waiting[session] += received
                if not received:
                    time.sleep(1e-3)

    def write(self, session: Any, data: bytes) -> Any:
        self._links[session].sendall(data)
        return len(data), self.handle_return_value(session, StatusCode.success)

    def clear(self, session: Any) -> Any:
        while select.select([self._links[session]], [], [], 0.1)[0]:
            self._links[session].recv(4096)
        return StatusCode.success

    def get_attribute(self, session: Any, attribute: Any) -> Any:
        return self._attributes[session].get(attribute, 0), StatusCode.success

    def set_attribute(self, session: Any, attribute: Any, attribute_state: Any) -> Any:
        self._attributes[session][attribute] = attribute_state
        return StatusCode.success

    def disable_event(self, session: Any, event_type: Any, mechanism: Any) -> Any:
        del session, event_type, mechanism
        return StatusCode.success

    def discard_events(self, session: Any, event_type: Any, mechanism: Any) -> Any:
        del session, event_type, mechanism
        return StatusCode.success
