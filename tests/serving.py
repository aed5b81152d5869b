"""Servers for tests: in a thread, or as a process that can be killed; devices that keep a record on disk."""

from __future__ import annotations

import contextlib
import multiprocessing
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType

import torch
from rich.console import Console
from torch import Tensor

import blackprop as bp
from blackprop.cli._lab_commands import Serve
from blackprop.lab import Server


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextlib.contextmanager
def served(
    make: Callable[[], bp.Device], keys: Path, bind: str = "tcp://127.0.0.1:0", **options: object
) -> Iterator[Server]:
    server = Server(make, bind, keys=keys, **options)  # pyright: ignore[reportArgumentType]
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join()


class Recorder(bp.Device):
    """y = x · θ; every setting that is written, and every row that is read, is a line in a file."""

    def __init__(self, path: Path, seconds: float = 0.0) -> None:
        super().__init__(3, 3, bp.ThetaSpec(3, low=-2.0, high=2.0), linear=True)
        self.path, self.seconds = path, seconds
        self.held: Tensor | None = None

    def _write(self, line: str) -> None:
        with self.path.open("a") as file:
            file.write(line + "\n")

    def program(self, theta: Tensor, /) -> None:
        self._write(f"program {theta.tolist()}")
        self.held = theta.clone()

    def read(self, x: Tensor, /) -> Tensor:
        time.sleep(self.seconds)
        for row in x.tolist():
            self._write(f"read {row}")
        assert self.held is not None
        return x * self.held


class Mute(Exception):
    """An exception whose text cannot be had."""

    def __str__(self):
        raise RuntimeError("no text for you")


def lines(path: Path, start: str = "") -> list[str]:
    text = path.read_text() if path.exists() else ""
    return [line for line in text.splitlines() if line.startswith(start)]


def _serve(address: str, keys: Path, record: Path, seconds: float, ready: Connection) -> None:
    device_module = ModuleType("device_of_the_test")
    device_module.__dict__["make"] = lambda: Recorder(record, seconds)
    sys.modules["device_of_the_test"] = device_module
    torch.set_num_threads(1)

    class Ready(Console):
        def print(self, *words: object, **options: object) -> None:
            del options
            ready.send(str(words[0]))

    Serve("device_of_the_test:make", address, keys)(Ready())


class ServerProcess:
    """The command `blackprop serve` in a process that can be killed and started again, at one address."""

    def __init__(self, keys: Path, record: Path, seconds: float = 0.0) -> None:
        self.address = f"tcp://127.0.0.1:{free_port()}"
        self._arguments = (self.address, keys, record, seconds)
        self._context = multiprocessing.get_context("forkserver")  # a fork of a small process that has imported all
        self._context.set_forkserver_preload(
            ["blackprop.cli._lab_commands", "blackprop.lab.remote.server._server", "tyro", "zmq.auth"]
        )
        self.start()

    def start(self) -> None:
        self.said, said = self._context.Pipe(duplex=False)
        self.process = self._context.Process(target=_serve, args=(*self._arguments, said), daemon=True)
        self.process.start()
        said.close()
        assert self.said.recv().startswith("serving")

    def kill(self) -> None:
        self.process.kill()
        self._reap()

    def terminate(self) -> tuple[int | None, str]:
        """SIGTERM; the exit code and its last words."""
        self.process.terminate()
        words = self.said.recv()
        return self._reap(), words

    def _reap(self) -> int | None:
        self.process.join(20)
        self.said.close()
        return self.process.exitcode


def query(k: int = 0, rows: int = 2, purpose: bp.Purpose = bp.Purpose.FORWARD) -> bp.Query:
    """A query that is like no other."""
    return bp.Query(torch.full((rows, 3), 1.0 + k), torch.tensor([1.0, -1.0, 0.5]), purpose)


def eventually(condition: Callable[[], bool], seconds: float = 3.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()
