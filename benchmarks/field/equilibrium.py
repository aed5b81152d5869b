"""Equilibrium propagation of a digital network that settles, on MNIST, beside backpropagation through its relaxation.

python benchmarks/field/equilibrium.py --data-dir DIR [--epochs 1] [--images 60000] [--one-sided] [--loss cross-entropy]

The published script: 784-512-10, σ(4 (x − 1/2)), Adam 5e-4, β .1, 30 free and 10 nudged steps. Both methods start from
the same weights and see the same batches. Backpropagation goes through the last 10 steps of the free phase, which is
what 10 nudged steps estimate.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from blackprop.experiments import Mnist
from blackprop.experiments.tasks._mnist import TRAIN
from blackprop.learning_rules import (
    EquilibriumPropagation,
    Layered,
    Relaxation,
    cross_entropy,
    squared_error,
    steep_sigmoid,
)


def build(hidden: int, loss: str, seed: int) -> Layered:
    torch.manual_seed(seed)
    if loss == "cross-entropy":
        return Layered([nn.Linear(784, hidden)], nn.Linear(hidden, 10))
    return Layered([nn.Linear(784, hidden), nn.Linear(hidden, 10)])


def backpropagation(rule: EquilibriumPropagation) -> Callable[[Tensor, Tensor], Tensor]:
    """The gradient of the loss after the last `nudged` steps of a free phase, by autograd."""
    model, relax = rule.model, rule.relaxation

    def backward(x: Tensor, target: Tensor) -> Tensor:
        states = rule.settle(x)
        drive = model.drive(x)
        for _ in range(relax.nudged):
            leaves = [s if s.requires_grad else s.requires_grad_() for s in states]
            slopes = torch.autograd.grad(model.energy(drive, leaves).sum(), leaves, create_graph=True)
            states = [relax.activation(s - relax.rate * slope) for s, slope in zip(leaves, slopes, strict=True)]
        loss = rule.loss(model.predict(states), target).mean()
        loss.backward()
        return loss.detach()

    return backward


def train(args: argparse.Namespace, method: str) -> None:
    data = Mnist(train_images=args.images, data_dir=args.data_dir).data()
    model = build(args.hidden, args.loss, args.seed)
    # Batches whose slowest state still moves by less than a tenth are taken, as the published script takes them all.
    relaxation = Relaxation(args.free, args.nudged, activation=steep_sigmoid, tolerance=0.1)
    loss = cross_entropy if args.loss == "cross-entropy" else squared_error
    rule = EquilibriumPropagation(model, args.beta, not args.one_sided, loss, relaxation)
    backward = rule.backward if method == "ep" else backpropagation(rule)
    optimizer = torch.optim.Adam(model.parameters(), lr=args.rate)
    order, start = torch.Generator().manual_seed(args.seed), time.perf_counter()
    for epoch in range(1, args.epochs + 1):
        total = 0.0
        for batch in torch.randperm(args.images, generator=order).split(args.batch):
            optimizer.zero_grad()
            total += float(backward(data.x_train[batch], data.y_train[batch])) * len(batch)
            optimizer.step()
        wrong = sum(
            int((rule.predict(x).argmax(1) != y).sum())
            for x, y in zip(data.x_test.split(1000), data.y_test.split(1000), strict=True)
        )
        error, seconds = 100 * wrong / len(data.y_test), math.ceil(time.perf_counter() - start)
        print(
            f"{method}  epoch {epoch:>3}  loss {total / args.images:.4f}  test error {error:.2f} %  {seconds} s",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="the folder of the MNIST files; by default a download")
    parser.add_argument("--methods", nargs="+", choices=("ep", "bp"), default=["ep", "bp"])
    parser.add_argument("--loss", choices=("squared", "cross-entropy"), default="squared")
    parser.add_argument("--one-sided", action="store_true")
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--images", type=int, default=TRAIN)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--rate", type=float, default=5e-4, help="of Adam")
    parser.add_argument("--free", type=int, default=30)
    parser.add_argument("--nudged", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for method in args.methods:
        train(args, method)


if __name__ == "__main__":
    main()
