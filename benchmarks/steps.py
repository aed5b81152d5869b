"""What a training step costs beside the oracle's, autograd through the simulator: the ratio, step by step in turn.

    python benchmarks/steps.py --data-dir DIR --tasks cifar10 speech-digits text

One process, one thread. The start, where devices are calibrated, is not in the ratio; it is told in seconds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from itertools import count
from pathlib import Path

import torch

from blackprop.experiments import (
    Cifar10,
    Data,
    Default,
    FittedTwin,
    Hardware,
    Memory,
    OracleReference,
    Row,
    Task,
    Trial,
)
from blackprop.experiments.engine._training import Training
from blackprop.experiments.tasks.audio._tasks import SpeechDigits
from blackprop.experiments.tasks.language._tasks import Text

METHODS = {
    "default": Default(),
    "row": Row(),
    "memory-row": Memory(row=True, name="memory-row"),
    "twin": FittedTwin(),
}
PAIRS = [
    *((device, method) for device in ("light-modulator", "microring") for method in ("default", "row", "memory-row")),
    ("imperfect-three-splitter", "twin"),
]


class Steps:
    """The training of a trial for one step at a time, without evaluations."""

    def __init__(self, trial: Trial, data: Data) -> None:
        self._training, self._numbers = Training(trial, data), count()
        self._training.model.train()

    def timed(self) -> float:
        begin = time.perf_counter()
        self._training.stepper.step(next(self._numbers))
        self._training.pace.stepped()
        return time.perf_counter() - begin


def task_of(name: str, folder: Path) -> Task:
    match name:
        case "cifar10":
            return Cifar10(data_dir=folder)
        case "speech-digits":
            return SpeechDigits(data_dir=folder)
        case _:
            return Text(data_dir=folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=["cifar10", "speech-digits", "text"])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| experiment | device | method | step, of the oracle's | oracle's step | first step |")
    print("|" + " --- |" * 6)
    for name in options.tasks:
        task = task_of(name, options.data_dir)
        data = task.data()
        for device, method in PAIRS:
            ours, oracle = (
                Steps(Trial(task, way, Hardware(device)), data) for way in (METHODS[method], OracleReference())
            )
            first, _ = ours.timed(), oracle.timed()
            pairs = [(ours.timed(), oracle.timed()) for _ in range(options.steps)]
            ratio = statistics.median(a / b for a, b in pairs)
            theirs = 1e3 * statistics.median(b for _, b in pairs)
            print(f"| {name} | {device} | {method} | {ratio:.2f} | {theirs:.1f} ms | {first:.1f} s |", flush=True)


if __name__ == "__main__":
    main()
