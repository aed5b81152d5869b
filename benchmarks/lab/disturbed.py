"""Training over a bad line, from a server that is killed: the same weights, nothing measured twice, the ledger exact.

    python benchmarks/lab/disturbed.py [--methods default row two-way] [--epochs 5] [--kills 5] [--insecure]

`digits`, the hybrid network, its device served over loopback. Once in peace; then with 5 % of the frames lost and 1 %
damaged on the way, both ways, 1 % of the rows NaN, and the server killed (SIGKILL) and started again at random moments.

The instrument itself writes every programming and every row to a file before it does it, with no help of the library.
From that file alone it is judged what was measured: rows that were NaN and rows of a round that a kill cut short may be
measured again, and are told apart; everything else must be in it exactly as often as in the file of the run in peace.

*two-way* takes both gradients from another instrument, phases between two mixers of light, which is read backwards and
has a power tap behind each phase (`InSitu`, `Reciprocal`). Its rows of these kinds are never NaN.

Instruments compute row by row: of a batch, a BLAS rounds a row's last bits by the rows beside it, and rows that are
measured again are alone.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import ClassVar

import torch
from relay import Relay
from torch import Tensor

import blackprop as bp
from blackprop.core import Query
from blackprop.experiments import Default, Digits, Row, TrainingMethod, Trial
from blackprop.experiments.engine._callbacks import Callbacks
from blackprop.experiments.engine._hardware import Remote, _connected
from blackprop.experiments.engine._training import Training
from blackprop.experiments.tasks._networks import DigitNetwork
from blackprop.lab import Checked, RemoteDevice, Server
from blackprop.lab.remote.shared._keys import make_keys
from blackprop.lab.wrappers._pass_through import PassThrough

WIDTH = 128


@dataclass(frozen=True)
class TwoWay(TrainingMethod):
    """Both gradients from the instrument itself."""

    signal_scaled: ClassVar[bool] = False

    name: str = "two-way"

    def layer(self, device: bp.Device, generator: torch.Generator) -> bp.PhysicalLayer:
        return bp.PhysicalLayer(device, bp.estimators.InSitu(), bp.surrogates.Reciprocal(), generator=generator)


METHODS = {"default": Default(), "row": Row(), "two-way": TwoWay()}
LOST, CORRUPTED, NAN_ROWS = 0.05, 0.01, 0.01  # of frames, of frames, of rows


# ---- the instrument, and what it writes down ------------------------------------------------------------------------


class Log:
    """Lines at the end of a file; each is in it before the next thing happens, and stays when the process is killed."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, *words: object) -> None:
        os.write(self._file, (" ".join(map(str, words)) + "\n").encode())


class Instrument(bp.Device):
    """`A_ij = cos θ_ij / √d_in`, computed row by row; at a given rate a row is NaN."""

    def __init__(self, log: Log, nan_rows: float, seed: int) -> None:
        like = bp.devices.LightModulator(WIDTH, WIDTH)
        super().__init__(WIDTH, WIDTH, like.theta, linear=True, coupling=like.coupling)
        self._log, self._nan_rows, self._rng = log, nan_rows, random.Random(seed)
        self._matrix = torch.zeros(WIDTH, WIDTH)

    def program(self, theta: Tensor, /) -> None:
        self._log.write("program", hashed(theta))
        self._matrix = theta.cos().view(WIDTH, WIDTH) / WIDTH**0.5

    def read(self, x: Tensor, /) -> Tensor:
        y = torch.empty(len(x), WIDTH)
        for i in range(len(x)):
            lost = self._rng.random() < self._nan_rows
            self._log.write("read", hashed(x[i]), "nan" if lost else "right")
            # Where a row lies in memory may decide how it is rounded, too.
            y[i] = torch.nan if lost else self._matrix @ x[i].clone()
        return y


class Screen(bp.Device):
    """`y = Re(L e^{iθ} R x)`, L and R unitary: phases between two mixers, a tap behind each; computed row by row."""

    def __init__(self, log: Log, nan_rows: float, seed: int) -> None:
        ways = (
            bp.core.ReadBack(),
            bp.core.ReadBackField(modes=WIDTH),
            bp.core.Taps(modes=WIDTH, units=WIDTH, combination=((1.0,),)),
        )
        super().__init__(WIDTH, WIDTH, bp.ThetaSpec(WIDTH, period=6.283185307179586), linear=True, capabilities=ways)
        self._log, self._nan_rows, self._rng = log, nan_rows, random.Random(seed)
        mixers = torch.randn(2, WIDTH, WIDTH, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
        self._left, self._right = torch.linalg.qr(mixers)[0]
        self._inside = self._whole = torch.zeros_like(self._left)

    def program(self, theta: Tensor, /) -> None:
        self._log.write("program", hashed(theta))
        self._inside = torch.polar(torch.ones(WIDTH), theta.float())[:, None] * self._right
        self._whole = self._left @ self._inside

    def read(self, x: Tensor, /) -> Tensor:
        return self._rows("forwards", x, lambda row: (self._whole @ row.to(self._whole)).real)

    def read_back(self, g: Tensor, /) -> Tensor:
        return self._rows("backwards", g, lambda row: (self._whole.mT @ row.to(self._whole)).real)

    def read_back_field(self, g: Tensor, /) -> Tensor:
        def field_of(row: Tensor) -> Tensor:
            z = self._whole.mT @ row.to(self._whole)
            return torch.stack((z.real, z.imag))

        return self._rows("field", g, field_of)

    def tap_powers(self, x: Tensor, /) -> Tensor:
        return self._rows("taps", x, lambda row: (self._inside @ torch.complex(*row)).abs().square())

    def _rows(self, way: str, x: Tensor, one: Callable[[Tensor], Tensor]) -> Tensor:
        readings = []
        for row in x:
            lost = way == "forwards" and self._rng.random() < self._nan_rows
            self._log.write("read", f"{way}-{hashed(row)}", "nan" if lost else "right")
            y = one(row.clone())
            readings.append(torch.full_like(y, torch.nan) if lost else y)
        return torch.stack(readings)


INSTRUMENTS: dict[str, type[Instrument | Screen]] = {"default": Instrument, "row": Instrument, "two-way": Screen}


class Marking(PassThrough):
    """Writes down where a round begins, and which it is."""

    def __init__(self, device: bp.Device, log: Log) -> None:
        super().__init__(device)
        self._log = log

    def measure(self, queries: Sequence[Query], /) -> list[Tensor]:
        self._log.write("round", hashed(*(tensor for query in queries for tensor in (query.theta, query.x))))
        return super().measure(queries)


def hashed(*tensors: Tensor) -> str:
    digest = blake2b(digest_size=8)
    for tensor in tensors:
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


@dataclass
class Round:
    """What a round took: its right readings by setting and row, all rows, programmings."""

    name: str
    right: Counter[tuple[str, str]] = field(default_factory=Counter)
    rows: int = 0
    programmings: int = 0


def heard(path: Path) -> list[list[Round]]:
    """The rounds in the file of an instrument, those between two starts together."""
    lives: list[list[Round]] = []
    setting = ""
    for line in path.read_text().splitlines():
        what, *words = line.split()
        if what == "start":
            lives.append([])
        elif what == "round":
            lives[-1].append(Round(words[0]))
        elif what == "program":
            setting = words[0]
            lives[-1][-1].programmings += 1
        else:
            lives[-1][-1].rows += 1
            if words[1] == "right":
                lives[-1][-1].right[setting, words[0]] += 1
    return lives


def cut_short(lives: list[list[Round]]) -> list[Round]:
    """The rounds that a kill cut short: those with which the next life begins again."""
    lived = [life for life in lives if life]
    return [one[-1] for one, other in pairwise(lived) if one[-1].name == other[0].name]


def right(rounds: Iterable[Round]) -> Counter[tuple[str, str]]:
    total: Counter[tuple[str, str]] = Counter()
    for one in rounds:
        total.update(one.right)
    return total


# ---- the server, and its killer -------------------------------------------------------------------------------------


def serve(address: str, keys: Path, log: Path, method: str, nan_rows: float, insecure: bool, ready: Connection) -> None:
    torch.set_num_threads(1)
    lives = log.read_text().count("start") if log.exists() else 0

    def make() -> bp.Device:
        lines = Log(log)
        lines.write("start")
        # Inside the server: a row that is wrong is measured again before the round has its answer.
        return Marking(Checked(INSTRUMENTS[method](lines, nan_rows, seed=lives)), lines)

    journal = keys / "journal" if insecure else None
    server = Server(make, address, keys=None if insecure else keys, journal=journal)
    ready.send(True)
    server.serve()


class Served:
    """A server in a process that can be killed and started again."""

    def __init__(self, keys: Path, log: Path, method: str, *, nan_rows: float = 0.0, insecure: bool = False) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._arguments = (f"tcp://127.0.0.1:{self.port}", keys, log, method, nan_rows, insecure)
        self._context = multiprocessing.get_context("forkserver")  # a fork of a small process that has imported all
        self._context.set_forkserver_preload(
            ["blackprop.lab.remote.server._server", "blackprop.experiments", "zmq.auth"]
        )
        self.start()

    def start(self) -> None:
        ready, theirs = self._context.Pipe(duplex=False)
        self.process = self._context.Process(target=serve, args=(*self._arguments, theirs), daemon=True)
        self.process.start()
        theirs.close()
        ready.recv()

    def kill(self) -> None:
        self.process.kill()
        self.process.join()


def kill_at(sizes: list[int], log: Path, served: Served, draws: random.Random, over: threading.Event) -> None:
    """Kill the server, and start it again, once the file has grown to each of the sizes, and a moment later."""
    for size in sizes:
        while log.stat().st_size < size:
            if over.wait(0.001):
                return
        time.sleep(draws.uniform(0, 0.02))
        served.kill()
        time.sleep(draws.uniform(0, 0.3))
        served.start()


# ---- a run, and what is found in the file afterwards ----------------------------------------------------------------


@dataclass
class Ran:
    """A run: what it ended with, what its client has counted, what its instrument wrote down."""

    weights: dict[str, Tensor]
    score: float
    ledger: bp.Ledger
    doubtful: tuple[int, int]  # rows and programmings, booked for rounds in doubt
    lives: list[list[Round]]
    size: int
    seconds: float
    relay: Relay | None


def trained(
    folder: Path, task: Digits, method: str, *, kills: int = 0, whole: int = 0, seed: int = 0, insecure: bool = False
) -> Ran:
    """Train; disturbed where `whole` is given, the size that the instrument's file will have."""
    log, keys = folder / f"log-{method}-{whole}", folder / "keys"
    draws, over = random.Random(seed), threading.Event()
    served = Served(keys, log, method, nan_rows=NAN_ROWS if whole else 0.0, insecure=insecure)
    relay = Relay(served.port, lost=LOST, corrupted=CORRUPTED, seed=seed) if whole else None
    address = f"tcp://127.0.0.1:{relay.port if relay else served.port}"
    sizes = sorted(int(draws.uniform(0.03, 0.97) * whole) for _ in range(kills))
    killer = threading.Thread(target=kill_at, args=(sizes, log, served, draws, over))
    remote = Remote(address=(address,), keys=None if insecure else keys, repeat_in_doubt=True)
    began = time.perf_counter()
    killer.start()
    try:
        training = Training(Trial(task, METHODS[method], remote), task.data())
        while not training.done:
            training.run_segment(Callbacks())
        seconds = time.perf_counter() - began
        device = _connected(address, remote.keys, True)
        assert isinstance(device, RemoteDevice)
        device.close()
        doubt = device.in_doubt
        weights = {name: value.clone() for name, value in training.model.state_dict().items() if _is_weight(value)}
        (layer,) = training.devices.values()
        doubtful = (sum(doubt.rows.values()), sum(doubt.programmings.values()))
        found = (weights, training.score, layer.ledger, doubtful)
        return Ran(*found, heard(log), log.stat().st_size, seconds, relay)
    finally:
        over.set()
        killer.join()
        _connected.cache_clear()
        if relay:
            relay.close()
        served.kill()


def _is_weight(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


@dataclass
class Verdict:
    """What is to hold, and what is told beside it."""

    same_weights: bool
    once: bool
    """Whether every right reading is there exactly as often as in peace, but for rounds that were cut short."""
    ledger: bool
    """Whether the ledger is what the instrument has done; of rounds that were cut short it holds all of them."""
    again_nan: int
    cut_short: int
    rows_in_doubt: tuple[int, int]
    """As booked, and as the instrument has measured them before it was killed."""

    @property
    def holds(self) -> bool:
        return self.same_weights and self.once and self.ledger


def judged(peace: Ran, ran: Ran) -> Verdict:
    rounds = [one for life in ran.lives for one in life]
    cut = cut_short(ran.lives)
    once = right(rounds)
    once.subtract(right(cut))
    asked = right(one for life in peace.lives for one in life)
    rows, programmings = (sum(getattr(one, name) for one in rounds) for name in ("rows", "programmings"))
    before = [sum(getattr(one, name) for one in cut) for name in ("rows", "programmings")]
    counted = (ran.ledger.total_rows - ran.doubtful[0], ran.ledger.total_programmings - ran.doubtful[1])
    return Verdict(
        same_weights=peace.weights.keys() == ran.weights.keys()
        and all(torch.equal(value, ran.weights[name]) for name, value in peace.weights.items()),
        once={k: n for k, n in once.items() if n} == asked,
        ledger=counted == (rows - before[0], programmings - before[1]),
        again_nan=rows - sum(right(rounds).values()),
        cut_short=len(cut),
        rows_in_doubt=(ran.doubtful[0], before[0]),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="of the disturbances")
    parser.add_argument("--insecure", action="store_true", help="without CURVE, so that turned bits arrive")
    options = parser.parse_args()
    torch.set_num_threads(1)
    held = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_keys(folder / "keys")
        for method in options.methods:
            task = Digits(DigitNetwork.HYBRID, epochs=options.epochs)
            peace = trained(folder, task, method, insecure=options.insecure)
            ran = trained(
                *(folder, task, method),
                kills=options.kills,
                whole=peace.size,
                seed=options.seed,
                insecure=options.insecure,
            )
            verdict = judged(peace, ran)
            assert ran.relay is not None
            held = held and verdict.holds and len(ran.lives) == options.kills + 1
            rounds = sum(map(len, peace.lives))
            print(f"{method}: {peace.ledger.total_rows:,} rows in {rounds:,} rounds, accuracy {peace.score:.4f};")
            print(f"  in peace {peace.seconds:.0f} s, disturbed {ran.seconds:.0f} s, {len(ran.lives) - 1} kills,")
            print(f"  of {ran.relay.passed:,} frames {ran.relay.lost} lost, {ran.relay.corrupted} damaged;", end=" ")
            print(f"{verdict.again_nan} rows NaN and measured again,")
            print(f"  {verdict.cut_short} rounds cut short and asked anew, (rows booked, measured) in them", end=" ")
            print(f"{verdict.rows_in_doubt};")
            for what in ("same_weights", "once", "ledger"):
                print(f"  {what.replace('_', ' ')}: {'yes' if getattr(verdict, what) else 'NO'}", flush=True)
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
