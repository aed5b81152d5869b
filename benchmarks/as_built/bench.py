"""The default on devices as designed and as built, declared or not, beside oracle, frozen and other methods.

    python benchmarks/as_built/bench.py                              # ×1, every device, 3 seeds
    python benchmarks/as_built/bench.py --factors 3 --methods oracle frozen default spsa
    python benchmarks/as_built/bench.py --show --page docs/as-built.md --plot docs/as-built.svg

Digits through two devices, 64 → size → 10, batch norms between. ×1 is what 10 epochs of backpropagation through a
simulator ask: 28,160 rows and 440 programmings, all queries counted. The default has one rate for all devices. Every
other method takes the best of its rates, or of its initial spreads, on seed 100, which is not reported. Oracle, frozen
and the methods of the loss alone do not depend on the declaration, and are run once for all of them.

A run adds to the results in `--run-dir`, in the schema of `blackprop.experiments`, and does not repeat what is there:
one that was stopped goes on. `--page` and `--plot` write all that is there.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

import torch
from built_devices import FAMILIES, BuiltKind, Told
from evolution import Evolution, Normed

from blackprop.experiments import (
    AllowanceGrid,
    Callback,
    Default,
    Digits,
    FrozenReference,
    Memory,
    OracleReference,
    Paper,
    TrainingMethod,
    compare_within,
)
from blackprop.experiments.comparison._within import stored
from blackprop.experiments.methods._by_loss import Spsa

BATCHES = 220  # of ×1
TUNING = 100  # the seed that rates are chosen on
RATE = 0.24  # of the default, on all devices; chosen on three of them, as built, on that seed
RATES = (6e-2, 0.12, 0.24)
SPREADS = (0.3, 1.0)


@dataclass(frozen=True)
class SizedDigits(Digits):
    """The all-physical network of the digits with `size` hidden units."""

    epochs: int = 10
    size: int = 64

    data_width: ClassVar[int] = 64

    @property
    def widths(self) -> tuple[int, int, int]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.data_width, self.size, self.size


@dataclass(frozen=True)
class Entry:
    """A method of the bench: its variants, the rates that are tried, whether the declaration matters to it, and whether
    it reads displaced settings alone.
    """

    variants: tuple[TrainingMethod, ...]
    rates: tuple[float, ...] = ()
    told: bool = False
    displaced: bool = False


ENTRIES: dict[str, Entry] = {
    "oracle": Entry((OracleReference(),), RATES),
    "frozen": Entry((FrozenReference(),)),
    "default": Entry((Default(),), (RATE,), told=True),
    "memory": Entry((Memory(),), (2e-2, 0.12), told=True),
    "paper": Entry((Paper(rank=10, samples=10),), (2e-2, 6e-2), told=True),
    "spsa": Entry((Spsa(),), (6e-2, 2e-1), displaced=True),
    "snes": Entry(tuple(Evolution(sigma) for sigma in SPREADS), displaced=True),
    "sep-cma": Entry(tuple(Evolution(sigma, "sep-cma") for sigma in SPREADS), displaced=True),
}
QUICK = ("oracle", "frozen", "default", "paper", "spsa", "snes", "sep-cma")


class OneLine(Callback):
    """A callback that prints a line a result."""

    def finished(self, result: Mapping[str, Any]) -> None:
        named = [result[name] for name in ("device", "method", "batches", "rate", "seed")]
        short = {name: result[name] for name in ("accuracy", "steps", "refused") if name in result}
        print(time.strftime("%H:%M:%S"), *named, short, file=sys.stderr, flush=True)


def run(folder: Path, kind: BuiltKind, name: str, factor: int, size: int, seeds: Sequence[int]) -> None:
    """One cell: choose the rate or the variant on the seed for that, and run the seeds that are reported."""
    entry, task = ENTRIES[name], SizedDigits(size=size)

    def results(variant: TrainingMethod, rates: tuple[float, ...], lots: Sequence[int]) -> list[dict[str, Any]]:
        method = Normed(variant, entry.displaced)
        grid = AllowanceGrid(task, (method,), (kind,), (factor * BATCHES,), tuple(lots), rates, searched=("device_lr",))
        return compare_within(grid, folder, OneLine())

    method, rate = entry.variants[0], entry.rates[:1]
    if len(entry.variants) > 1 or len(entry.rates) > 1:
        tried = [(each, results(each, entry.rates, [TUNING])[0]) for each in entry.variants]
        method, best = max(tried, key=lambda pair: pair[1].get("accuracy", 0.0))
        rate = (best["rate"],) if entry.rates and "rate" in best else ()
    results(method, rate, seeds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", choices=list(FAMILIES), default=list(FAMILIES))
    parser.add_argument("--methods", nargs="+", choices=list(ENTRIES), default=list(QUICK))
    parser.add_argument("--states", nargs="+", choices=["designed", "built"], default=["built", "designed"])
    parser.add_argument("--told", nargs="+", choices=[each.name.lower() for each in Told], default=["all", "nothing"])
    parser.add_argument("--factors", nargs="+", type=int, default=[1])
    parser.add_argument("--sizes", nargs="+", type=int, default=[64])
    parser.add_argument("--seeds", type=int, default=3, help="how many: 0, 1, ...")
    parser.add_argument("--minutes", type=float, help="begin no cell after so many")
    parser.add_argument("--run-dir", type=Path, default=Path("runs/as_built"))
    parser.add_argument("--show", action="store_true", help="show stored results, without new runs")
    parser.add_argument("--page", type=Path, help="the document whose tables are written anew")
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    end = time.monotonic() + 60 * given.minutes if given.minutes is not None else float("inf")
    told = [Told[name.upper()] for name in given.told]
    cells = product(given.factors, given.sizes, given.states, given.families, given.methods, told)
    for factor, size, state, family, name, each in () if given.show else cells:
        kind = BuiltKind(family, state == "built", each if ENTRIES[name].told else Told.ALL)
        if kind.exists and time.monotonic() < end:
            run(given.run_dir, kind, name, factor, size, range(given.seeds))
    results = stored(given.run_dir)
    if given.page is not None or given.plot is not None:
        from built_page import draw, write  # noqa: PLC0415  # the runs do not need matplotlib

        if given.page is not None:
            write(results, given.page)
        if given.plot is not None:
            draw(results, given.plot)


if __name__ == "__main__":
    main()
