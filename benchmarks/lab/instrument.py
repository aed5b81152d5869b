"""Readings from an instrument on a raw socket that answers late, twice, with echoes, in pieces, not at all, and dies.

    python benchmarks/lab/instrument.py [--readings 10000] [--links address function object acknowledging binary]

The instrument is a server in this process; it counts what it did. Each way to reach it is tried: an address that
PyVISA opens, a function of the user's that opens a link, a link that the user has opened (and opens again when told
to), an instrument that acknowledges every command, and one that answers by binary blocks. A round that failed is asked
again. What is to hold: no reading is wrong, each is there or given up within twice the timeout, and the ledger is equal
to the instrument's own count or above it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pyvisa
import torch
from scpi_server import Faults, RawSocket, Scpi, Sockets

from blackprop.core import Ledger, Purpose, Query, metered
from blackprop.errors import InDoubtError, ReadingError, UnreachableError
from blackprop.lab import Channels, Readings, VisaDevice

LINKS = ("address", "function", "object", "acknowledging", "binary")
RATES = {"late": 0.005, "twice": 0.02, "echo": 0.02, "pieces": 0.02, "silent": 0.005, "dies": 0.005}
PATIENCE = 4  # failures in a row, after which the user opens the link again
ROWS, AT_A_SETTING = 4, 5  # rows a round, rounds a setting
SLACK = 0.05  # s, of a busy machine


@dataclass
class Outcome:
    """What a run found."""

    link: str
    readings: int = 0
    wrong: int = 0
    longest: float = 0.0  # s, from the end of one reading, or the start of a round, to that of the next
    seconds: float = 0.0
    reopened: int = 0  # by the user
    failures: Counter[str] = field(default_factory=Counter)
    injected: Counter[str] = field(default_factory=Counter)
    booked: tuple[int, int] = (0, 0)  # rows and programmings in the ledger
    counted: tuple[int, int] = (0, 0)  # by the instrument

    def holds(self, timeout: float) -> bool:
        return (
            self.wrong == 0
            and self.longest <= 2 * timeout + SLACK
            and all(booked >= counted for booked, counted in zip(self.booked, self.counted, strict=True))
        )


class Watched(VisaDevice):
    """Takes the time of each reading."""

    longest = began = 0.0

    def measure(self, queries: Sequence[Query], /) -> list[torch.Tensor]:
        self.began = time.perf_counter()
        try:
            return super().measure(queries)
        finally:
            self._note()

    def _row(self, values: list[float]) -> list[float]:
        y = super()._row(values)
        self._note()
        return y

    def _note(self) -> None:
        now = time.perf_counter()
        self.longest, self.began = max(self.longest, now - self.began), now


def device(link: str, scpi: Scpi, timeout: float) -> Watched:
    """`VisaDevice` over one of `LINKS`."""
    write = "VOLT {channel},{value:.9f}"
    resource = {
        "object": lambda: RawSocket(scpi.port, timeout),
        "function": lambda: lambda: RawSocket(scpi.port, timeout),
    }.get(link, lambda: scpi.address)()
    return Watched(
        resource,
        theta=Channels(write, ("A", "B"), -1, 1),
        inputs=Channels(write, ("C", "D"), -4, 4),
        outputs=Readings("READ?", ("y",), dtype="<f8" if link == "binary" else None),
        acknowledgement="OK" if link == "acknowledging" else None,
        timeout=timeout,
        manager=pyvisa.ResourceManager(Sockets()),
    )


def instrument(link: str, faults: Faults | None, seed: int = 0) -> Scpi:
    acknowledges = "OK" if link == "acknowledging" else None
    return Scpi(faults, acknowledges=acknowledges, binary=link == "binary", greets=True, seed=seed)


def measured(link: str, readings: int, faults: Faults, seed: int = 0) -> Outcome:
    """Ask for so many readings, a few rows at a time, whatever happens on the way."""
    scpi, generator = instrument(link, faults, seed), torch.Generator().manual_seed(seed)
    meter, outcome, ledger = device(link, scpi, faults.timeout), Outcome(link), Ledger()
    try:
        measure = metered(meter, ledger)
        began = time.perf_counter()
        theta = torch.zeros(2)
        while outcome.readings < readings:
            if outcome.readings % (ROWS * AT_A_SETTING) == 0:
                theta = 2 * torch.rand(2, generator=generator) - 1
            x = 8 * torch.rand(ROWS, 2, generator=generator, dtype=torch.float64) - 4
            y = insisted(lambda: measure([Query(x, theta, Purpose.FORWARD)])[0], meter, outcome, scpi)  # noqa: B023
            expected = x @ theta.double()[:, None]
            outcome.wrong += int(((y - expected).abs() > 1e-6).sum())
            outcome.readings += ROWS
        outcome.seconds, outcome.longest = time.perf_counter() - began, meter.longest
    finally:
        meter.resource.close()
        scpi.close()
    outcome.injected = scpi.injected
    outcome.booked = (ledger.total_rows, ledger.total_programmings)
    outcome.counted = (scpi.rows, scpi.programmings)
    return outcome


def insisted(ask, meter: VisaDevice, outcome: Outcome, scpi: Scpi) -> torch.Tensor:
    """What a user does: ask again, and open the link again where told to and it is theirs."""
    in_a_row = 0
    while True:
        try:
            return ask()
        except (InDoubtError, ReadingError, UnreachableError) as error:
            outcome.failures[type(error).__name__] += 1
            in_a_row += 1
        if in_a_row >= PATIENCE and outcome.link == "object":
            meter.resource.close()
            try:
                meter.resource, in_a_row = RawSocket(scpi.port, scpi.faults.timeout), 0
                outcome.reopened += 1
            except OSError:
                time.sleep(scpi.faults.timeout / 4)
        elif in_a_row > 1:
            time.sleep(scpi.faults.timeout / 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readings", type=int, default=10_000)
    parser.add_argument("--links", nargs="+", choices=LINKS, default=list(LINKS))
    parser.add_argument("--timeout", type=float, default=0.5, help="s")
    parser.add_argument("--seed", type=int, default=0, help="of the faults and rows")
    options = parser.parse_args()
    torch.set_num_threads(1)
    held = True
    for link in options.links:
        faults = Faults(**RATES, timeout=options.timeout)
        found = measured(link, options.readings, faults, options.seed)
        held = held and found.holds(options.timeout)
        print(f"{link}: {found.readings:,} readings in {found.seconds:.0f} s, {found.wrong} wrong;")
        print(f"  the longest wait for a reading {found.longest / options.timeout:.2f} timeouts;")
        print(f"  rows booked {found.booked[0]:,}, driven {found.counted[0]:,};", end=" ")
        print(f"programmings booked {found.booked[1]:,}, written {found.counted[1]:,};")
        print(f"  faults {dict(found.injected)}; failed calls {dict(found.failures)};", end=" ")
        print(f"opened again by the user {found.reopened} times", flush=True)
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
