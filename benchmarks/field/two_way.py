"""Digits through two devices that are read in both directions, at the allowance of docs/field.md.

    python benchmarks/field/two_way.py --seeds 3

Device 64→64, batch norm, ReLU, device 64→10, batch norm; 10 epochs of 22 batches of 64 are ×1: 28,160 rows and 440
programmings. Methods:

- *two-way*: both gradients from the device itself, without calibration. On meshes θ from power taps (`InSitu`), on
  crossbars from outer products (`Outer`); rows from backward readings (`Reciprocal`).
- *oracle*: autograd through the same device, without a query.
- *frozen*: θ as drawn.

Devices, as designed (*ideal*) and as built:

- *three-splitter*, *mzi*: phase offsets anywhere on the circle, splitters off by 0.05 rad, tap noise 1 %, tap gains
  ± 5 %, read noise 2 %. *lossy*: the same with 0.3 dB ± 30 % an interferometer and tap noise 5 %. *drifting*: the same
  as as-built, and each phase moves steadily, by 0.5 rad (rms) over the allowance. Rates fall as a cosine to zero, those
  of θ no further than to `--follow` times the drift a step that `optim.DriftFloor` measures (0: to zero). The running
  statistics of the batch norms have the momentum `--norms`, so that they follow the device.
- *crossbar*: phase-change cells, whose conductance varies at every programming and reading and falls with time (a
  minute a round), wires of 1 Ω between cells, 1 % of the cells stuck.

Read noise holds for readings, backward readings and taps. Printed: test accuracy in %, steps, rows and programmings.
Each cell has the rate of `--rates` with the best test accuracy on the first seed, or on the seed `--tune`, which is
then not among those reported.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

import blackprop as bp
from blackprop.core import ReadBack, ReadBackField, Taps
from blackprop.experiments import (
    Allowance,
    Digits,
    FrozenReference,
    Imperfections,
    OracleReference,
    TrainingMethod,
    Trial,
    train,
)
from blackprop.experiments.tasks._task import MakeLayer

ANYWHERE = 10.0  # rad: a normal distribution as wide as this is uniform on the circle
MESHES = {
    "three-splitter": (bp.devices.ThreeSplitterMesh, bp.devices.ImperfectThreeSplitterMesh),
    "mzi": (bp.devices.MZIMesh, bp.devices.ImperfectMZIMesh),
}
TAPS = {
    "as-built": partial(bp.devices.TappedMesh, noise=0.01, gain=0.05),
    "lossy": partial(bp.devices.TappedMesh, noise=0.05, gain=0.05, loss=0.3, spread=0.3),
    "drifting": partial(bp.devices.TappedMesh, noise=0.01, gain=0.05),
}
DEVICES = (*MESHES, "crossbar")
CHIPS = ("ideal", *TAPS)
READ_NOISE = 0.02
RAMP = 0.5  # rad over the allowance
PROGRAMMINGS = 220  # of each of the two devices, ×1


class Ramp(bp.devices.Wrapper):
    """A device whose parameters move steadily: by `rate` times a number of their own at every programming."""

    survives = (ReadBack, ReadBackField, Taps)

    def __init__(self, device: bp.Device, rate: float, seed: int) -> None:
        super().__init__(device)
        self._move = rate * torch.randn(self.theta.size, generator=torch.Generator().manual_seed(seed))
        self.offset = torch.zeros(self.theta.size)

    def _setting(self, theta: Tensor, fresh: bool) -> Tensor:
        if fresh:
            self.offset = self.offset + self._move
        return theta + self.offset

    def oracle(self) -> Callable[[Tensor, Tensor], Tensor] | None:
        inner = self.device.oracle()
        return None if inner is None else lambda x, theta: inner(x, theta + self.offset)


@dataclass(frozen=True)
class TwoWay(TrainingMethod):
    """Both gradients from the device itself."""

    signal_scaled: ClassVar[bool] = False

    pairs: int | None = 8
    name: str = "two-way"

    def layer(self, device: bp.Device, generator: torch.Generator) -> bp.PhysicalLayer:
        taps = device.declaration.has(Taps)
        estimator = bp.estimators.InSitu(self.pairs) if taps else bp.estimators.Outer(1 / math.sqrt(*device.in_shape))
        return bp.PhysicalLayer(device, estimator, bp.surrogates.Reciprocal(), generator=generator)


@dataclass(frozen=True)
class Chip:
    """A device as designed, or with the hidden errors of a seed."""

    device: str
    value: str

    def make(self, d_in: int, d_out: int, seed: int = 0) -> bp.Device:
        if self.device == "crossbar":
            return self._crossbar(d_in, d_out, seed)
        designed, erring = MESHES[self.device]
        if self.value == "ideal":
            return designed(d_in, d_out)
        built = TAPS[self.value](erring(d_in, d_out, phase=ANYWHERE, splitter=0.05, seed=seed), seed=seed)
        return Ramp(built, RAMP / PROGRAMMINGS, seed) if self.value == "drifting" else built

    def _crossbar(self, d_in: int, d_out: int, seed: int) -> bp.Device:
        if self.value == "ideal":
            return bp.devices.Crossbar(d_in, d_out)
        cells = bp.devices.Crossbar(d_in, d_out, memristor=bp.devices.PCM, line=1.0, stuck=(0.005, 0.005), seed=seed)
        return bp.devices.Memristive(cells, seed=seed, clock=count(60.0, 60.0).__next__)  # a minute a round


@dataclass(frozen=True)
class HeldUp(Digits):
    """Digits whose rates of θ fall as a cosine, no further than to `follow` times the drift that is measured.

    Batch norms have the momentum `norms`.
    """

    follow: float = 0.0
    norms: float = 0.1

    def build(self, layer: MakeLayer, seed: int) -> nn.Module:
        model = super().build(layer, seed)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.momentum = self.norms
        return model

    def optimizers(self, model: nn.Module, steps: int) -> list[tuple[Optimizer, LRScheduler]]:
        adam = Adam(bp.param_groups(model, lr=self.lr, device_lr=self.device_lr))
        usual = CosineAnnealingLR(adam, steps)
        return [(adam, bp.optim.DriftFloor(usual, model, follow=self.follow) if self.follow else usual)]


def run(task: Digits, method: TrainingMethod, chip: Chip, seed: int, factor: float) -> dict[str, float]:
    """The accuracy in %, and the cost of the training."""
    noisy = chip.value != "ideal" and chip.device != "crossbar"
    flaws = Imperfections(read_noise=READ_NOISE if noisy else 0.0)
    allowance = Allowance.of_batches(task, round(factor * task.steps(len(task.data().x_train))))
    result = train(Trial(task, method, chip, seed, flaws, allowance=allowance))
    asked = {unit: sum(n for use, n in result[unit].items() if use != "evaluate") for unit in ("rows", "programmings")}
    return {"accuracy": 100 * result["accuracy"], "steps": result["steps"], **asked}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", nargs="+", choices=DEVICES, default=list(DEVICES))
    parser.add_argument("--chips", nargs="+", choices=CHIPS, default=list(CHIPS))
    parser.add_argument("--rates", nargs="+", type=float, default=[2e-2, 6e-2])
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--factor", type=float, default=1)
    parser.add_argument("--epochs", type=int, default=10, help="of the allowance of factor 1")
    parser.add_argument("--follow", type=float, default=3.0, help="rates over the drift a step, on drifting devices")
    parser.add_argument("--norms", type=float, default=0.3, help="momentum of batch norms, on drifting devices")
    parser.add_argument("--tune", type=int, help="the seed on which rates are chosen")
    args = parser.parse_args()
    torch.set_num_threads(1)
    head = f"{'device':16}{'chip':10}{'method':10}{'rate':>6}{'accuracy, %':>16}"
    print(head + f"{'steps':>7}{'rows':>8}{'programmings':>14}")
    for device in args.devices:
        for value in args.chips if device in MESHES else [each for each in args.chips if each in ("ideal", "as-built")]:
            task = HeldUp(epochs=args.epochs)
            if value == "drifting":
                task = replace(task, follow=args.follow, norms=args.norms)
            for method in (OracleReference(), FrozenReference(), TwoWay(args.pairs)):
                chip = Chip(device, value)
                rates = args.rates[:1] if isinstance(method, FrozenReference) else args.rates
                tried = 0 if args.tune is None else args.tune
                first = {
                    rate: run(replace(task, device_lr=rate), method, chip, tried, args.factor)
                    for rate in (rates if len(rates) > 1 or args.tune is None else [])
                }
                rate = max(first, key=lambda each: first[each]["accuracy"], default=rates[0])
                chosen, kept = replace(task, device_lr=rate), [first[rate]] if args.tune is None else []
                rest = range(len(kept), args.seeds)
                found = kept + [run(chosen, method, chip, seed, args.factor) for seed in rest]
                scores = [each["accuracy"] for each in found]
                spread = f" ± {statistics.stdev(scores):4.1f}" if len(scores) > 1 else ""
                print(
                    f"{device:16}{value:10}{method.name:10}{rate:6g}{statistics.fmean(scores):9.1f}{spread:7}"
                    f"{found[0]['steps']:7}{found[0]['rows']:8,}{found[0]['programmings']:14,}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
