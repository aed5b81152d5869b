"""Methods × devices × tasks at equal rows and equal programmings: the table and the chart of docs/field.md.

    python benchmarks/field/bench.py --plot docs/field.svg
    python benchmarks/field/bench.py --tasks digits mnist speech-digits --data-dir DIR --factors 1 10

An allowance of factor 1 is what a plain run of the task asks, backpropagation through a simulator: the rows of all its
steps in each device, and one programming of each device a step. A method trains until its next step would pass it, and
its rates fall as a cosine of the share that is spent. Of `--rates`, for θ, each method takes at each allowance the one
of the best test accuracy on the first seed; physical local learning, which moves no θ, takes its matrices' rate from
the same ones.
On pulsed crossbars, whose programmings switch tiles, rows alone are limited, and pulses take ten times that rate.

Results are kept in `--run-dir`; what is there is not run again. A method that cannot serve a device is a – in the
table, and below it stands why.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench_table import Result, chosen, table, with_factors
from local_method import LocalLearning

from blackprop.experiments import (
    AllowanceGrid,
    Callback,
    Default,
    Digits,
    DirectFeedbackAlignment,
    FeedbackAlignment,
    FittedTwin,
    FrozenReference,
    Hardware,
    Memory,
    Mnist,
    OracleReference,
    Paper,
    Perturbative,
    Row,
    Task,
    TrainingMethod,
    compare_within,
)
from blackprop.experiments.comparison._within import stored
from blackprop.experiments.methods._by_loss import Mixed, Multiplexed, Spsa
from blackprop.experiments.methods._by_pulses import PULSED_METHODS, TrainedByPulses
from blackprop.experiments.tasks.audio._tasks import SpeechDigits

METHODS: tuple[TrainingMethod, ...] = (
    OracleReference(),
    FrozenReference(),
    Default(),
    FittedTwin(),
    Row(),
    Memory(),
    Memory(row=True, name="memory-row"),
    Paper(rank=10, samples=10),
    Perturbative(),
    Mixed(),
    Multiplexed(),
    Spsa(),
    FeedbackAlignment(),
    DirectFeedbackAlignment(),
    LocalLearning(),
    LocalLearning(reads=False, name="local-no-device"),
    *(TrainedByPulses(name) for name in PULSED_METHODS),
)
DEVICES = (
    Hardware.LIGHT_MODULATOR,
    Hardware.MICRORING,
    Hardware.CROSSBAR,
    Hardware.SCATTERING_MEDIUM,
    Hardware.THREE_SPLITTER_MESH,
    Hardware.IMPERFECT_THREE_SPLITTER_MESH,
    Hardware.PULSED_RERAM,
    Hardware.PULSED_10,
)
EPOCHS = {"digits": 10, "mnist": 2, "speech-digits": 6}


class OneLine(Callback):
    """A callback that tells a line a result."""

    def finished(self, result: Mapping[str, Any]) -> None:
        named = [result[name] for name in ("task", "device", "method", "batches", "rate", "seed")]
        short = {name: result[name] for name in ("accuracy", "steps", "refused") if name in result}
        print(*named, short, file=sys.stderr, flush=True)


def run(
    folder: Path,
    task: Task,
    methods: Sequence[TrainingMethod],
    hardware: Sequence[Hardware],
    factors: Sequence[int],
    rates: Sequence[float],
    seeds: int,
) -> list[Result]:
    """The results of each method at the rate that is best on the first seed, for all seeds; one where it is refused."""
    steps = task.steps(len(task.data().x_train))
    batches, lots = tuple(f * steps for f in factors), tuple(range(seeds))
    grid = AllowanceGrid(task, tuple(methods), tuple(hardware), batches, lots, tuple(rates), searched=("device_lr",))
    return with_factors(compare_within(grid, folder, OneLine()))


def build_task(name: str, epochs: int | None, data_dir: Path | None) -> Digits | Mnist | SpeechDigits:
    epochs = EPOCHS[name] if epochs is None else epochs
    match name:
        case "digits":
            return Digits(epochs=epochs)
        case "mnist":
            return Mnist(epochs=epochs, data_dir=data_dir)
        case _:
            return SpeechDigits(epochs=epochs, data_dir=data_dir)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names, kinds = [method.name for method in METHODS], [kind.value for kind in DEVICES]
    parser.add_argument("--tasks", nargs="+", choices=list(EPOCHS), default=["digits"])
    parser.add_argument("--methods", nargs="+", choices=names, default=names, help="oracle and frozen always join them")
    parser.add_argument("--devices", nargs="+", choices=kinds, default=kinds)
    parser.add_argument("--factors", nargs="+", type=int, default=[1, 10], help="of the reference run's allowance")
    parser.add_argument("--rates", nargs="+", type=float, default=[5e-3, 2e-2, 6e-2])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, help=f"of the reference run; by default {EPOCHS}")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--run-dir", type=Path, default=Path("runs/field"))
    parser.add_argument("--show", action="store_true", help="print the results in the run folder, without new runs")
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    methods = [method for method in METHODS if method.name in {"oracle", "frozen", *args.methods}]
    hardware = [kind for kind in DEVICES if kind.value in args.devices]
    results = chosen(with_factors(stored(args.run_dir))) if args.show else []
    for name in () if args.show else args.tasks:
        task = build_task(name, args.epochs, args.data_dir)
        results += run(args.run_dir, task, methods, hardware, args.factors, args.rates, args.seeds)
    print(table(results, names, kinds))
    if args.plot is not None:
        from bench_chart import draw  # noqa: PLC0415  # the table does not need matplotlib

        draw(results, names, kinds, args.plot)


if __name__ == "__main__":
    main()
