"""A device behind a program that is started once and answers lines with lines."""

from __future__ import annotations

import abc
import contextlib
import queue
import subprocess
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from blackprop.core._theta import ThetaSpec
from blackprop.core.capabilities._capability import Shape
from blackprop.devices import Device
from blackprop.errors import ArgumentError, InDoubtError, UnreachableError

PATIENCE = 2.0  # s that a program has to end by itself
KEPT = 20  # lines of its complaints that are kept


class Program:
    """A running program: text in, lines out, and its last complaints."""

    def __init__(self, command: Sequence[str], timeout: float) -> None:
        self.command, self.timeout = list(command), timeout
        self._process: subprocess.Popen[str] | None = None
        self._end = lambda: None
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._complaints: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the program. Raises `UnreachableError` if that is not possible."""
        self.close()
        pipe = subprocess.PIPE
        try:
            process = subprocess.Popen(
                self.command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, encoding="utf-8", errors="replace"
            )
        except OSError as error:
            raise UnreachableError(f"{self.command[0]!r} cannot be started: {error}") from error
        self._process, self._lines, self._complaints = process, queue.SimpleQueue(), queue.SimpleQueue()
        for stream, put in ((process.stdout, self._lines.put), (process.stderr, self._complaints.put)):
            threading.Thread(target=_hand_on, args=(stream, put), daemon=True).start()
        self._end = weakref.finalize(self, _ended, process)

    def exchange(self, text: str, enough: Callable[[str], bool]) -> list[str]:
        """Send `text` and return the lines up to the first for which `enough` holds, that line included.

        Raises `InDoubtError` if the program ends before, or is silent for longer than `timeout`; it is then stopped.
        """
        process = self._process
        assert process is not None
        assert process.stdin is not None
        watch = threading.Timer(self.timeout, process.kill)  # a program that does not read blocks the writing, too
        watch.start()
        found: list[str] = []
        try:
            process.stdin.write(text)
            process.stdin.flush()
            while (line := self._lines.get()) is not None:
                found.append(line)
                if enough(line):
                    return found
        except OSError:
            pass  # it has ended, and the reason follows
        finally:
            late = watch.finished.is_set()
            watch.cancel()
        with contextlib.suppress(subprocess.TimeoutExpired):  # it may have closed its output and live on
            process.wait(PATIENCE)
        code, words = process.poll(), self.complaints(None)
        self.close()
        cause = f"did not answer within {self.timeout:g} s and was stopped" if late else f"ended with code {code}"
        said = f"; it said: {' / '.join(words[-3:])}" if words else ""
        raise InDoubtError(
            f"{self.command[0]!r} {cause} after {len(found)} lines, so the readings are lost{said}. It is started "
            "again at the next round"
        )

    def complaints(self, last: str | None) -> list[str]:
        """The lines of its standard error since the last call, up to one that contains `last` (None: to its end)."""
        found: deque[str] = deque(maxlen=KEPT)
        with contextlib.suppress(queue.Empty):
            while (line := self._complaints.get(timeout=PATIENCE)) is not None:
                if last is not None and last in line:
                    break
                found.append(line)
        return list(found)

    def close(self) -> None:
        """End the program: its input ends, then it is asked to, then it is stopped."""
        self._end()
        self._process = None


def _hand_on(stream: Any, put: Callable[[str | None], object]) -> None:
    with contextlib.suppress(ValueError):  # the stream was closed
        for line in stream:
            put(line.rstrip("\n"))
    put(None)


def _ended(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(OSError):
        if process.stdin is not None:
            process.stdin.close()
    for stop in (lambda: None, process.terminate, process.kill):
        stop()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
            break
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()


class ProcessDevice(Device):
    """The base of devices that a program computes: it is started at the first round and kept.

    A program that ends, or does not answer in time, raises `InDoubtError` with its exit code and its last complaints,
    and is started again at the next round. It is ended by `close()`, at the end of a `with` block, when the device is
    no longer used, and when Python ends.

    - `command`: the program and its arguments.
    - `timeout` (s): for the answer to one query.
    - The others are those of `Device`.
    """

    def __init__(
        self,
        command: Sequence[str],
        in_shape: int | Shape,
        out_shape: int | Shape,
        theta: ThetaSpec,
        *,
        timeout: float,
        **declared: Any,
    ) -> None:
        if isinstance(command, str) or not command:
            raise ArgumentError(
                f"`command` takes the program and its arguments, such as ['./simulate'], got {command!r}"
            )
        if not timeout > 0:
            raise ArgumentError(f"`timeout` must be positive, got {timeout}")
        super().__init__(in_shape, out_shape, theta, **declared)
        self._program = Program(command, timeout)
        self._setting: Tensor | None = None

    @abc.abstractmethod
    def _answer(self, program: Program, setting: Tensor, x: Tensor, fresh: bool) -> list[list[float]]:
        """The readings of the rows `x` (rows, d_in); `fresh`: the program has just been started."""

    def program(self, theta: Tensor, /) -> None:
        self._setting = theta.detach().double().cpu()

    def read(self, x: Tensor, /) -> Tensor:
        if self._setting is None:
            raise ArgumentError(f"{self} must be programmed before it is read")
        if not len(x):
            return x.new_zeros(0, *self.out_shape)
        fresh = not self._program.running
        if fresh:
            self._program.start()
        rows = self._answer(self._program, self._setting, x.detach().double().cpu().flatten(1), fresh)
        return torch.tensor(rows, dtype=torch.float64).reshape(len(x), *self.out_shape).to(x.device, x.dtype)

    def close(self) -> None:
        """End the program. The next round starts it again."""
        self._program.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
