"""Pulsed crossbars: the speed of an update, and the accuracy of the methods on digits and on MNIST.

`--speed` compares an update of 256 × 256 cells, 32 rows and trains of up to 31 slots with a loop over slots, within one
process on one thread. Otherwise a network is trained on scikit-learn's digits, or, with `--data`, one of the published
size on a part of MNIST, for few epochs: the order of the methods counts there, and not the figures, which the published
schedules of 30 epochs reach.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import blackprop as bp
from blackprop.core import Pulse
from blackprop.devices import PulsedCrossbar, cells
from blackprop.devices.electronic.pulsed._trains import drawn
from blackprop.estimators import pulsed

Make = Callable[[], pulsed.PulsedUpdate]
METHODS: dict[str, tuple[Make, tuple[float, ...], float]] = {  # method, gains, learning rate
    "analog-sgd": (pulsed.AnalogSGD, (1.0,), 0.05),
    "mixed-precision": (pulsed.MixedPrecision, (1.0,), 0.05),
    "tiki-taka": (lambda: pulsed.TikiTaka(fast=1.0, transfer=1.0), (0.0, 1.0), 0.1),
    "residual": (lambda: pulsed.ResidualLearning(transfer=0.05), (0.2, 1.0), 0.1),
    "tiki-taka-v2": (pulsed.TikiTakaV2, (0.0, 1.0), 0.1),
    "chopped": (lambda: pulsed.ChoppedTikiTaka(transfer=1.0), (0.0, 1.0), 0.1),
    "agad": (lambda: pulsed.AGAD(chop=0.5), (0.0, 1.0), 0.1),  # its first flips must come within the training
}


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
        x, xt = (torch.from_numpy(arrays[f"x_{part}"]).flatten(1).float() / 255 for part in ("train", "test"))
        y, yt = (torch.from_numpy(arrays[f"y_{part}"]).long() for part in ("train", "test"))
    return x[:rows], y[:rows], xt[:tests], yt[:tests]


def network(layer: Callable[[int, int, int], nn.Module], widths: tuple[int, ...]) -> nn.Sequential:
    parts: list[nn.Module] = []
    for n, (a, b) in enumerate(pairwise(widths)):
        parts += [layer(a, b, n), nn.Tanh()]
    return nn.Sequential(*parts[:-1])


def trained(name: str, cell: cells.Cell, seed: int, given: argparse.Namespace) -> tuple[float, int]:
    """Test accuracy in %, and pulses."""
    torch.manual_seed(seed)
    x, y, xt, yt = data(given.data, given.rows, 2000)
    epochs, batch = given.epochs, given.batch
    make, gains, rate = METHODS.get(name, (None, (1.0,), 0.05))

    def layer(a: int, b: int, n: int) -> nn.Module:
        if make is None:
            return nn.Linear(a, b)
        device = PulsedCrossbar(a, b, cell, gains=gains, seed=10 * seed + n)
        made = bp.PhysicalLayer(device, make(), bp.surrogates.Reciprocal(), bias=True)
        made.scale.decided = True
        return made

    model = network(layer, (784, 256, 128, 10) if given.data else (64, 32, 10))
    if make is None:
        optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=given.rate or 0.1)
    else:
        optimizer = bp.optim.Pulsed(
            torch.optim.SGD(bp.param_groups(model, lr=0.1, device_lr=given.rate or rate)), model
        )
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, max(1, epochs // 2), 0.5)
    for _ in range(epochs):
        for at in torch.randperm(len(x)).split(batch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[at]), y[at]).backward()
            optimizer.step()
        schedule.step()
    model.eval()
    with torch.no_grad():
        right = float((model(xt).argmax(1) == yt).double().mean())
    return 100 * right, bp.ledger(model).actions["pulse"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", type=Path, help="mnist.npz with x_train, y_train, x_test, y_test; by default 8 × 8 digits"
    )
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--methods", nargs="+", default=["digital", *METHODS])
    parser.add_argument("--noise", nargs="+", type=float, default=[0.1, 0.6, 1.2], help="cycle noise of a pulse")
    parser.add_argument("--rate", type=float, help="learning rate; by default that of the method")
    parser.add_argument("--states", type=int, default=1200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch", type=int, default=10)
    given = parser.parse_args()
    if given.speed:
        speed(given.repeats)
        return
    for noise in given.noise:
        cell = cells.SoftBounds(step=1.2 / given.states, noise=noise)
        for name in given.methods:
            began = time.process_time()
            runs = [trained(name, cell, seed, given) for seed in range(given.seeds)]
            scores = [score for score, _ in runs]
            error = statistics.stdev(scores) / len(scores) ** 0.5 if len(scores) > 1 else float("nan")
            print(
                f"noise {noise:4.0%} {name:16} {statistics.mean(scores):5.1f} ± {error:.1f} %, "
                f"{statistics.mean(n for _, n in runs):12,.0f} pulses, {time.process_time() - began:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
