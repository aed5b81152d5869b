"""Accuracy against what was asked of the hardware: methods × devices × imperfections, each method at its best.

    python benchmarks/queries.py --task mnist --data-dir DIR
    python benchmarks/queries.py --task digits --devices matrix --methods default --seeds 2 --chart queries.svg

The θ rate of each method, and the rank of the published one, are chosen on the first `--search-seeds` seeds, rates at
the first of the ranks and then ranks at that rate; all `--seeds` are then run at what was best. Prints a Markdown
table, mean ± standard error over the seeds, and keeps every run in --run-dir, to go on from and to draw from
(chart.py). On one core a seed takes seconds with the default method and minutes with the published one at M = 100.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from blackprop.experiments import (
    Callback,
    Default,
    Digits,
    Existing,
    FittedTwin,
    FrozenReference,
    Grid,
    Hardware,
    Imperfections,
    Memory,
    Mnist,
    OracleReference,
    Paper,
    Row,
    Task,
    TrainingMethod,
    compare,
)
from blackprop.experiments.engine._hardware import FLAWLESS
from blackprop.experiments.methods._methods import Characterised
from chart import draw

CONDITIONS = {
    "clean": FLAWLESS,
    "noisy": Imperfections(read_noise=0.02),
    "coarse": Imperfections(theta_bits=6, input_bits=8, output_bits=8),
}
METHODS: dict[str, TrainingMethod] = {
    "oracle": OracleReference(),
    "frozen": FrozenReference(),
    "paper-10": Paper(samples=10, name="paper-10"),
    "paper-100": Paper(samples=100, name="paper-100"),
    "row": Row(),
    "row-coarse-step": Row(step=0.1, name="row-coarse-step"),
    "twin": FittedTwin(),
    "default": Default(),
    "memory": Memory(),
    "memory-10": Memory(count=10, name="memory-10"),
    "memory-4": Memory(count=4, start=400, name="memory-4"),
    "memory-20": Memory(rank=20, name="memory-20"),
    "memory-row": Memory(row=True, name="memory-row"),
    "characterised": Characterised(),
}
RATES = (3e-3, 1e-2, 3e-2)
RANKS = (10, 50, 100)

Result = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """What is chosen for a method: the rate of θ, and of the published method the rank."""

    rate: float
    rank: int | None = None

    def __str__(self) -> str:
        return f"{self.rate:g}" if self.rank is None else f"{self.rate:g}, rank {self.rank}"


def choose(
    rates: Sequence[float],
    ranks: Sequence[int] | None,
    run: Callable[[Setting, int], Result],
    trial: Sequence[int],
    seeds: Sequence[int],
) -> tuple[Setting, list[Result]]:
    """Search rates, then ranks at the best of them, on the seeds of `trial`; the best, and its runs on `seeds`."""

    def best(settings: Sequence[Setting]) -> Setting:
        if len(settings) == 1:
            return settings[0]
        return max(settings, key=lambda s: statistics.fmean(run(s, seed)["accuracy"] for seed in trial))

    found = best([Setting(rate, ranks[0] if ranks else None) for rate in rates])
    found = best([replace(found, rank=rank) for rank in ranks]) if ranks else found
    return found, [run(found, seed) for seed in seeds]


class OneLine(Callback):
    """One line a finished run."""

    def finished(self, result: Mapping[str, Any]) -> None:
        print(f"  {result['method']} {result['device']} seed {result['seed']}: {result['accuracy']:.4f}", flush=True)


def task_at(options: argparse.Namespace, rate: float) -> Task:
    digital = {} if options.lr is None else {"lr": options.lr}
    if options.task == "mnist":
        return Mnist(device_lr=rate, data_dir=options.data_dir, **digital)
    return Digits(device_lr=rate, **digital)


def run_one(
    options: argparse.Namespace, condition: str, device: Hardware, name: str, setting: Setting, seed: int
) -> Result:
    """One training, in a run folder of its own; a finished one is not run again."""
    method, folder = METHODS[name], f"{setting.rate:g}"
    if isinstance(method, Paper) and setting.rank is not None:
        method, folder = replace(method, rank=setting.rank), f"{folder}-rank-{setting.rank}"
    path = options.run_dir / options.task / condition / device.value / name / folder / str(seed)
    grid = Grid(task_at(options, setting.rate), (method,), (device,), (seed,), CONDITIONS[condition])
    (result,) = compare(grid, path, OneLine(), Existing.RESUME if path.exists() else Existing.REFUSE)["results"]
    return result


def table(options: argparse.Namespace, condition: str, device: Hardware) -> list[str]:
    """One line a method, at the setting that was chosen for it."""
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    best: dict[str, tuple[Setting, list[Result]]] = {}
    for name in options.methods:
        rates = options.rates[:1] if name == "frozen" else options.rates
        ranks = options.ranks if isinstance(METHODS[name], Paper) else None
        best[name] = choose(
            rates,
            ranks,
            lambda setting, seed, name=name: run_one(options, condition, device, name, setting, seed),
            seeds[: options.search_seeds],
            seeds,
        )
    low, high = (mean(best[name][1]) for name in ("frozen", "oracle"))
    lines = []
    for name, (setting, runs) in best.items():
        error = statistics.stdev(r["accuracy"] for r in runs) / math.sqrt(len(runs)) if len(runs) > 1 else 0.0
        gap, gap_error = (mean(runs) - low) / (high - low), error / (high - low)
        lines.append(
            f"| {device.value} | {condition} | {name} | {100 * mean(runs):.2f} ± {100 * error:.2f} "
            f"| {gap:.3f} ± {gap_error:.3f} "
            f"| {mean(runs, 'row_overhead'):.3g} | {mean(runs, 'programming_overhead'):.3g} | {setting} |"
        )
    return lines


def mean(runs: list[Result], key: str = "accuracy") -> float:
    return statistics.fmean(run[key] for run in runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=("digits", "mnist"), default="mnist")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--lr", type=float, help="of the digital parameters, of all methods; by default the task's")
    parser.add_argument("--devices", nargs="+", default=["light-modulator", "microring", "matrix"])
    parser.add_argument("--conditions", nargs="+", choices=CONDITIONS, default=list(CONDITIONS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--rates", nargs="+", type=float, default=RATES, help="of θ, to choose from")
    parser.add_argument("--ranks", nargs="+", type=int, default=RANKS, help="of the published method, to choose from")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument(
        "--search-seeds", type=int, default=1, help="how many of the seeds rates and ranks are chosen on"
    )
    parser.add_argument("--run-dir", type=Path, default=Path("runs/queries"))
    parser.add_argument("--chart", type=Path, help="the picture to draw of all that --run-dir holds of this task")
    options = parser.parse_args()
    options.methods = list(dict.fromkeys(["oracle", "frozen", *options.methods]))
    torch.set_num_threads(1)
    lines = [
        "| device | condition | method | accuracy, % | gap closed | row overhead | programming overhead | θ rate |"
    ]
    lines.append("|" + " --- |" * 8)
    for condition in options.conditions:
        for device in map(Hardware, options.devices):
            lines += table(options, condition, device)
            print("\n".join(lines), flush=True)
    if options.chart is not None:
        draw(options.run_dir / options.task, options.chart)


if __name__ == "__main__":
    main()
