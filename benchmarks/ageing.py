"""Ten simulated years of a crossbar of phase-change memory that is written once: adapters beside it, and no write.

A digital network 784 → 512 → 10 with a batch norm is trained on MNIST. Its matrices are written to two crossbars, which
are read at growing ages. Accuracy in %, and as a part of that of the digital network.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

import blackprop as bp
from blackprop.devices import PCM, Crossbar, Memristive

AGES = {"an hour": 3600.0, "a day": 86400.0, "a month": 2.6e6, "a year": 3.15e7, "ten years": 3.15e8}
HIDDEN = 512


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def data(path: Path, train: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    with np.load(path) as file:
        x, y, xt, yt = (torch.as_tensor(file[name]) for name in ("x_train", "y_train", "x_test", "y_test"))
    return x[:train].flatten(1).float() / 255, y[:train].long(), xt.flatten(1).float() / 255, yt.long()


def digital(x: torch.Tensor, y: torch.Tensor, seed: int, epochs: int) -> torch.nn.Sequential:
    torch.manual_seed(seed)
    model = torch.nn.Sequential(
        torch.nn.Linear(784, HIDDEN), torch.nn.BatchNorm1d(HIDDEN), torch.nn.ReLU(), torch.nn.Linear(HIDDEN, 10)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(100):
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    return model.eval()


def written(linear: torch.nn.Module, clock: Clock, seed: int, rank: int) -> bp.Adapter:
    """A crossbar that holds the weights, clipped at four standard deviations, with an adapter."""
    assert isinstance(linear, torch.nn.Linear)
    crossbar = Crossbar(linear.in_features, linear.out_features, memristor=PCM, seed=seed)
    layer = bp.PhysicalLayer(Memristive(crossbar, seed=seed, clock=clock), bias=True)
    size = min(float(linear.weight.abs().max()), 4 * float(linear.weight.std()))
    layer.theta.data.copy_((linear.weight / size).clamp(-1, 1).flatten())
    layer.gain.data.fill_(size * math.sqrt(linear.in_features))
    assert layer.bias is not None
    layer.bias.data.copy_(linear.bias)
    return bp.Adapter(layer, rank)


@torch.no_grad()
def accuracy(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    return 100 * float((model(x).argmax(1) == y).double().mean())


@torch.no_grad()
def run(x, y, xt, yt, seed: int, epochs: int, rows: int) -> list[dict]:
    with torch.enable_grad():
        model = digital(x, y, seed, epochs)
    clean, clock = accuracy(model, xt, yt), Clock()
    first, last = written(model[0], clock, 10 * seed, rank=1), written(model[3], clock, 10 * seed + 1, rank=0)
    chip = torch.nn.Sequential(first, model[1], torch.nn.ReLU(), last).eval()
    clock.now = PCM.settled
    hidden = model[:3](x[:rows])
    fresh = accuracy(chip, xt, yt)
    first.remember(x[:rows])
    last.remember(hidden)
    first.keep(0.0)
    last.keep(0.0)
    spent = bp.ledger(chip).total_programmings
    weights = sum(each.layer.theta.numel() for each in (first, last))
    share = sum(p.numel() for each in (first, last) for p in (each.scale, each.left, each.right)) / weights
    found = []
    for name, age in AGES.items():
        clock.now = age
        for each in (first, last):
            each.choose(0.0)  # the adapter that changes nothing
        bare = accuracy(chip, xt, yt)
        residuals = [each.fit() for each in (first, last)]
        adapted = accuracy(chip, xt, yt)
        part = {"seed": seed, "age": name, "clean": clean, "fresh": fresh, "bare": bare, "adapted": adapted}
        writes = bp.ledger(chip).total_programmings - spent
        found.append({**part, "share": share, "residuals": residuals, "writes": writes})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="mnist.npz")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--train", type=int, default=20_000)
    parser.add_argument("--test", type=int, default=5_000)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rows", type=int, default=1_000)
    parser.add_argument("--results", type=Path, help="a file of JSON lines, which is added to and read")
    options = parser.parse_args()
    x, y, xt, yt = data(options.data, options.train)
    results = []
    for seed in options.seeds:
        results += run(x, y, xt[: options.test], yt[: options.test], seed, options.epochs, options.rows)
        print(json.dumps(results[-1]), flush=True)
    if options.results is not None:
        earlier = options.results.read_text().splitlines() if options.results.exists() else []
        results = [json.loads(line) for line in earlier] + results
        options.results.write_text("".join(json.dumps(each) + "\n" for each in results))
    print("| age | bare device | with adapters | of the digital network | writes |\n| --- | --- | --- | --- | --- |")
    for name in AGES:
        some = [each for each in results if each["age"] == name]
        bare, adapted = told([each["bare"] for each in some]), told([each["adapted"] for each in some])
        part = told([100 * each["adapted"] / each["clean"] for each in some])
        print(f"| {name} | {bare} | {adapted} | {part} % | {max(each['writes'] for each in some)} |")
    first = [each for each in results if each["age"] == next(iter(AGES))]
    clean, fresh = (told([each[key] for each in first]) for key in ("clean", "fresh"))
    print(f"digital {clean}, as written {fresh}, adapters {results[0]['share']:.2%} of the weights")


def told(values: list[float]) -> str:
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.2f} ± {error:.2f}"


if __name__ == "__main__":
    main()
