"""A long life of two servers in short: memory and open descriptors of both, and of their clients, stay where they are.

    python benchmarks/lab/soak.py --minutes 10

Clients come and go, measure rounds of all sizes and compare the readings, fall silent for longer than a lease, vanish
without a goodbye, send messages that are wrong; strangers knock. One server lives for the whole time, the other is
stopped or killed every few seconds and started again. With leases of 0.5 s in place of 30 s and a visit every fraction
of a second, ten minutes hold what a bench sees in a day or more.

Prints, of each process, resident memory and descriptors: in the first quarter of the samples (the first tenth of the
time is left out), in the last (medians), and the slope. Samples are taken while nobody measures: a round of 8 MiB under
way is no leak.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import multiprocessing
import os
import random
import signal
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

import torch
from fuzz import drain, memory, wrong

import blackprop as bp
from blackprop.errors import BlackpropError, BusyError, UnreachableError
from blackprop.lab import RemoteDevice, Server
from blackprop.lab.remote.client._connection import Connection
from blackprop.lab.remote.client._status import ask_status
from blackprop.lab.remote.shared import _messages as say
from blackprop.lab.remote.shared import _wire as wire
from blackprop.lab.remote.shared._keys import make_keys

LEASE, TURN = 0.5, 0.2  # s
WIDTHS = (64, 32)
GROWTH = 10.0  # MiB


def serve(address: str, keys: Path, ready: Pipe) -> None:
    torch.set_num_threads(1)
    server = Server(
        lambda: bp.devices.LightModulator(*WIDTHS), address, keys=keys, lease_seconds=LEASE, turn_seconds=TURN
    )
    signal.signal(signal.SIGTERM, lambda *_: server.stop())
    ready.send(True)
    server.serve()


class Served:
    """A server in a process of its own."""

    def __init__(self, keys: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        self._keys, self.restarts = keys, 0
        self.start()

    def start(self) -> None:
        ready, theirs = multiprocessing.Pipe(duplex=False)
        self.process = multiprocessing.Process(target=serve, args=(self.address, self._keys, theirs), daemon=True)
        self.process.start()
        theirs.close()
        ready.recv()
        ready.close()

    def end(self, *, kill: bool) -> None:
        (self.process.kill if kill else self.process.terminate)()
        self.process.join()
        self.process.close()
        self.restarts += 1


def descriptors(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


class Visitor(threading.Thread):
    """Visits one server after the other, until it is over."""

    def __init__(self, seed: int, servers: list[Served], keys: Path, stranger: Path, over: threading.Event) -> None:
        super().__init__()
        self.rng, self.draws = random.Random(seed), torch.Generator().manual_seed(seed)
        self.servers, self.keys, self.stranger, self.over = servers, keys, stranger, over
        self.local = bp.devices.LightModulator(*WIDTHS)
        self.done: Counter[str] = Counter()
        self.rests, self.may_go_on = threading.Event(), threading.Event()
        self.may_go_on.set()
        self.failure: BaseException | None = None

    def run(self) -> None:
        visits = [self.measures] * 6 + [self.vanishes, self.falls_silent, self.is_wrong, self.is_a_stranger, self.looks]
        try:
            while not self.over.is_set():
                if not self.may_go_on.is_set():
                    self.rests.set()
                    self.may_go_on.wait()
                    self.rests.clear()
                visit, server = self.rng.choice(visits), self.rng.choice(self.servers)
                try:
                    visit(server.address)
                    self.done[visit.__name__] += 1
                except (BusyError, UnreachableError) as error:
                    self.done[type(error).__name__] += 1
        except BaseException as error:  # told at the end
            self.failure = error
            self.over.set()
        finally:
            self.rests.set()

    def round(self, device: RemoteDevice) -> None:
        rng = self.rng
        rows, settings = rng.choice([(1, 1), (8, 1), (8, 20), (256, 4), (0, 3), (4096, 1), (2048, 8), (32768, 1)])
        x = torch.randn(rows, WIDTHS[0], generator=self.draws)
        thetas = torch.randn(settings, device.theta.size, generator=self.draws)
        queries = [bp.Query(x, theta, rng.choice(list(bp.Purpose))) for theta in thetas]
        for y, expected in zip(device.measure(queries), self.local.measure(queries), strict=True):
            torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
        self.done["rounds"] += 1
        self.done["rows"] += rows * settings

    def come(self, address: str) -> RemoteDevice:
        return RemoteDevice(address, keys=self.keys, wait=20, deadline=20, repeat_in_doubt=True)

    def measures(self, address: str) -> None:
        with self.come(address) as device:
            for _ in range(self.rng.randrange(1, 12)):
                self.round(device)

    def vanishes(self, address: str) -> None:
        device = self.come(address)
        self.round(device)
        device._connection.farewell = None
        device.close()

    def falls_silent(self, address: str) -> None:
        with self.come(address) as device:
            self.round(device)
            self.over.wait(2 * LEASE)
            self.round(device)

    def is_wrong(self, address: str) -> None:
        connection = Connection(address, self.keys)
        fields = {"session": self.rng.randbytes(16).hex(), "boot": "", "fresh": False, "resume": "", "seed": 1}
        with contextlib.closing(connection):
            for _ in range(100):
                connection.send(wrong(self.rng, fields, bytes(600)))
            drain(connection)
        self.done["wrong messages"] += 100

    def is_a_stranger(self, address: str) -> None:
        connection = Connection(address, self.stranger)
        with contextlib.closing(connection):
            connection.send(wire.encode(say.STATUS, {"id": 1}))
            if connection.receive(0.05) is not None:
                raise AssertionError("a stranger was answered")

    def looks(self, address: str) -> None:
        connection = Connection(address, self.keys)
        with contextlib.closing(connection):
            ask_status(connection)


def slope(samples: list[tuple[float, float]]) -> float:
    """Of a line through the samples, in units an hour."""
    return 3600 * statistics.linear_regression(*zip(*samples, strict=True)).slope


def told(name: str, samples: list[tuple[float, float, int]]) -> float:
    """Print how memory and descriptors went; returns by how many MiB it grew."""
    lines, quarter, grown = [], max(1, len(samples) // 4), 0.0
    for what, unit, at in (("memory", " MiB", 1), ("descriptors", "", 2)):
        values = [sample[at] for sample in samples]
        first, last = statistics.median(values[:quarter]), statistics.median(values[-quarter:])
        grown = grown if at == 2 else last - first
        steepness = slope([(sample[0], float(sample[at])) for sample in samples])
        span = f"from {min(values):.0f} to {max(values):.0f}"
        lines.append(f"{what} {first:.1f} -> {last:.1f}{unit} ({steepness:+.1f}{unit}/h, {span})")
    print(f"{name:9s} {', '.join(lines)}")
    return grown


@contextlib.contextmanager
def at_rest(visitors: list[Visitor]) -> Iterator[None]:
    """Nobody visits meanwhile."""
    for visitor in visitors:
        visitor.may_go_on.clear()
    for visitor in visitors:
        visitor.rests.wait()
    time.sleep(0.3)
    gc.collect()
    yield
    for visitor in visitors:
        visitor.may_go_on.set()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--visitors", type=int, default=3)
    parser.add_argument("--restart", type=float, default=15.0, help="seconds between two of the second server")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        keys, stranger = Path(folder) / "keys", Path(folder) / "stranger"
        make_keys(keys)
        make_keys(stranger)
        (stranger / "server.key").write_bytes((keys / "server.key").read_bytes())
        steady, restarted = servers = [Served(keys), Served(keys)]
        over, begun = threading.Event(), time.monotonic()
        visitors = [Visitor(seed, servers, keys, stranger, over) for seed in range(options.visitors)]
        for visitor in visitors:
            visitor.start()
        seconds, life = 60 * options.minutes, time.monotonic()
        ours: list[tuple[float, float, int]] = []
        theirs: list[tuple[float, float, int]] = []
        lives: list[tuple[float, float, int]] = []
        while (now := time.monotonic() - begun) < seconds and not over.wait(min(6.0, seconds / 50)):
            if now > seconds / 10:
                with at_rest(visitors):
                    for pid, samples in ((os.getpid(), ours), (steady.process.pid or 0, theirs)):
                        samples.append((now, memory(pid), descriptors(pid)))
            if time.monotonic() - life > options.restart:
                with at_rest(visitors):
                    pid = restarted.process.pid or 0
                    lives.append((now, memory(pid), descriptors(pid)))
                restarted.end(kill=restarted.restarts % 2 == 0)
                restarted.start()
                life = time.monotonic()
        over.set()
        for visitor in visitors:
            visitor.join()
        time.sleep(1)
        gc.collect()
        connection = Connection(steady.address, keys)
        report = ask_status(connection)
        connection.close()
        done = sum((visitor.done for visitor in visitors), Counter())
        print(f"{options.minutes:g} minutes, {restarted.restarts} restarts: {dict(done)}")
        of_it = ", ".join(f"{report[name]:,} {name}" for name in ("rounds", "rows", "faults", "refused", "sessions"))
        print(f"the steady server: {of_it}")
        grown = [told("client", ours), told("server", theirs)]
        if len(lives) > 1:
            told("restarted", lives)
        for server in servers:
            server.end(kill=True)
    failures = [visitor.failure for visitor in visitors if visitor.failure is not None]
    for failure in failures:
        print(f"{type(failure).__name__}: {failure}" if isinstance(failure, BlackpropError) else repr(failure))
    sys.exit(1 if failures or max(grown) > GROWTH else 0)


if __name__ == "__main__":
    multiprocessing.set_start_method("forkserver")
    main()
