"""Accuracy against what was asked of the hardware: methods × devices × imperfections, each method at its best θ rate.

    python benchmarks/queries.py --task mnist --data-dir DIR
    python benchmarks/queries.py --task digits --devices matrix microring --methods default --seeds 2

Prints a Markdown table, mean ± standard error over the seeds, and keeps every run in --run-dir, to go on from. On one
core a seed takes seconds with the default method and minutes with the published one at M = 100.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from blackprop.recipes import (
    FLAWLESS,
    Default,
    Digits,
    Existing,
    Frozen,
    Grid,
    Hardware,
    Imperfections,
    Method,
    Mnist,
    Oracle,
    Paper,
    Row,
    Task,
    Twin,
    carry_out,
)

CONDITIONS = {
    "clean": FLAWLESS,
    "noisy": Imperfections(read_noise=0.02),
    "coarse": Imperfections(theta_bits=6, input_bits=8, output_bits=8),
}
METHODS: dict[str, Method] = {
    "oracle": Oracle(),
    "frozen": Frozen(),
    "paper-10": Paper(samples=10, name="paper-10"),
    "paper-100": Paper(samples=100, name="paper-100"),
    "row": Row(),
    "row-coarse-step": Row(step=0.1, name="row-coarse-step"),
    "twin": Twin(),
    "default": Default(),
}
RATES = (3e-3, 1e-2, 3e-2)


class Watch:
    """One line a finished run."""

    def step(self, progress: Mapping[str, Any]) -> None:
        pass

    def finished(self, result: Mapping[str, Any]) -> None:
        print(f"  {result['method']} {result['device']} seed {result['seed']}: {result['accuracy']:.4f}", flush=True)


def task_at(options: argparse.Namespace, rate: float) -> Task:
    digital = {} if options.lr is None else {"lr": options.lr}
    if options.task == "mnist":
        return Mnist(device_lr=rate, data_dir=options.data_dir, **digital)
    return Digits(device_lr=rate, **digital)


def results(options: argparse.Namespace, condition: str, device: Hardware, rate: float) -> list[dict[str, Any]]:
    methods = tuple(METHODS[name] for name in options.methods if name != "frozen" or rate == RATES[0])
    grid = Grid(task_at(options, rate), methods, (device,), tuple(range(options.seeds)), CONDITIONS[condition])
    path = options.run_dir / f"{options.task}-{condition}-{device.value}-{rate:g}"
    return carry_out(grid, path, Watch(), Existing.RESUME if path.exists() else Existing.REFUSE)["results"]


def table(options: argparse.Namespace, condition: str, device: Hardware) -> list[str]:
    """One line a method, at the θ rate where its mean accuracy is highest."""
    found: dict[str, dict[float, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for rate in RATES:
        for result in results(options, condition, device, rate):
            found[result["method"]][rate].append(result)

    def mean(runs: list[dict[str, Any]], key: str = "accuracy") -> float:
        return statistics.fmean(run[key] for run in runs)

    best = {name: max(by_rate.items(), key=lambda item: mean(item[1])) for name, by_rate in found.items()}
    low, high = mean(best["frozen"][1]), mean(best["oracle"][1])
    lines = []
    for name, (rate, runs) in best.items():
        error = statistics.stdev(r["accuracy"] for r in runs) / math.sqrt(len(runs)) if len(runs) > 1 else 0.0
        gap, gap_error = (mean(runs) - low) / (high - low), error / (high - low)
        lines.append(
            f"| {device.value} | {condition} | {name} | {100 * mean(runs):.2f} ± {100 * error:.2f} "
            f"| {gap:.3f} ± {gap_error:.3f} "
            f"| {mean(runs, 'row_overhead'):.3g} | {mean(runs, 'programming_overhead'):.3g} | {rate:g} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=("digits", "mnist"), default="mnist")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--lr", type=float, help="of the digital parameters, of all methods; by default the task's")
    parser.add_argument("--devices", nargs="+", default=["light-modulator", "microring", "matrix"])
    parser.add_argument("--conditions", nargs="+", choices=CONDITIONS, default=list(CONDITIONS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--run-dir", type=Path, default=Path("runs/queries"))
    options = parser.parse_args()
    options.methods = list(dict.fromkeys(["oracle", "frozen", *options.methods]))
    options.run_dir.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    lines = [
        "| device | condition | method | accuracy, % | gap closed | row overhead | programming overhead | θ rate |"
    ]
    lines.append("|" + " --- |" * 8)
    for condition in options.conditions:
        for device in map(Hardware, options.devices):
            lines += table(options, condition, device)
            print("\n".join(lines), flush=True)


if __name__ == "__main__":
    main()
