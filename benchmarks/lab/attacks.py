"""A served device under attack by a client with a key of its own, while honest clients measure.

    python benchmarks/lab/attacks.py [--quick] [--only NAME ...] [--clients 4] [--seconds 15]

The device takes 10 ms a round. The server notes of each round when its turn began and ended, and whose it was. First 20
and then 60 honest clients measure at once. Then, attack by attack, a few honest clients measure while another process
attacks.

**Own round**: the median time of a round of a single client in peace, from sending to the answer. **Fair share**: one
device serves one client at a time, so with n clients a round takes n own rounds. **Wait** of a round: the time from
sending to the answer, less the rounds of others in between: of each its turn, in which the server measures and answers
it, and a pause. In the crowds the pause is what an own round takes beside its turn, by the fair share; beside an
attacker it is the median pause between two turns of 20 clients, which is shorter. Of the attacker's rounds as many
count as lie between those of the honest clients when both keys take turns; further ones are waited for, as is
everything else that the server does for an attacker. The wait holds the own round too: undisturbed, it is 1 own round.
Clients measure when all of them are there.

**Work**: the processor time of the serving thread between two turns, in which it hears messages; other programs on the
machine do not lengthen it, as they do waits. Attacker and clients stand for other machines: the server and the honest
clients have a higher priority than the attacker, and, where that is allowed, than other programs. **Memory** is
resident memory of the server: at rest, the least of the 10 s after an attack, less that before it; and the highest
while it lasted (a message under way takes its size, and twice that while it is read).

Exits with 1 where an honest client met an error or a wrong reading, memory at rest grew by more than 10 MiB, one in a
hundred of work was longer than twice the own round, or more than one wait in a hundred (with `--quick`, in twenty) was:
in peace none is on a quiet machine, and the share that is there, because of other programs, is allowed everywhere.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import multiprocessing
import os
import random
import signal
import statistics
import struct
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuzz import memory, wrong
from torch import Tensor

import blackprop as bp
from blackprop.lab import RemoteDevice, Server
from blackprop.lab.remote.client._connection import Connection
from blackprop.lab.remote.server._waiting import Due
from blackprop.lab.remote.shared import _messages as say
from blackprop.lab.remote.shared import _own_process as own_process
from blackprop.lab.remote.shared import _rounds as rounds
from blackprop.lab.remote.shared import _wire as wire
from blackprop.lab.remote.shared._keys import make_keys

ROUND = 0.01  # s
LEASE, TURN = 5.0, 0.001  # s
GROWTH = 10.0  # MiB
SURROGATE, ENDS, MUTE = 1001.0, 1002.0, 1003.0  # rows at which the driver raises
NOTE = struct.Struct("<ddddd")


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Slow(bp.Device):
    """y = x · θ in 10 ms a round; a row's first value says whose it is."""

    def __init__(self) -> None:
        super().__init__(3, 3, bp.ThetaSpec(3, low=-2.0, high=2.0), linear=True)

    def program(self, theta: Tensor, /) -> None:
        self.held = theta.clone()

    def measure(self, queries: Sequence[bp.Query], /) -> list[Tensor]:
        if len(queries) == 1:
            return super().measure(queries)
        x, thetas = torch.cat([query.x for query in queries]), torch.stack([query.theta for query in queries])
        self._programmed = thetas[-1].clone()
        self.program(self._programmed)
        self.read(x)
        return list((x * thetas).split(1))

    def read(self, x: Tensor, /) -> Tensor:
        time.sleep(ROUND)
        match float(x[0, 0]):
            case 1001.0:
                raise ValueError("\ud800 \x1b[2J")
            case 1002.0:
                raise SystemExit(1)
            case 1003.0:
                raise Mute
        return x * self.held


class Noting(Server):
    """Notes of each round when its turn began and ended, whose it was, and the time of this thread then."""

    def __init__(self, notes: Path, make: Callable[[], bp.Device], **options: Any) -> None:
        self.notes = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        super().__init__(make, "tcp://127.0.0.1:0", **options)

    def _carry_out(self, due: Due) -> None:
        begun, busy, rows = time.monotonic(), time.thread_time(), due.asked.rows
        super()._carry_out(due)
        whose = float(rows.flatten()[0]) if rows.numel() else math.nan
        os.write(self.notes, NOTE.pack(begun, time.monotonic(), whose, busy, time.thread_time()))


def hasten() -> None:
    """Give this process, and those it starts, a higher priority than the attacker's, where the system allows it."""
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, -10)


def serve(keys: Path, notes: Path, ready: Pipe) -> None:
    hasten()
    torch.set_num_threads(1)
    own_process.settle()  # as `blackprop serve` does
    device = bp.lab.Guarded(Slow(), park=torch.zeros(3))
    server = Noting(notes, lambda: device, keys=keys, lease_seconds=LEASE, turn_seconds=TURN)
    signal.signal(signal.SIGTERM, lambda *_: server.stop())
    ready.send(server.address)
    server.serve()


# ---- attacks: each sends one message, or a few, on one connection


@dataclass
class Attacker:
    """One connection of the attacker, with a session."""

    connection: Connection
    session: str
    boot: str
    rng: random.Random
    number: int = 0

    def said(self, kind: str, number: int, arrays: list[np.ndarray]) -> None:
        fields = {"id": number, "session": self.session, "boot": self.boot, "fresh": False, "kinds": ["read"]}
        self.connection.send(wire.encode(kind, fields, arrays))

    def round(self, *arrays: np.ndarray) -> None:
        self.number += 1
        self.said(say.ROUND, self.number, list(arrays))

    def heard(self, seconds: float) -> bool:
        return self.connection.receive(seconds) is not None


def table(*queries: tuple[int, int, int, int]) -> np.ndarray:
    return np.array([(*query, 0) for query in queries], np.int64)


ROW, SETTING = np.full((1, 3), -1, np.float32), np.zeros((1, 3), np.float32)


def greets(a: Attacker) -> None:
    """Sessions without an end (20)."""
    for _ in range(20):
        a.number += 1
        a.connection.send(wire.encode(say.HELLO, {"id": a.number, "resume": ""}))
        a.heard(0.0)


def measures_in_new_sessions(a: Attacker) -> None:
    """Sessions without an end, and a round in each (20)."""
    reply = a.connection.request(say.HELLO, say.WELCOME, 10, resume="")
    a.session, a.number = reply["session"], 0
    a.round(ROW, SETTING, table((0, 1, 0, 0)))
    a.heard(1.0)


def raises(a: Attacker) -> None:
    """Rounds at which the driver raises what cannot be told (22)."""
    row = np.full((1, 3), a.rng.choice([SURROGATE, ENDS, MUTE]), np.float32)
    a.round(row, SETTING, table((0, 1, 0, 0)))
    a.heard(1.0)


def spare_settings(a: Attacker) -> None:
    """40 MB of settings that no query uses (25)."""
    a.round(ROW, np.zeros((3_333_333, 3), np.float32), table((0, 1, 0, 0)))
    a.heard(10.0)


def largest_message(a: Attacker) -> None:
    """250 MiB of rows, the last not finite (25)."""
    rows = np.zeros((21_800_000, 3), np.float32)
    rows[-1] = np.nan
    a.round(rows, SETTING, table((0, 1, 0, 0)))
    a.heard(30.0)


def many_queries(a: Attacker) -> None:
    """2¹⁸ queries of a setting each, the last outside the limits (25)."""
    n = rounds.QUERIES
    settings = np.zeros((n, 3), np.float32)
    settings[-1] = 3
    a.round(
        ROW, settings, np.stack([np.zeros(n), np.ones(n), np.arange(n), np.zeros(n), np.zeros(n)], 1).astype(np.int64)
    )
    a.heard(10.0)


def measured_queries(a: Attacker) -> None:
    """2¹⁸ queries of a setting each, all measured."""
    n = rounds.QUERIES
    columns = (np.zeros(n), np.ones(n), np.arange(n), np.zeros(n), np.zeros(n))
    a.round(ROW, np.ones((n, 3), np.float32), np.stack(columns, 1).astype(np.int64))
    a.heard(60.0)


def answer_too_large(a: Attacker) -> None:
    """24.6 million rows of a message of 0.4 MB (25)."""
    a.round(np.zeros((2000, 3), np.float32), SETTING, table(*[(0, 2000, 0, 0)] * 12_300))
    a.heard(10.0)


def many_frames(a: Attacker) -> None:
    """A message in 20,000 frames (25)."""
    a.connection.send([bytes(16)] + [b"x"] * 20_000)
    a.heard(5.0)


def asks_again(a: Attacker) -> None:
    """A long answer, asked for again and again, and hardly taken (25)."""
    if not a.number:
        a.round(np.full((2_000_000, 3), -1, np.float32), SETTING, table((0, 2_000_000, 0, 0)))
        a.heard(30.0)
    for _ in range(20):
        a.said(say.ASK, a.number, [])
    a.heard(0.5)


def earlier_rounds(a: Attacker) -> None:
    """Rounds in the wrong order (26)."""
    a.number += 20
    for number in range(a.number, a.number - 20, -1):
        a.said(say.ROUND, number, rounds.pack([bp.Query(torch.from_numpy(ROW), torch.zeros(3), bp.Purpose.FORWARD)]))
    a.heard(0.5)


def wrong_messages(a: Attacker) -> None:
    """Messages that are changed at random, and empty arrays of impossible shapes (26)."""
    fields = {"session": a.session, "boot": a.boot, "fresh": False, "resume": "", "seed": 1}
    for _ in range(20):
        a.connection.send(wrong(a.rng, fields, a.rng.randbytes(200)))
        a.heard(0.0)


ATTACKS: dict[str, Callable[[Attacker], None]] = {
    attack.__name__: attack
    for attack in (
        *(greets, measures_in_new_sessions, raises, spare_settings, largest_message, many_queries),
        *(measured_queries, answer_too_large, many_frames, asks_again, earlier_rounds, wrong_messages),
    )
}


def attack(name: str, address: str, keys: Path, seconds: float) -> None:
    """Attack over two connections for so long."""
    os.setpriority(os.PRIO_PROCESS, 0, max(0, os.getpriority(os.PRIO_PROCESS, 0) + 10))
    torch.set_num_threads(1)

    def run(seed: int) -> None:
        connection, end = Connection(address, keys), time.monotonic() + seconds
        try:
            reply = connection.request(say.HELLO, say.WELCOME, 30, resume="")
            attacker = Attacker(connection, reply["session"], reply["boot"], random.Random(seed))
            while time.monotonic() < end:
                try:
                    ATTACKS[name](attacker)
                except bp.errors.BusyError:
                    time.sleep(0.05)
            connection.farewell = wire.encode(say.BYE, {"id": 0, "session": attacker.session})
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# ---- honest clients


@dataclass
class Honest:
    """What some honest clients met."""

    rounds: list[tuple[float, float, float]] = field(default_factory=list)  # sent, answered, whose
    failures: Counter[str] = field(default_factory=Counter)

    def run(self, address: str, keys: Path, clients: int, until: Callable[[int], bool]) -> Honest:
        """Measure with so many clients at once, each until it is time."""

        together = threading.Barrier(clients)

        def ask(i: int) -> None:
            try:
                with RemoteDevice(address, keys=keys, wait=120, deadline=60) as device:
                    together.wait(60)
                    done, theta = 0, torch.tensor([1.0, -1.0, 0.5])
                    while not until(done):
                        x = torch.tensor([[float(i), done, 1.0]])
                        begun = time.monotonic()
                        (y,) = device.measure([bp.Query(x, theta, bp.Purpose.FORWARD)])
                        self.rounds.append((begun, time.monotonic(), float(i)))
                        self.failures["wrong reading"] += not torch.equal(y, x * theta)
                        done += 1
            except bp.errors.BlackpropError as error:
                together.abort()
                self.failures[f"{type(error).__name__}: {error}"] += 1
            except threading.BrokenBarrierError:  # another one was not let in
                pass

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.failures = +self.failures
        return self

    def waits(self, notes: Path, gap: float) -> list[float]:
        """Of each round, the seconds beside the rounds of others in between, and `gap` for each of these."""
        begun, ended, whose, _, _ = measured(notes)
        honest, waits = np.isin(whose, [mine for _, _, mine in self.rounds]), []
        for sent, answered, mine in self.rounds:
            others = (ended > sent) & (begun < answered) & (whose != mine)
            turns = np.flatnonzero(others & ~honest)[: int((others & honest).sum()) + 2]  # one before each, and ours
            others &= honest
            others[turns] = True
            time_of_others = np.minimum(ended, answered)[others] - np.maximum(begun, sent)[others] + gap
            waits.append(answered - sent - float(time_of_others.sum()))
        return waits


def measured(notes: Path) -> np.ndarray:
    """Of each round: when the server began it, when it ended it, whose it was, and the thread's own time at both."""
    return np.array(list(NOTE.iter_unpack(notes.read_bytes()))).reshape(-1, 5).T


def at_rest(pid: int) -> float:
    """The memory (MiB) that stays once the last messages are gone: the least of ten seconds, in which a leak stays."""
    least = math.inf
    for _ in range(10):
        time.sleep(1)
        least = min(least, memory(pid))
    return least


def told(name: str, found: Honest, waits: list[float], own: float, grown: str = "") -> None:
    p99 = float(np.quantile(waits, 0.99))
    late = sum(wait > 2 * own for wait in waits)
    print(
        f"{name:26s} {len(waits):6,} rounds  wait median {1e3 * statistics.median(waits):5.1f}, 99 % {1e3 * p99:6.1f}, "
        f"longest {1e3 * max(waits):6.1f} ms, {late} over {2e3 * own:.0f} ms  {grown}",
        flush=True,
    )
    for failure, times in found.failures.items():
        print(f"  {times} x {failure}")


def highest(pid: int) -> float:
    """The highest resident memory since this was last asked, MiB."""
    text = Path(f"/proc/{pid}/status").read_text()
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return int(text.split("VmHWM:")[1].split()[0]) / 1024


@dataclass
class Result:
    failures: Counter[str]
    waits: list[float]
    own: float
    grown: float  # MiB
    work: list[float] = field(default_factory=list)  # s

    @property
    def late(self) -> int:
        return sum(wait > 2 * self.own for wait in self.waits)


def run(
    folder: Path, names: list[str], crowds: list[int], clients: int, seconds: float
) -> Iterator[tuple[str, Result]]:
    keys, other, notes = folder / "keys", folder / "other", folder / "notes"
    make_keys(keys)
    make_keys(other)
    (other / "server.key").write_bytes((keys / "server.key").read_bytes())
    (keys / "authorised" / "other.key").write_bytes((other / "client.key").read_bytes())
    context = multiprocessing.get_context("forkserver")  # a fork of a small process that has imported all
    context.set_forkserver_preload(
        ["torch", "blackprop.lab.remote.server._server", "blackprop.lab.remote.client._remote", "zmq.auth"]
    )
    ready, theirs = multiprocessing.Pipe(duplex=False)
    server = context.Process(target=serve, args=(keys, notes, theirs), daemon=True)
    server.start()
    address, pid = ready.recv(), server.pid or 0

    def for_rounds(n: int) -> Callable[[int], bool]:
        return lambda done: done >= n

    try:
        alone = Honest().run(address, keys, 1, for_rounds(20 + int(20 * seconds)))
        own = statistics.median(answered - sent for sent, answered, _ in alone.rounds)
        told("one client in peace", alone, alone.waits(notes, 0.0), own)
        begun, ended, *_ = measured(notes)
        beside, pause = own - float(np.median(ended - begun)), math.nan
        print(f"own round {1e3 * own:.1f} ms, {1e3 * beside:.1f} of it beside its turn")
        for crowd in crowds:
            so_far = measured(notes).shape[1]
            found = Honest().run(address, keys, crowd, for_rounds(max(3, int(seconds))))
            begun, ended, *_ = measured(notes)[:, so_far:]
            between = float(np.median(begun[1:] - ended[:-1]))
            pause = between if math.isnan(pause) else pause
            waits = found.waits(notes, beside)
            told(f"{crowd} clients in peace", found, waits, own, f"pause between two turns {1e3 * between:.1f} ms")
            yield f"{crowd} clients", Result(found.failures, waits, own, 0.0)
        for name in ["peace", *names]:
            time.sleep(1)
            highest(pid)
            before, end, so_far = memory(pid), time.monotonic() + seconds + 2, measured(notes).shape[1]
            attacker = context.Process(target=attack, args=(name, address, other, seconds), daemon=True)
            if name != "peace":
                attacker.start()
            found = Honest().run(address, keys, clients, lambda _, end=end: time.monotonic() > end)
            if name != "peace":
                attacker.join()
            peak = highest(pid)
            grown = at_rest(pid) - before
            waits = found.waits(notes, pause)
            *_, busy_from, busy_to = measured(notes)[:, so_far:]
            work = busy_from[1:] - busy_to[:-1]
            told(
                *(name, found, waits, own),
                f"work {1e3 * np.median(work):.1f}, longest {1e3 * work.max():.1f} ms  "
                f"memory {grown:+.1f} MiB, highest {peak - before:+.0f} MiB",
            )
            yield name, Result(found.failures, waits, own, grown, work.tolist())
        if not server.is_alive():
            print("the server has ended")
            yield "the server", Result(Counter({"ended": 1}), [], own, 0.0)
    finally:
        server.terminate()
        server.join(10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20 clients, 2 s an attack")
    parser.add_argument("--only", nargs="*", choices=list(ATTACKS), default=list(ATTACKS))
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=15.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    hasten()
    crowds, seconds = ([20], 2.0) if options.quick else ([20, 60], options.seconds)
    with tempfile.TemporaryDirectory() as folder:
        results = dict(run(Path(folder), options.only, crowds, options.clients, seconds))
    peace = results["peace"]
    allowed = (0.05 if options.quick else 0.01) + peace.late / len(peace.waits)
    bad = [
        name
        for name, result in results.items()
        if result.failures
        or result.grown > GROWTH
        or result.late > allowed * len(result.waits)
        or np.quantile(result.work or [0.0], 0.99) > 2 * result.own
    ]
    print("held" if not bad else f"did not hold: {', '.join(bad)}")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
