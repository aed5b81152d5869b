"""The published sizes for a few hundred steps: time a step, the share of it spent on gradient queries, peak memory.

    python benchmarks/gpu.py                       # on an accelerator
    python benchmarks/gpu.py --experiments cnn --steps 3 --batch-size 8    # a look, on the CPU

Rows are random: what is timed does not depend on what they show, and no data set is needed but by airbench, whose
first filters are of its images (`--data-dir`, or a download). The devices are simulators
on the same machine, so the share of the queries is what simulating them takes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from blackprop import devices
from blackprop.core import Purpose, Query
from blackprop.experiments import Cifar10, Default, Hardware, OracleReference, Paper, Task, TrainingMethod
from blackprop.experiments.engine._training import stepping
from blackprop.experiments.tasks._task import Size
from blackprop.experiments.tasks.audio._tasks import UrbanSound8K
from blackprop.experiments.tasks.language._tasks import FineWeb
from blackprop.experiments.tasks.vision._cifar10 import Vision
from blackprop.nn import PhysicalLayer

EXPERIMENTS = ("cnn", "airbench", "ecapa", "gpt")
GRADIENT = (Purpose.PARAMETER, Purpose.SURROGATE, Purpose.CALIBRATE)
METHODS: dict[str, TrainingMethod] = {
    "oracle": OracleReference(),
    "default": Default(),
    "paper": Paper(rank=100, samples=100),
}


def synchronised(place: torch.device) -> float:
    if place.type == "cuda":
        torch.cuda.synchronize(place)
    return time.perf_counter()


class Timed(devices.Wrapper):
    """A device that keeps the seconds that each purpose took."""

    seconds: dict[Purpose, float]

    def __init__(self, device: devices.Device, seconds: dict[Purpose, float]) -> None:
        super().__init__(device)
        self.seconds = seconds

    def measure(self, queries: Sequence[Query], /) -> list[Tensor]:
        begin = synchronised(queries[0].theta.device)
        readings = super().measure(queries)
        # A round that asks for several purposes is the forward reading and what follows it: counted by its rows.
        spent, rows = synchronised(queries[0].theta.device) - begin, sum(len(query.x) for query in queries)
        for query in queries:
            self.seconds[query.purpose] += spent * len(query.x) / max(1, rows)
        return readings


def experiment(name: str, batch_size: int | None, folder: Path | None) -> tuple[Task, tuple[Tensor, Tensor]]:
    """A task at the published size, and a batch of rows such as its own."""
    task: Any
    given: dict[str, Any] = {} if batch_size is None else {"batch_size": batch_size}
    generator = torch.Generator().manual_seed(0)
    match name:
        case "cnn" | "airbench":
            task = Cifar10(Vision(name), Size.PUBLISHED, data_dir=folder, **given)
            rows = torch.randint(256, (task.batch_size, 3, 32, 32), dtype=torch.uint8, generator=generator)
        case "ecapa":
            task = UrbanSound8K(Size.PUBLISHED, **given)
            rows = torch.randint(-(2**12), 2**12, (task.batch_size, 64_000), dtype=torch.int16, generator=generator)
        case _:
            task = FineWeb(Size.PUBLISHED, **{"batch_size": 16, **given})  # the published step accumulates 20 of them
            rows = torch.randint(256, (task.batch_size, 1025), generator=generator)
            return task, (rows[:, :-1], rows[:, 1:])
    return task, (rows, torch.randint(10, (task.batch_size,), generator=generator))


def measured(task: Task, batch: tuple[Tensor, Tensor], method: TrainingMethod, hardware: Hardware, options: Any) -> str:
    place, seconds = torch.device(options.device), dict.fromkeys(Purpose, 0.0)

    def layer(d_in: int, d_out: int) -> PhysicalLayer:
        return method.layer(Timed(hardware.make(d_in, d_out), seconds), torch.Generator().manual_seed(0))

    model = task.build(layer, 0).to(place).train()
    steps = [optimizer for optimizer, _ in task.optimizers(model, options.steps)]
    if not isinstance(method, (OracleReference, Paper)):
        steps = [stepping(one, model, scaled=True) for one in steps]
    x, y = (part.to(place) for part in batch)
    generator, times, shares = torch.Generator().manual_seed(0), [], []
    if place.type == "cuda":
        torch.cuda.reset_peak_memory_stats(place)
    for _ in range(options.steps):
        begin, before = synchronised(place), sum(seconds[purpose] for purpose in GRADIENT)
        with torch.autocast(place.type, torch.bfloat16) if options.bf16 else nullcontext():
            rows, targets = task.augment(x, y, generator)
            loss = task.objective.loss(model(rows), targets)
        for optimizer in steps:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in steps:
            optimizer.step()
        times.append(synchronised(place) - begin)
        shares.append((sum(seconds[purpose] for purpose in GRADIENT) - before) / times[-1])
    late = slice(len(times) // 5, None)  # without what is calibrated or compiled at the start
    memory = f"{torch.cuda.max_memory_allocated(place) / 2**30:.2f} GiB" if place.type == "cuda" else "not measured"
    return (
        f"{1e3 * statistics.median(times[late]):.1f} ms | {statistics.median(shares[late]):.1%} | {times[0]:.2f} s "
        f"| {memory}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", nargs="+", default=EXPERIMENTS, choices=EXPERIMENTS)
    parser.add_argument("--hardware", nargs="+", default=["light-modulator", "microring"])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, help="by default the published one (language: 16 windows)")
    parser.add_argument("--data-dir", type=Path, help="of CIFAR-10, whose patches airbench whitens")
    parser.add_argument("--bf16", action="store_true", help="autocast of the digital layers")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    print("| experiment | device | method | step, median | of it, gradient queries | first step | peak memory |")
    print("|" + " --- |" * 7)
    for name in options.experiments:
        task, batch = experiment(name, options.batch_size, options.data_dir)
        for hardware in map(Hardware, options.hardware):
            for method in options.methods:
                line = measured(task, batch, METHODS[method], hardware, options)
                print(f"| {name} | {hardware.value} | {method} | {line} |", flush=True)


if __name__ == "__main__":
    main()
