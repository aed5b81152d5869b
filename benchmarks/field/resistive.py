"""A resistive network that learns handwritten digits by equilibrium propagation, beside backpropagation through the
same network; and the speed of its simulator.

python benchmarks/field/resistive.py mnist --data-dir DIR
python benchmarks/field/resistive.py mnist --data-dir DIR --hidden 1024 --gain 480 --epochs 2 [--method oracle]
python benchmarks/field/resistive.py speed

The published setting: 2 · 784 sources (each pixel and its inverted copy), one hidden layer, 10 outputs, squared error
to the one-hot label, β 1, rate .006, plain SGD on batches of 4, rate times .99 after each epoch. 100 hidden, gain 100,
10 epochs: 3.46 % test error (backpropagation 3.30). 1,024 hidden, gain 480, 50 epochs: 1.57 % (1.54).

Backpropagation (`--method oracle`) is autograd through the sweeps of the same simulator, so both methods train the very
same network of positive conductances and diodes, from the same start, on the same batches.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from blackprop.core import Purpose, Query, run
from blackprop.devices import IdealDiodes, ResistiveNetwork, doubled
from blackprop.estimators import EquilibriumPropagation
from blackprop.experiments import Mnist
from blackprop.experiments.tasks._mnist import TRAIN

CLASSES = 10
Step = Callable[[Tensor, Tensor, Tensor], tuple[float, Tensor]]  # rows, one-hot labels, θ: the loss and its gradient


def train(args: argparse.Namespace) -> None:
    data = Mnist(train_images=args.images, data_dir=args.data_dir).data()
    network = ResistiveNetwork(2 * 784, args.hidden, CLASSES)
    theta = network.theta.draw(torch.Generator().manual_seed(args.seed))
    step = {"ep": nudged, "oracle": differentiated}[args.method](network, args)
    order = torch.Generator().manual_seed(args.seed)
    rate, start = args.rate, time.perf_counter()
    for epoch in range(1, args.epochs + 1):
        total = 0.0
        for batch in torch.randperm(args.images, generator=order).split(args.batch):
            rows = network.branches.rows(doubled(data.x_train[batch], args.gain))
            loss, grad = step(rows, F.one_hot(data.y_train[batch], CLASSES), theta)
            theta.add_(grad, alpha=-rate).clamp_(min=0)
            total += loss * len(batch)
        rate *= args.decay
        test = 100 * error(network, theta, data.x_test, data.y_test, args.gain)
        seconds = time.perf_counter() - start
        print(f"epoch {epoch:>3}  loss {total / args.images:.4f}  test error {test:.2f} %  {seconds:.0f} s", flush=True)


def nudged(network: ResistiveNetwork, args: argparse.Namespace) -> Step:
    """Equilibrium propagation, as a layer would run it, but for the copies and checks of θ that booking takes."""
    # The loss is a mean over the batch, so β for one row is β · batch for the gradient of that mean.
    estimator = EquilibriumPropagation(args.beta * args.batch, centred=not args.one_sided)
    spec, unused = network.declaration, torch.Generator()

    def serve(queries: Sequence[Query]) -> list[Tensor]:
        rows = torch.cat([query.x for query in queries])
        return list(network.transfer(rows, queries[0].theta).split(len(queries[0].x)))

    @torch.no_grad()
    def step(rows: Tensor, target: Tensor, theta: Tensor) -> tuple[float, Tensor]:
        (y,) = serve([Query(rows, theta, Purpose.FORWARD)])
        grad_y = torch.zeros_like(y)
        grad_y[:, :CLASSES] = (network.branches.outputs(y) - target) / len(y)
        grad = run(estimator.grad_theta(rows, theta, y, grad_y, spec, unused), serve)
        return 0.5 * float(grad_y.square().sum()) * len(y), grad

    return step


def differentiated(network: ResistiveNetwork, args: argparse.Namespace) -> Step:
    """Backpropagation through the sweeps."""
    del args

    def step(rows: Tensor, target: Tensor, theta: Tensor) -> tuple[float, Tensor]:
        leaf = theta.detach().requires_grad_()
        loss = 0.5 * (network.branches.outputs(network.transfer(rows, leaf)) - target).square().sum(1).mean()
        return float(loss.detach()), torch.autograd.grad(loss, leaf)[0]

    return step


def error(network: ResistiveNetwork, theta: Tensor, x: Tensor, y: Tensor, gain: float) -> float:
    rows = [network.branches.rows(doubled(part, gain)) for part in x.split(1000)]
    readings = network.measure([Query(part, theta, Purpose.EVALUATE) for part in rows])
    return float((network.branches.outputs(torch.cat(readings)).argmax(1) != y).double().mean())


def row_by_row(network: ResistiveNetwork, x: Tensor, theta: Tensor, sweeps: int) -> Tensor:
    """The straightforward form: one row, one node at a time, as the formula is written."""
    sources, hidden, outputs = network.branches.sizes
    into, out_of = network.branches.conductances(theta)
    readings = []
    for row in x:
        h, o = torch.zeros(hidden), torch.zeros(outputs)
        for _ in range(sweeps):
            for j in range(hidden):
                current = row[:sources] @ into[:, j] + out_of[j] @ o + row[sources + outputs + j]
                v = current / (into[:, j].sum() + out_of[j].sum() + network.leak)
                h[j] = v.clamp(min=0) if j < hidden // 2 else v.clamp(max=0)
            for k in range(outputs):
                o[k] = (h @ out_of[:, k] + row[sources + k]) / (out_of[:, k].sum() + network.leak)
        readings.append(torch.cat([o, h]))
    return torch.stack(readings)


def median(work: Callable[[], object], repeats: int) -> float:
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def speed(args: argparse.Namespace) -> None:
    network = ResistiveNetwork(2 * 784, args.hidden, CLASSES)
    theta = network.theta.draw(torch.Generator().manual_seed(0))
    pixels = torch.rand(args.rows, 784, generator=torch.Generator().manual_seed(1))
    x = network.branches.rows(doubled(pixels, 100.0))
    query = Query(x, theta, Purpose.FORWARD)
    _, residual = IdealDiodes().sweep(network._circuit(x, theta), 5)
    torch.testing.assert_close(
        row_by_row(network, x[:2], theta, 5), network.transfer(x[:2], theta), rtol=1e-3, atol=1e-4
    )
    ours = median(lambda: network.measure([query]), 50)
    print(f"{args.rows} rows, 1568-{args.hidden}-10: {1e3 * ours:.2f} ms; after 5 sweeps, change {residual:.1g}")
    for name, plain in (
        ("row by row, node by node", median(lambda: row_by_row(network, x, theta, 5), 3)),
        ("row by row, a layer at once", median(lambda: [network.transfer(row, theta) for row in x.split(1)], 10)),
    ):
        print(f"  {name:30}{1e3 * plain:>10.1f} ms{plain / ours:>8.0f} times")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("mnist", "speed"))
    parser.add_argument("--data-dir", type=Path, help="the folder of the MNIST files; by default a download")
    parser.add_argument("--method", choices=("ep", "oracle"), default="ep")
    parser.add_argument("--one-sided", action="store_true")
    parser.add_argument("--hidden", type=int, default=100)
    parser.add_argument("--gain", type=float, default=100.0, help="of the input voltages")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--images", type=int, default=TRAIN)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--beta", type=float, default=1.0)
    parser.add_argument("--rate", type=float, default=0.006)
    parser.add_argument("--decay", type=float, default=0.99)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=64, help="of the speed test")
    args = parser.parse_args()
    torch.set_num_threads(1)
    {"mnist": train, "speed": speed}[args.what](args)


if __name__ == "__main__":
    main()
