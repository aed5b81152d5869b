"""Methods × devices × tasks at equal rows and equal programmings: the table and the chart of docs/field.md.

    python benchmarks/field/bench.py --plot docs/field.svg
    python benchmarks/field/bench.py --tasks digits mnist speech-digits --data-dir DIR --factors 1 10

An allowance of factor 1 is what a plain run of the task asks, backpropagation through a simulator: the rows of all its
steps in each device, and one programming of each device a step. A method trains until its next step would pass it, and
its rates fall as a cosine of the share that is spent. Of `--rates`, for θ, each cell takes the one of the best test
accuracy on the first seed; physical local learning, which moves no θ, takes its matrices' rate from the same ones.

Results are kept in `--run-dir`; what is there is not run again. A method that cannot serve a device is a – in the
table, and below it stands why.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice, product
from pathlib import Path
from typing import Any, ClassVar

import torch
from bench_table import Result, chosen, table
from torch import Tensor, nn
from torch.nn import functional as F

import blackprop as bp
from blackprop.experiments import (
    Allowance,
    Trial,
    Data,
    Default,
    Digits,
    DirectFeedbackAlignment,
    FeedbackAlignment,
    FrozenReference,
    Hardware,
    Memory,
    TrainingMethod,
    Mixed,
    Mnist,
    Multiplexed,
    OracleReference,
    Paper,
    Perturbative,
    Row,
    SpeechDigits,
    Spsa,
    PhysicalTwin,
    asked,
    evaluate,
    train_within,
)
from blackprop.experiments.engine._allowance import EVALUATED, physical_layers
from blackprop.learning_rules import PhysicalLocalLearning

CLASSES = 10
KEY = ("task", "device", "method", "factor", "rate", "seed", "allowed")


@dataclass(frozen=True)
class LocalLearning(TrainingMethod):
    """Physical local learning: θ stays as drawn, and a digital matrix behind each device learns from it alone, and from
    what the device gets. With `reads` false, from the latter alone: what the matrices do without any device.
    """

    inner: int = 5
    reads: bool = True
    name: str = "local-learning"

    signal_scaled: ClassVar[bool] = False

    def layer(self, device: bp.Device, generator: torch.Generator) -> bp.PhysicalLayer:
        layer = bp.PhysicalLayer(device, generator=generator)
        layer.theta.requires_grad_(False)
        return layer


METHODS: tuple[TrainingMethod, ...] = (
    OracleReference(),
    FrozenReference(),
    Default(),
    PhysicalTwin(),
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
)
DEVICES = (
    Hardware.LIGHT_MODULATOR,
    Hardware.MICRORING,
    Hardware.CROSSBAR,
    Hardware.SCATTERING_MEDIUM,
    Hardware.THREE_SPLITTER_MESH,
    Hardware.IMPERFECT_THREE_SPLITTER_MESH,
)
EPOCHS = {"digits": 10, "mnist": 2, "speech-digits": 6}


def run(cell: Trial, data: Data, allowance: Allowance) -> Result:
    """The scores of a cell trained within the allowance, and what it asked."""
    start, model = time.perf_counter(), cell.model()
    task: Any = cell.task  # all have rates
    if isinstance(cell.method, LocalLearning):
        model, steps = train_locally(cell, cell.method, model, data, allowance)
        scores = {"accuracy": accuracy(model, data)}
    else:
        steps = train_within(task, model, cell.method, data, cell.seed, allowance)
        scores = evaluate(task.objective, model, data)
    rows, programmings = asked(model)
    seconds = time.perf_counter() - start
    return {**scores, "steps": steps, "rows": rows, "programmings": programmings, "seconds": seconds}


def train_locally(
    cell: Trial, method: LocalLearning, model: nn.Module, data: Data, allowance: Allowance
) -> tuple[PhysicalLocalLearning, int]:
    """A stack of the devices of `model`, the first with more inputs, for the label; and how many batches it visited."""
    shapes = [(*layer.in_shape, *layer.out_shape) for layer in physical_layers(model)]
    if tuple(data.x_train.shape[1:]) != shapes[0][:1]:
        raise bp.errors.IncompatibleError(
            f"physical local learning writes the label into the rows of {cell.task.name}, and they do not go into its "
            "first device as they are"
        )
    sizes = [(d_in + (0 if index else CLASSES), d_out) for index, (d_in, d_out) in enumerate(shapes)]
    layers = [cell.layer(*size, index) for index, size in enumerate(sizes)]
    generator = torch.Generator().manual_seed(cell.seed)
    rule = PhysicalLocalLearning(layers, CLASSES, shapes[0][1], generator=generator)
    task: Any = cell.task
    rate, size = task.device_lr, task.batch_size
    like = [roomy(data.x_train[:size]), *(torch.randn(size, d_in, generator=generator).abs() for d_in, _ in sizes[1:])]
    for layer, x in zip(layers, like, strict=True):
        level(layer, x, float(method.reads))
    optimizer, cost = torch.optim.Adam(rule.digital.parameters(), rate), 2 * len(layers) * size
    visits = (allowance.rows - len(layers) * size) // cost
    for visit, (x, y) in enumerate(islice(batches(cell, data, size), visits)):
        optimizer.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * visit / visits)) / 2
        for _ in rule.visit(roomy(x), y, method.inner):
            optimizer.step()
            rule.zero_grad()
    return rule, visits


@torch.no_grad()
def level(layer: bp.PhysicalLayer, x: Tensor, wanted: float) -> None:
    """Have rows like x read at this rms, by one reading: some devices answer twenty times as large as what they get."""
    assert layer.gain is not None
    layer.gain *= wanted / layer(x).square().mean().sqrt()


def batches(cell: Trial, data: Data, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """As the other methods see them."""
    for epoch in count():
        for rows in torch.randperm(len(data.x_train), generator=cell.order(epoch)).split(size):
            if len(rows) == size:
                yield data.x_train[rows], data.y_train[rows]


def roomy(x: Tensor) -> Tensor:
    return F.pad(x, (CLASSES, 0))


def accuracy(rule: PhysicalLocalLearning, data: Data) -> float:
    rule.eval()
    said = torch.cat([rule.predict(roomy(x)) for x in data.x_test.split(EVALUATED)])
    return float((said == data.y_test).double().mean())


class Kept:
    """Results in a file, and those that will be."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "results.jsonl"
        self.known: dict[tuple[Any, ...], Result] = {}
        for line in self._file.read_text().splitlines() if self._file.exists() else ():
            with contextlib.suppress(ValueError):  # cut short by a kill
                entry = json.loads(line)
                self.known[tuple(entry[name] for name in KEY)] = entry

    def result(self, cell: Trial, data: Data, factor: int, reference: tuple[int, int]) -> Result:
        rows, programmings = (factor * asked for asked in reference)
        task: Any = cell.task
        what = (task.name, cell.hardware.value, cell.method.name, factor, task.device_lr, cell.seed, rows)
        if what not in self.known:
            try:
                found = run(cell, data, Allowance(rows, programmings))
            except (bp.errors.IncompatibleError, bp.errors.ArgumentError, bp.errors.BudgetExhausted) as error:
                found = {"refused": str(error)}
            self.known[what] = {**dict(zip(KEY, what, strict=True)), **found}
            with self._file.open("a") as out:
                out.write(json.dumps(self.known[what]) + "\n")
            short = {name: found[name] for name in ("accuracy", "steps", "seconds", "refused") if name in found}
            print(*what[:-1], short, file=sys.stderr, flush=True)
        return self.known[what]


def carry_out(
    kept: Kept,
    task: Any,
    methods: Sequence[TrainingMethod],
    hardware: Sequence[Hardware],
    factors: Sequence[int],
    rates: Sequence[float],
    seeds: int,
) -> list[Result]:
    """The results of each cell at the rate that is best on the first seed, for all seeds; one where it was refused."""
    data, found = task.data(), []
    steps = task.steps(len(data.x_train))
    for factor, kind, method in product(factors, hardware, methods):
        places = len(physical_layers(Trial(task, OracleReference(), kind).model()))
        reference = (steps * task.batch_size * places, steps * places)
        first: list[Result] = []
        for rate in rates if not isinstance(method, FrozenReference) else (task.device_lr,):
            at_rate = replace(task, device_lr=rate)
            first.append(kept.result(Trial(at_rate, method, kind, 0), data, factor, reference))
            if "refused" in first[0]:  # at any rate
                break
        best = max(first, key=lambda result: result.get("accuracy", 0.0))
        others = range(1, seeds) if "refused" not in best else ()
        chosen = replace(task, device_lr=best["rate"])
        found += [best, *(kept.result(Trial(chosen, method, kind, s), data, factor, reference) for s in others)]
    return found


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
    parser.add_argument("--show", action="store_true", help="tell of all that the run folder holds, and run nothing")
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    kept = Kept(args.run_dir)
    methods = [method for method in METHODS if method.name in {"oracle", "frozen", *args.methods}]
    hardware = [kind for kind in DEVICES if kind.value in args.devices]
    results = chosen(list(kept.known.values())) if args.show else []
    for name in () if args.show else args.tasks:
        task = build_task(name, args.epochs, args.data_dir)
        results += carry_out(kept, task, methods, hardware, args.factors, args.rates, args.seeds)
    print(table(results, names, kinds))
    if args.plot is not None:
        from bench_chart import draw  # noqa: PLC0415  # matplotlib is no need of the table

        draw(results, names, kinds, args.plot)


if __name__ == "__main__":
    main()
