"""Direct feedback alignment on MNIST, its feedback a matrix or a scattering medium, beside backpropagation.

    python benchmarks/field/direct_feedback.py [--seeds 3] [--epochs 15] [--images 60000] [--data-dir DIR] [--speed]

784-256-256-10, tanh, SGD 0.01 with momentum 0.9, batch 128, one thread. Test accuracy in per cent, mean and standard
deviation over the seeds, the angle in degrees between its gradient and backpropagation's in each hidden layer, on the
first batch of the last epoch, and the rows that the optical feedback took. `--speed` prints the medium's speed instead,
as a ratio to row-by-row Python.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
from pathlib import Path

import torch
from ratios import told
from torch import Tensor, nn
from torch.nn import functional as F

from blackprop.devices import ScatteringMedium
from blackprop.experiments import Data, Mnist
from blackprop.learning_rules import DirectFeedback, random_feedback

METHODS = ("backpropagation", "top layer alone", "direct feedback", "optical direct feedback")


def train(method: str, data: Data, seed: int, epochs: int) -> tuple[float, list[float], int]:
    """Accuracy, angles and the rows of the feedback."""
    torch.manual_seed(seed)
    stream = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(784, 256), nn.Tanh(), nn.Linear(256, 256), nn.Tanh(), nn.Linear(256, 10))
    if method == "top layer alone":
        model[:4].requires_grad_(False)
    optical = ScatteringMedium(10, 256, linear=True, seed=seed)
    feedback = optical if method.startswith("optical") else random_feedback(10, 256, stream)
    rule = DirectFeedback(model, feedback) if "feedback" in method else None
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01, momentum=0.9)
    angles: list[float] = []
    for epoch in range(epochs):
        for number, some in enumerate(torch.randperm(len(data.x_train), generator=stream).split(128)):
            x, y = data.x_train[some], data.y_train[some]
            optimizer.zero_grad()
            if rule is None:
                F.cross_entropy(model(x), y).backward()
            else:
                rule.backward(x, y)
                if number == 0 and epoch == epochs - 1:
                    angles = apart(model, x, y)
            optimizer.step()
    with torch.no_grad():
        right = model(data.x_test).argmax(1) == data.y_test
    return 100 * float(right.double().mean()), angles, rule.ledger.total_rows if rule is not None else 0


def apart(model: nn.Sequential, x: Tensor, y: Tensor) -> list[float]:
    """Degrees between `.grad` and the true gradient, of each hidden layer's weights."""
    weights = [layer.weight for layer in model if isinstance(layer, nn.Linear)][:-1]
    true = torch.autograd.grad(F.cross_entropy(model(x), y), weights)
    pairs = [(w.grad, g) for w, g in zip(weights, true, strict=True)]
    cosines = [F.cosine_similarity(a.flatten(), b.flatten(), 0) for a, b in pairs if a is not None]
    return [math.degrees(math.acos(float(c))) for c in cosines]


def speed() -> None:
    """The field summed path by path, row by row; and one row at a time through the device itself."""
    device, stream = ScatteringMedium(1024, 1024), torch.Generator().manual_seed(0)
    x, theta = torch.randn(256, 1024, generator=stream), torch.randn(1024, generator=stream)
    R = device.medium

    def by_hand(rows: Tensor) -> Tensor:
        answers = []
        for row in rows:
            field = torch.zeros(1024, dtype=torch.complex64)
            for value, phase, paths in zip(row, theta, R, strict=True):
                field += value * torch.exp(1j * phase) * paths
            answers.append(field.abs().square())
        return torch.stack(answers)

    torch.testing.assert_close(by_hand(x[:2]), device.transfer(x[:2], theta), rtol=1e-3, atol=1e-3)
    forms = (
        ("path by path, row by row", 2, by_hand),
        ("a complex matrix a row", 32, lambda r: [((row * (1j * theta).exp()) @ R).abs().square() for row in r]),
        ("the device's own batched code, row by row", 32, lambda r: [device.transfer(row[None], theta) for row in r]),
    )
    told("scattering medium 1024 -> 1024", x, lambda rows: device.transfer(rows, theta), forms)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("BLACKPROP_DATA"))
    parser.add_argument("--speed", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.speed:
        speed()
        return
    folder = Path(options.data_dir) if options.data_dir else None
    data = Mnist(train_images=options.images, data_dir=folder).data()
    print(f"{'':28}{'accuracy, %':>16}{'angles, degrees':>22}{'feedback rows':>15}")
    for method in METHODS:
        found = [train(method, data, seed, options.epochs) for seed in range(options.seeds)]
        each = [accuracy for accuracy, _, _ in found]
        spread = statistics.stdev(each) if len(each) > 1 else 0.0
        mean = [statistics.fmean(a) for a in zip(*(angles for _, angles, _ in found), strict=True)]
        text = ", ".join(f"{a:.0f}" for a in mean) or "none"
        print(f"{method:28}{statistics.fmean(each):>9.2f} ± {spread:4.2f}{text:>22}{found[0][2]:>15,}", flush=True)


if __name__ == "__main__":
    main()
