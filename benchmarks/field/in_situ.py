"""Digits through two meshes, trained by in-situ backpropagation at the allowance of docs/field.md.

    python benchmarks/field/in_situ.py --seeds 3

Device 64→64, batch norm, ReLU, device 64→10, batch norm; 10 epochs of 22 batches of 64 are ×1: 28,160 rows and 440
programmings. *in-situ*: θ from power taps (`InSitu`), rows from backward readings (`Reciprocal`), without calibration.
*oracle*: autograd through the same device, without a query. *frozen*: θ as drawn.

Chips: *ideal*, the mesh as designed; *as-built*, phase offsets anywhere on the circle, splitters off by 0.05 rad, tap
noise 1 %, tap gains ± 5 %, read noise 2 %; *lossy*, the same with 0.3 dB ± 30 % an interferometer and tap noise 5 %.
The read noise holds for readings, backward readings and taps.

Printed: test accuracy in %, steps, rows and programmings. Each cell has the rate of `--rates` with the best test
accuracy on the first seed.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch

import blackprop as bp
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

ANYWHERE = 10.0  # rad: a normal distribution as wide as this is uniform on the circle
MESHES = {
    "three-splitter": (bp.devices.ThreeSplitterMesh, bp.devices.ImperfectThreeSplitterMesh),
    "mzi": (bp.devices.MZIMesh, bp.devices.ImperfectMZIMesh),
}
TAPS = {
    "as-built": partial(bp.devices.TappedMesh, noise=0.01, gain=0.05),
    "lossy": partial(bp.devices.TappedMesh, noise=0.05, gain=0.05, loss=0.3, spread=0.3),
}
CHIPS = ("ideal", *TAPS)


@dataclass(frozen=True)
class InSitu(TrainingMethod):
    """Both gradients from the device itself."""

    signal_scaled: ClassVar[bool] = False

    pairs: int | None = 8
    name: str = "in-situ"

    def layer(self, device: bp.Device, generator: torch.Generator) -> bp.PhysicalLayer:
        return bp.PhysicalLayer(
            device, bp.estimators.InSitu(self.pairs), bp.surrogates.Reciprocal(), generator=generator
        )


@dataclass(frozen=True)
class Chip:
    """A mesh as designed, or with the hidden errors of a seed."""

    mesh: str
    value: str

    def make(self, d_in: int, d_out: int, seed: int = 0) -> bp.Device:
        designed, erring = MESHES[self.mesh]
        if self.value == "ideal":
            return designed(d_in, d_out)
        return TAPS[self.value](erring(d_in, d_out, phase=ANYWHERE, splitter=0.05, seed=seed), seed=seed)


def run(task: Digits, method: TrainingMethod, chip: Chip, seed: int, factor: int) -> dict[str, float]:
    """The accuracy in %, and the cost of the training."""
    flaws = Imperfections(read_noise=0.0 if chip.value == "ideal" else 0.02)
    allowance = Allowance.of_batches(task, factor * task.steps(len(task.data().x_train)))
    result = train(Trial(task, method, chip, seed, flaws, allowance=allowance))
    asked = {unit: sum(n for use, n in result[unit].items() if use != "evaluate") for unit in ("rows", "programmings")}
    return {"accuracy": 100 * result["accuracy"], "steps": result["steps"], **asked}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--meshes", nargs="+", choices=list(MESHES), default=list(MESHES))
    parser.add_argument("--chips", nargs="+", choices=CHIPS, default=list(CHIPS))
    parser.add_argument("--rates", nargs="+", type=float, default=[2e-2, 6e-2])
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--factor", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=10, help="of the allowance of factor 1")
    args = parser.parse_args()
    torch.set_num_threads(1)
    task = Digits(epochs=args.epochs)
    print(
        f"{'mesh':16}{'chip':10}{'method':10}{'rate':>6}{'accuracy, %':>16}{'steps':>7}{'rows':>8}{'programmings':>14}"
    )
    for mesh in args.meshes:
        for value in args.chips:
            for method in (OracleReference(), FrozenReference(), InSitu(args.pairs)):
                chip = Chip(mesh, value)
                rates = args.rates[:1] if isinstance(method, FrozenReference) else args.rates
                first = {rate: run(replace(task, device_lr=rate), method, chip, 0, args.factor) for rate in rates}
                rate = max(first, key=lambda each: first[each]["accuracy"])
                chosen = replace(task, device_lr=rate)
                found = [first[rate], *(run(chosen, method, chip, s, args.factor) for s in range(1, args.seeds))]
                scores = [each["accuracy"] for each in found]
                spread = f" ± {statistics.stdev(scores):4.1f}" if len(scores) > 1 else ""
                print(
                    f"{mesh:16}{value:10}{method.name:10}{rate:6g}{statistics.fmean(scores):9.1f}{spread:7}"
                    f"{found[0]['steps']:7}{found[0]['rows']:8,}{found[0]['programmings']:14,}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
