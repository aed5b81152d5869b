"""Pulsed crossbars: the speed of an update, and the accuracy of the methods on digits and on MNIST.

`--speed` compares an update of 256 × 256 cells, 32 rows and trains of up to 31 slots with a loop over slots, within one
process on one thread. Otherwise a network is trained: on scikit-learn's digits (64-32-10), or, with `--data`, on a part
of MNIST, by the published perceptron (784-256-128-10) or LeNet, with tanh. The published schedules have 30 epochs of
60,000 images. At few epochs of few images the order of the methods counts, and the distance to `digital`, and not the
accuracy. `--rates` of several rates takes for each method the one that is best on the seed `--tune`, which is not among
the reported seeds. Results are kept in `--keep`, and runs that are there are not repeated.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import blackprop as bp
from blackprop.core import Pulse, Purpose
from blackprop.devices import PulsedCrossbar, cells
from blackprop.devices.electronic.pulsed._trains import drawn
from blackprop.estimators import pulsed
from blackprop.experiments.tasks._networks import DigitNetwork, build

Make = Callable[[int], pulsed.PulsedUpdate]
# Made for so many columns that are read at a time; the tiles that it needs; the factor of its rate, as in experiments.
METHODS: dict[str, tuple[Make, str, float]] = {
    "analog-sgd": (lambda columns: pulsed.AnalogSGD(), "one", 1.0),
    "mixed-precision": (lambda columns: pulsed.MixedPrecision(), "one", 1.0),
    "tiki-taka": (lambda columns: pulsed.TikiTaka(fast=10.0, transfer=0.3, columns=columns), "beside", 1.0),
    "tiki-taka-v2": (lambda columns: pulsed.TikiTakaV2(fast=10.0, transfer=0.3, columns=columns), "beside", 1.0),
    "residual": (lambda columns: pulsed.ResidualLearning(transfer=0.05, columns=columns), "read too", 1.0),
    "filtered-residual": (lambda columns: pulsed.FilteredResidual(columns=columns), "read too", 1.0),
    "chopped": (lambda columns: pulsed.ChoppedTikiTaka(columns=columns), "beside", 1.0),
    "agad": (lambda columns: pulsed.AGAD(chop=0.5, columns=columns), "beside", 1.0),  # it must flip within the training
    "multi-tile-3": (lambda columns: pulsed.MultiTile(columns=columns), "3", 10.0),
    "multi-tile-4": (lambda columns: pulsed.MultiTile(columns=columns), "4", 10.0),
    "multi-tile-6": (lambda columns: pulsed.MultiTile(columns=columns), "6", 10.0),
}


def gains(tiles: str, states: float) -> tuple[float, ...]:
    """The gains of the tiles: a finer one has a little more than one step of the next as its range."""
    finer = min(max(1.25 / states, 0.02), 0.4)
    match tiles:
        case "one":
            return (1.0,)
        case "beside":
            return 0.0, 1.0
        case "read too":
            return max(0.2, finer), 1.0
        case _:
            return tuple(finer**n for n in reversed(range(int(tiles))))


def by_slots(
    w: Tensor, x: Tensor, d: Tensor, population: cells.Population, noise: float, generator: torch.Generator
) -> Tensor:
    """The update as it happens: slot by slot, each coincidence a step with its own noise, cut off at the bounds."""
    for xs, ds in zip(x.flatten(0, 1), d.flatten(0, 1), strict=True):
        hits = torch.outer(ds, xs)
        size = torch.where(hits > 0, population["up"], population["down"])
        step = size * (1 + noise * torch.randn(w.shape, generator=generator))
        w = (w + hits * step).clamp(population["low"], population["high"])
    return w


def speed(repeats: int) -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    for name in ("GOKMEN_VLASOV", "CAPACITOR", "RERAM_SB", "ECRAM", "RERAM_ES"):
        device = PulsedCrossbar(256, 256, getattr(cells, name))
        device.program(torch.ones(1))
        pulse = device.declaration.capability(Pulse)
        ours, loop = [], []
        for _ in range(repeats):
            x, d = torch.randn(32, 256, generator=generator), torch.randn(32, 256, generator=generator)
            trains = pulse.trains(x, 4 * pulse.granularity * d)
            began = time.process_time()
            device.pulse(trains)
            ours.append(time.process_time() - began)
            population = {key: value[0] for key, value in device._cells.items()}
            began = time.process_time()
            by_slots(device._weights[0], *drawn(trains, 256, generator), population, 0.3, generator)
            loop.append(time.process_time() - began)
        mine, theirs = statistics.median(ours), statistics.median(loop)
        print(
            f"{name:15} {1e3 * mine:8.1f} ms, loop over slots {1e3 * theirs:8.1f} ms, ratio {theirs / mine:6.1f}",
            flush=True,
        )


def data(file: Path | None, rows: int, tests: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows and classes to train on and to test on: MNIST from its file, or scikit-learn's 8 × 8 digits."""
    if file is None:
        images, classes = load_digits(return_X_y=True)
        x, y = torch.as_tensor(images).float() / 16, torch.as_tensor(classes).long()
        at = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
        return x[at[360:]], y[at[360:]], x[at[:360]], y[at[:360]]
    with np.load(file) as arrays:
        x, xt = (torch.from_numpy(arrays[f"x_{part}"][:n]) for part, n in (("train", rows), ("test", tests)))
        y, yt = (torch.from_numpy(arrays[f"y_{part}"][:n]).long() for part, n in (("train", rows), ("test", tests)))
    return x.flatten(1).float() / 255, y, xt.flatten(1).float() / 255, yt


def network(layer: Callable[[int, int], nn.Module], seed: int, given: argparse.Namespace) -> nn.Module:
    if given.lenet:
        return build(DigitNetwork.LENET, (784, 128, 256), layer, seed)
    parts: list[nn.Module] = []
    for a, b in pairwise((784, 256, 128, 10) if given.data else (64, 32, 10)):
        parts += [layer(a, b), nn.Tanh()]
    return nn.Sequential(*parts[:-1])


def trained(name: str, cell: cells.Cell, rate: float, seed: int, given: argparse.Namespace) -> dict[str, float]:
    """Test accuracy in %, pulses, and rows of the devices."""
    torch.manual_seed(seed)
    x, y, xt, yt = data(given.data, given.rows, given.tests)
    make, tiles, faster = METHODS.get(name, (None, "one", 1.0))
    made: list[nn.Module] = []

    def layer(a: int, b: int) -> nn.Module:
        if make is None:
            return nn.Linear(a, b)
        device = PulsedCrossbar(a, b, cell, gains=gains(tiles, given.states), seed=10 * seed + len(made))
        new = bp.PhysicalLayer(device, make(max(1, a // given.sweep)), bp.surrogates.Reciprocal(), bias=True)
        new.scale.decided = True
        made.append(new)
        return new

    model = network(layer, seed, given)
    if make is None:
        optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    else:
        optimizer = bp.optim.Pulsed(torch.optim.SGD(bp.param_groups(model, lr=0.1, device_lr=faster * rate)), model)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, max(1, given.epochs // 2), 0.5)
    for _ in range(given.epochs):
        for at in torch.randperm(len(x)).split(given.batch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[at]), y[at]).backward()
            optimizer.step()
        schedule.step()
    model.eval()
    with torch.no_grad():
        right = float(torch.cat([model(some).argmax(1) for some in xt.split(1000)]).eq(yt).double().mean())
    ledger = bp.ledger(model) if made else None
    training = 0 if ledger is None else ledger.total_rows - ledger.rows[Purpose.EVALUATE]
    return {"score": 100 * right, "pulses": 0 if ledger is None else ledger.actions["pulse"], "rows": training}


def kept(name: str, noise: float, rate: float, seed: int, given: argparse.Namespace) -> dict[str, float]:
    """As `trained`, from the file of results if it is there."""
    schedule = [given.data is not None, given.lenet, given.rows, given.tests, given.epochs, given.batch, given.sweep]
    key = json.dumps([name, noise, given.states, rate, seed, *schedule])
    lines = given.keep.read_text().splitlines() if given.keep and given.keep.exists() else []
    known = dict(map(json.loads, lines))
    if key not in known:
        known[key] = trained(name, cells.SoftBounds(step=1.2 / given.states, noise=noise), rate, seed, given)
        if given.keep:
            with given.keep.open("a") as file:
                file.write(json.dumps([key, known[key]]) + "\n")
        print(key, known[key], file=sys.stderr, flush=True)
    return known[key]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, help="mnist.npz with x_train, y_train, x_test, y_test; by default 8 × 8 digits"
    )
    parser.add_argument("--lenet", action="store_true", help="LeNet in place of the perceptron, for MNIST")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--methods", nargs="+", choices=["digital", *METHODS], default=["digital", *METHODS])
    parser.add_argument("--noise", nargs="+", type=float, default=[0.1, 0.6, 1.2], help="cycle noise of a pulse")
    parser.add_argument("--rates", nargs="+", type=float, default=[0.1], help="learning rates of the pulses")
    parser.add_argument("--tune", type=int, default=100, help="the seed on which the rate is chosen")
    parser.add_argument("--states", type=int, default=1200)
    parser.add_argument("--sweep", type=int, default=16, help="steps in which all columns of a fast tile are read once")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--tests", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    if given.speed:
        speed(given.repeats)
        return
    for noise in given.noise:
        for name in given.methods:
            rate = given.rates[0]
            if len(given.rates) > 1:
                rate = max(given.rates, key=lambda r: kept(name, noise, r, given.tune, given)["score"])
            runs = [kept(name, noise, rate, seed, given) for seed in range(given.seeds)]
            scores = [run["score"] for run in runs]
            error = statistics.stdev(scores) / len(scores) ** 0.5 if len(scores) > 1 else float("nan")
            pulses, rows = (statistics.mean(run[part] for run in runs) for part in ("pulses", "rows"))
            print(
                f"noise {noise:4.0%} {name:18} rate {rate:<5g} {statistics.mean(scores):5.1f} ± {error:.1f} %, "
                f"{pulses:12,.0f} pulses, {rows:10,.0f} rows",
                flush=True,
            )


if __name__ == "__main__":
    main()
