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

MakeDevice = Callable[[Path, float], bp.Device]


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


class BothWays(bp.Device):
    """A simulator that is also read backwards and inside; every setting and every row of each kind is a line.

    Each row has its line before any of the kind is read, and each kind of reading takes `seconds`.
    """

    def __init__(self, inner: bp.Simulator, path: Path, seconds: float = 0.0) -> None:
        kept = {"linear": inner.linear, "coupling": inner.coupling, "capabilities": inner.capabilities}
        super().__init__(inner.in_shape, inner.out_shape, inner.theta, **kept)
        self.inner, self.path, self.seconds = inner, path, seconds

    def _noted(self, action: str, x: Tensor) -> Tensor:
        with self.path.open("a") as file:
            file.writelines(f"{action} {row}\n" for row in x.flatten(1).tolist())
        time.sleep(self.seconds)
        return getattr(self.inner, action)(x)

    def program(self, theta: Tensor, /) -> None:
        with self.path.open("a") as file:
            file.write(f"program {theta.tolist()}\n")
        self.inner.program(theta)

    def read(self, x: Tensor, /) -> Tensor:
        return self._noted("read", x)

    def read_back(self, g: Tensor, /) -> Tensor:
        return self._noted("read_back", g)

    def read_back_field(self, g: Tensor, /) -> Tensor:
        return self._noted("read_back_field", g)

    def tap_powers(self, x: Tensor, /) -> Tensor:
        return self._noted("tap_powers", x)

    def read_at_gains(self, x: Tensor, /) -> Tensor:
        return self._noted("read_at_gains", x)

    def read_fields(self, x: Tensor, /) -> Tensor:
        return self._noted("read_fields", x)


def mesh(path: Path, seconds: float = 0.0) -> BothWays:
    """A mesh with taps, read backwards as a real row and as a field."""
    chip = bp.devices.ImperfectMZIMesh(4, 3, phase=10.0, splitter=0.05)
    return BothWays(bp.devices.TappedMesh(chip, loss=0.1), path, seconds)


def factored(path: Path, seconds: float = 0.0) -> BothWays:
    """Two chips and attenuators between them, read there."""
    from blackprop.devices import Chip, SVDMesh, chips

    parts = [Chip(chips.Rectangular(), *size, splitter=0.05, seed=sum(size)) for size in ((4, 4), (4, 3))]
    return BothWays(SVDMesh(*parts), path, seconds)


def crossbar(path: Path, seconds: float = 0.0) -> BothWays:
    """Cells, read both ways."""
    return BothWays(bp.devices.Crossbar(4, 3), path, seconds)


def resonators(path: Path, seconds: float = 0.0) -> BothWays:
    """Coupled modes without Kerr term, whose fields are read inside."""
    return BothWays(bp.devices.CoupledModes(4, 3), path, seconds)


class PulseRecorder(bp.Device):
    """y = W x; every train that arrives is a line in a file, from which a device of another process knows W."""

    def __init__(self, path: Path, seconds: float = 0.0) -> None:
        super().__init__(3, 2, 1, linear=True, capabilities=[bp.core.Pulse(0.1, -9.0, 9.0)])
        self.path, self.seconds = path, seconds

    def program(self, theta: Tensor, /) -> None:
        del theta

    def read(self, x: Tensor, /) -> Tensor:
        w = torch.zeros(2, 3)
        for line in lines(self.path, "train"):
            numbers = [float(number) for number in line.split()[1:]]
            w += 0.1 * torch.outer(torch.tensor(numbers[3:5]), torch.tensor(numbers[:3])) * numbers[5]
        return x @ w.mT

    def pulse(self, trains: Tensor, /) -> None:
        for train in trains.tolist():
            time.sleep(self.seconds)
            with self.path.open("a") as file:
                file.write(f"train {' '.join(map(str, train))}\n")


class Mute(Exception):
    """An exception whose text cannot be had."""

    def __str__(self):
        raise RuntimeError("no text for you")


def lines(path: Path, start: str = "") -> list[str]:
    text = path.read_text() if path.exists() else ""
    return [line for line in text.splitlines() if line.startswith(start)]


def _serve(address: str, keys: Path, record: Path, seconds: float, make: MakeDevice, ready: Connection) -> None:
    device_module = ModuleType("device_of_the_test")
    device_module.__dict__["make"] = lambda: make(record, seconds)
    sys.modules["device_of_the_test"] = device_module
    torch.set_num_threads(1)

    class Ready(Console):
        def print(self, *words: object, **options: object) -> None:
            del options
            ready.send(str(words[0]))

    Serve("device_of_the_test:make", address, keys)(Ready())


class ServerProcess:
    """The command `blackprop serve` in a process that can be killed and started again, at one address."""

    def __init__(self, keys: Path, record: Path, seconds: float = 0.0, make: MakeDevice = Recorder) -> None:
        self.address = f"tcp://127.0.0.1:{free_port()}"
        self._arguments = (self.address, keys, record, seconds, make)
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
