"""Digits through two meshes with attenuators between them, of which the attenuators alone are trained in place.

    python benchmarks/field/subspace.py --seeds 3

Device 64→64, batch norm, ReLU, device 64→10, batch norm; each device is `SVDMesh`, with --gains attenuators, between
meshes whose phases and splitters err. The network is trained on the devices as designed (all phases and gains, exact
gradients) and then written to the devices as built (*mapped*), or the devices start as drawn (*random*). From there 10
epochs of 22 batches of 64, ×1 of docs/field.md: 28,160 rows and 440 programmings for both devices. Methods:

- *frozen*: θ stays; batch norms are trained.
- *subspace*: gains by `Subspace`, rows by `Reciprocal`; the phases stay.
- *noisy*: the same with a read noise of 2 %, of readings, backward readings and detectors at the attenuators.
- *default*: what the plan chooses for such a device if it declares neither `Gains` nor `ReadBack`.
- *perturbed*: 16 random perturbations of all parameters a step, the zeroth order that the source compares with.
- *oracle*: exact gradients for all phases and gains.

Printed: test accuracy in %, mean and standard deviation, steps, rows and programmings. Each cell has the rate of
`--rates` with the best test accuracy on the first seed. Training on the design is free of queries.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

import blackprop as bp
from blackprop.devices import Chip, SVDMesh, chips
from blackprop.experiments import (
    Allowance,
    Default,
    Digits,
    FrozenReference,
    Imperfections,
    OracleReference,
    TrainingMethod,
    Trial,
    train,
)

SIZES = ((64, 64), (64, 10))


@dataclass(frozen=True)
class SubspaceLearning(TrainingMethod):
    """The gains by light from both ends, the rows read backwards."""

    signal_scaled: ClassVar[bool] = False

    pairs: int | None = 8
    name: str = "subspace"

    def layer(self, device: bp.Device, generator: torch.Generator) -> bp.PhysicalLayer:
        return bp.PhysicalLayer(
            device, bp.estimators.Subspace(self.pairs), bp.surrogates.Reciprocal(), generator=generator
        )


@dataclass(frozen=True)
class Silent(TrainingMethod):
    """The default for the same device without its capabilities."""

    name: str = "default"

    def layer(self, device: bp.Device, generator: torch.Generator) -> bp.PhysicalLayer:
        device.capabilities = ()
        return Default().layer(device, generator)


@dataclass(frozen=True)
class Perturbed(TrainingMethod):
    """All parameters by random perturbations."""

    name: str = "perturbed"

    def layer(self, device: bp.Device, generator: torch.Generator) -> bp.PhysicalLayer:
        estimator = bp.estimators.RandomDirections(16, 1e-2, contraction=bp.estimators.ProbeContraction(12))
        return bp.PhysicalLayer(device, estimator, bp.surrogates.Streaming(), generator=generator)


@dataclass(frozen=True)
class Factored:
    """Two meshes of a design with errors, and attenuators between them, at a starting setting of each size."""

    errors: float = 1.0
    gains: int = 64
    starts: tuple[Tensor, ...] = ()
    value: str = "svd-mesh"

    def make(self, d_in: int, d_out: int, seed: int = 0) -> SVDMesh:
        offset, splitter = 0.2 * self.errors, 0.05 * self.errors
        right = Chip(chips.Rectangular(), d_in, self.gains, offset=offset, splitter=splitter, seed=2 * seed)
        left = Chip(chips.Rectangular(), self.gains, d_out, offset=offset, splitter=splitter, seed=2 * seed + 1)
        device = SVDMesh(right, left)
        if self.starts:
            start = self.starts[SIZES.index((d_in, d_out))]
            device.theta = replace(device.theta, initial=lambda generator: start.clone())
        return device


def pretrained(gains: int, seed: int, epochs: int, rate: float) -> tuple[tuple[Tensor, ...], float]:
    """The settings of both devices, trained on their design, and the test accuracy in % there."""
    task, kind = Digits(epochs=epochs, device_lr=rate), Factored(0.0, gains)
    data, order = task.data(), torch.Generator().manual_seed(seed)
    layers = [
        bp.PhysicalLayer(kind.make(*size), *bp.presets.oracle(), generator=torch.Generator().manual_seed(10 * seed + n))
        for n, size in enumerate(SIZES)
    ]
    model = nn.Sequential(layers[0], nn.BatchNorm1d(64), nn.ReLU(), layers[1], nn.BatchNorm1d(10))
    optimizer = torch.optim.Adam(bp.param_groups(model, lr=task.lr, device_lr=rate))
    steps = epochs * (len(data.x_train) // task.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(epochs):
        rows = torch.randperm(len(data.x_train), generator=order)
        for some in rows.split(task.batch_size)[: len(rows) // task.batch_size]:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(data.x_train[some]), data.y_train[some]).backward()
            optimizer.step()
            schedule.step()
    model.eval()
    with torch.no_grad():
        right = (model(data.x_test).argmax(1) == data.y_test).float().mean()
    return tuple(layer.device.theta.clamp(layer.theta.detach()).clone() for layer in layers), 100 * float(right)


def run(task: Digits, method: TrainingMethod, kind: Factored, seed: int, noise: float) -> dict[str, float]:
    """The accuracy in %, and the cost of the training."""
    allowance = Allowance.of_batches(task, task.steps(len(task.data().x_train)))
    result = train(Trial(task, method, kind, seed, Imperfections(read_noise=noise), allowance=allowance))
    asked = {unit: sum(n for use, n in result[unit].items() if use != "evaluate") for unit in ("rows", "programmings")}
    return {"accuracy": 100 * result["accuracy"], "steps": result["steps"], **asked}


METHODS: dict[str, tuple[TrainingMethod, float]] = {
    "frozen": (FrozenReference(), 0.0),
    "subspace": (SubspaceLearning(), 0.0),
    "noisy": (SubspaceLearning(name="noisy"), 0.02),
    "default": (Silent(), 0.0),
    "perturbed": (Perturbed(), 0.0),
    "oracle": (OracleReference(), 0.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", nargs="+", choices=["random", "mapped"], default=["random", "mapped"])
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--rates", nargs="+", type=float, default=[2e-2, 6e-2])
    parser.add_argument("--gains", type=int, default=64)
    parser.add_argument("--errors", type=float, default=1.0, help="1: offsets within 0.2 rad, splitters 0.05 rad")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    args = parser.parse_args()
    torch.set_num_threads(1)
    task = Digits(epochs=args.epochs)
    known = [pretrained(args.gains, seed, 2 * args.epochs, 2e-2) for seed in range(args.seeds)]
    print("on the design:", *(f"{accuracy:.1f}" for _, accuracy in known))
    print(f"{'start':8}{'method':10}{'rate':>6}{'accuracy, %':>16}{'steps':>7}{'rows':>8}{'programmings':>14}")
    for start in args.starts:

        def trial(name: str, rate: float, seed: int, start: str = start) -> dict[str, float]:
            method, noise = METHODS[name]
            settings = known[seed][0] if start == "mapped" else ()
            kind = Factored(args.errors, args.gains, settings)
            return run(replace(task, device_lr=rate), method, kind, seed, noise)

        for name in args.methods:
            rates = args.rates[:1] if name == "frozen" else args.rates
            first = {rate: trial(name, rate, 0) for rate in rates}
            rate = max(first, key=lambda each: first[each]["accuracy"])
            found = [first[rate], *(trial(name, rate, seed) for seed in range(1, args.seeds))]
            scores = [each["accuracy"] for each in found]
            spread = f" ± {statistics.stdev(scores):4.1f}" if len(scores) > 1 else ""
            print(
                f"{start:8}{name:10}{rate:6g}{statistics.fmean(scores):9.1f}{spread:7}{found[0]['steps']:7}"
                f"{found[0]['rows']:8,}{found[0]['programmings']:14,}",
                flush=True,
            )


if __name__ == "__main__":
    main()
