"""Rounds a second of a farm beside those of one of its devices: each takes 5 ms to settle after a programming.

    python benchmarks/lab/farm.py
    python benchmarks/lab/farm.py --members 8 --settings 32 --settle 0.02

In one process, the two in turn, so that what else the machine does falls on both. Prints the ratio for rounds of as
many settings as there are members and of several each, and for one setting with many rows, which are divided.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence

import torch
from torch import Tensor

import blackprop as bp
from blackprop.core import Cost, Ledger, Purpose, Query, ask, metered, run
from blackprop.lab import Farm


class Bench(bp.Device):
    """A light modulator that settles, and takes its time for each row."""

    def __init__(self, settle: float, row: float) -> None:
        inner = bp.devices.LightModulator(16, 8)
        super().__init__(16, 8, inner.theta, linear=True, cost=Cost(settle, row))
        self.inner = inner

    def program(self, theta: Tensor, /) -> None:
        time.sleep(self.cost.programming)
        self.inner.program(theta)

    def read(self, x: Tensor, /) -> Tensor:
        if self.cost.row:
            time.sleep(self.cost.row * len(x))
        return self.inner.read(x)


def seconds(device: bp.Device, round_: Sequence[Query], rounds: int) -> float:
    measure = metered(device, Ledger())
    began = time.perf_counter()
    for _ in range(rounds):
        device.forget()  # as in training, where every round brings new settings
        run(ask(*round_), measure)
    return time.perf_counter() - began


def ratio(
    members: int, settle: float, row: float, round_: Sequence[Query], rounds: int, repeats: int
) -> tuple[float, ...]:
    """Farm over one device, of several repeats: the median, the lowest, the highest."""
    one = Bench(settle, row)
    with Farm([Bench(settle, row) for _ in range(members)]) as farm:
        same = zip(one.measure(round_), farm.measure(round_), strict=True)
        torch.testing.assert_close(*zip(*same, strict=True), rtol=1e-5, atol=1e-6)
        found = [seconds(one, round_, rounds) / seconds(farm, round_, rounds) for _ in range(repeats)]
    return statistics.median(found), min(found), max(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument("--settings", type=int, default=16, help="of a long round")
    parser.add_argument("--settle", type=float, default=5e-3, help="seconds after a programming")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    draws, P = torch.Generator().manual_seed(0), Bench(0, 0).theta.size
    x = torch.randn(256, 16, generator=draws)
    settings = [torch.randn(P, generator=draws) for _ in range(options.settings)]
    print(f"{options.members} members, {options.settle * 1e3:g} ms to settle; rounds a second, farm over one")
    for name, row, round_ in (
        (f"{options.members} settings × 8 rows", 0.0, [(x[:8], theta) for theta in settings[: options.members]]),
        (f"{options.settings} settings × 8 rows", 0.0, [(x[:8], theta) for theta in settings]),
        ("1 setting × 256 rows of 1 ms", 1e-3, [(x, settings[0])]),
    ):
        queries = [Query(rows, theta, Purpose.PARAMETER) for rows, theta in round_]
        rounds = max(2, options.rounds * options.members // max(len(round_), 64 * bool(row)))
        median, low, high = ratio(options.members, options.settle, row, queries, rounds, options.repeats)
        print(f"{name:32}{median:6.2f}   ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
