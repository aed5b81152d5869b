"""What a remote device costs beyond the wire: its rounds against the same bytes through a bare CURVE socket pair.

Each server runs in a process of its own, the clients in this one, in turns, so that whatever else the machine does
disturbs both alike. The device does nothing: it hands its rows back. Of small rounds the processor time is told too, of
all threads of each process, which a busy machine disturbs less than the clock, but not little: its caches are cold.

    python benchmarks/lab/overhead.py
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import zmq
from torch import Tensor

import blackprop as bp
from blackprop.lab import RemoteDevice, Server
from blackprop.lab.remote.shared import _rounds as rounds
from blackprop.lab.remote.shared import _wire as wire
from blackprop.lab.remote.shared._keys import client_pair, make_keys, server_pair

WIDTH = 256


class Mirror(bp.Device):
    """y = x, at no cost."""

    def __init__(self) -> None:
        super().__init__(WIDTH, WIDTH, 64)

    def program(self, theta: Tensor, /) -> None:
        del theta

    def read(self, x: Tensor, /) -> Tensor:
        return x

    def measure(self, queries: Sequence[bp.Query], /) -> list[Tensor]:
        self._programmed = queries[-1].theta
        return [query.x for query in queries]


def bare_server(keys: Path, ready: Connection) -> None:
    """Sends back what it is sent."""
    context = zmq.Context()
    socket = context.socket(zmq.ROUTER)
    socket.curve_server = True
    socket.curve_publickey, socket.curve_secretkey = server_pair(keys)
    ready.send(f"tcp://127.0.0.1:{socket.bind_to_random_port('tcp://127.0.0.1')}")
    while True:
        route, *frames = socket.recv_multipart(copy=False)
        socket.send_multipart([route, *frames], copy=False)


def served(keys: Path, ready: Connection) -> None:
    torch.set_num_threads(1)
    server = Server(Mirror, "tcp://127.0.0.1:0", keys=keys)
    ready.send(server.address)
    server.serve()


def started(target: object, keys: Path) -> tuple[multiprocessing.Process, str]:
    """A server in a process of its own, and its address."""
    ready, theirs = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.Process(target=target, args=(keys, theirs), daemon=True)  # pyright: ignore[reportArgumentType]
    process.start()
    return process, ready.recv()


def seconds(ask: object, *arguments: object) -> float:
    begun = time.perf_counter()
    ask(*arguments)  # pyright: ignore[reportCallIssue]
    return time.perf_counter() - begun


def sender(bare: zmq.Socket, query: bp.Query, *, pieces: bool = False) -> Callable[[], None]:
    """Sends the bytes of a round through the bare pair, and waits for them to come back."""
    fields = {"session": "0" * 32, "boot": "0" * 16, "fresh": False, "id": 1, "kinds": ["read"]}
    frames = wire.encode("round", fields, rounds.pack([query]))
    sent = frames if pieces else [b"".join(frames)]

    def send() -> None:
        bare.send_multipart(sent, copy=False)
        bare.recv_multipart(copy=False)

    return send


def compare(
    device: RemoteDevice, bare: zmq.Socket, rows: int, times: int, *, pieces: bool = False
) -> list[tuple[float, float]]:
    """Seconds of a round through the device, and of its bytes through the bare pair, often."""
    query = bp.Query(torch.randn(rows, WIDTH), torch.zeros(64), bp.Purpose.FORWARD)
    through_bare = sender(bare, query, pieces=pieces)
    for _ in range(max(1, times // 10)):
        device.measure([query])
        through_bare()
    return [(seconds(device.measure, [query]), seconds(through_bare)) for _ in range(times)]


def processor_seconds(pid: int) -> float:
    """Of all threads of a process so far."""
    stats = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(stat.read_text().split()[0]) for stat in stats) / 1e9


def processor(ask: Callable[[], object], server: int, times: int = 2000) -> tuple[float, float]:
    """Processor time of one round, of client and server: the least of four measurements."""
    found = []
    for _ in range(4):
        before = [processor_seconds(pid) for pid in (os.getpid(), server)]
        for _ in range(times):
            ask()
        after = [processor_seconds(pid) for pid in (os.getpid(), server)]
        found.append(tuple((b - a) / times for a, b in zip(before, after, strict=True)))
    return min(found, key=sum)


def told(name: str, pairs: list[tuple[float, float]]) -> str:
    """The medians and their ratio; that of the fastest tenth too, which a busy machine disturbs least."""
    ours, bare = ([pair[i] for pair in pairs] for i in (0, 1))
    a, b = statistics.median(ours), statistics.median(bare)
    quick = statistics.quantiles(ours, n=10)[0] / statistics.quantiles(bare, n=10)[0]
    return f"{name}: {1e3 * a:.3f} ms, bare {1e3 * b:.3f} ms, ratio {a / b:.2f}; of the fastest tenth {quick:.2f}"


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        keys = Path(folder)
        make_keys(keys)
        processes, addresses = zip(*(started(target, keys) for target in (served, bare_server)), strict=True)
        context = zmq.Context()
        bare = context.socket(zmq.DEALER)
        bare.curve_publickey, bare.curve_secretkey, bare.curve_serverkey = client_pair(keys)
        bare.connect(addresses[1])
        try:
            with RemoteDevice(addresses[0], keys=keys) as device:
                for name, rows, times, pieces in (
                    ("8 rows x 256", 8, 2000, False),
                    ("64 MiB", 65536, 10, False),
                    ("64 MiB, the bare pair in pieces too", 65536, 10, True),
                ):
                    print(told(name, compare(device, bare, rows, times, pieces=pieces)), flush=True)
                query = bp.Query(torch.randn(8, WIDTH), torch.zeros(64), bp.Purpose.FORWARD)
                ours = processor(lambda: device.measure([query]), processes[0].pid or 0)
                theirs = processor(sender(bare, query), processes[1].pid or 0)
                told_of = [" + ".join(f"{1e6 * part:.0f}" for part in parts) for parts in (ours, theirs)]
                print(f"8 rows x {WIDTH}, processor time of client + server: {told_of[0]} us, bare {told_of[1]} us")
        finally:
            context.destroy(linger=0)
            for process in processes:
                process.kill()
                process.join()


if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    main()
