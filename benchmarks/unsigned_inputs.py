"""Devices whose inputs live in [0, 1] on the digits: the default plan beside oracle and frozen.

```
python -m benchmarks.unsigned_inputs --seeds 3
```

Device 64→64, BatchNorm, sigmoid, device 64→10, BatchNorm; grey levels and the sigmoid are in [0, 1]. Prints accuracy on
the test set (mean and standard error over seeds), and rows and programmings of both devices in training.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from statistics import fmean, stdev

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import blackprop as bp

BATCH, LR, DEVICE_LR = 64, 1e-2, 2e-2


class Saturating(bp.devices.Simulator):
    """`y = tanh(2 C x)`, `C_ij = cos θ_ij / √(d_in/8)`: detectors that saturate behind modulators of [0, 1]."""

    stacks = True

    def __init__(self, d_in: int, d_out: int) -> None:
        size = d_in * d_out
        theta = bp.ThetaSpec(size, period=2 * math.pi)
        super().__init__(d_in, d_out, theta, coupling=bp.Coupling.ROW, x_low=0.0, x_high=1.0)

    def transfer(self, x: Tensor, theta: Tensor, /) -> Tensor:
        matrix = theta.cos().unflatten(-1, (*self.out_shape, *self.in_shape))
        return torch.tanh(2 * x @ matrix.mT / (self.in_shape[0] / 8) ** 0.5)


def unsigned(device: bp.Device) -> bp.Device:
    """The device with inputs in [0, 1], declared linear and of elements."""
    return bp.devices.Declared(
        device, linear=True, coupling=bp.Coupling.ELEMENT, period=2 * math.pi, x_low=0.0, x_high=1.0
    )


def modulator(d_in: int, d_out: int) -> bp.Device:
    """Amplitude modulators in front of a light modulator: linear."""
    return unsigned(bp.devices.LightModulator(d_in, d_out))


def converter_and_rings(d_in: int, d_out: int) -> bp.Device:
    """Rings driven by converters of 8 bits, of [0, 1]."""
    return bp.devices.Quantised(unsigned(bp.devices.Microring(d_in, d_out)), input_bits=8)


def differential(d_in: int, d_out: int) -> bp.Device:
    """The first one, its rows sent as pairs."""
    return bp.devices.Differential(modulator(d_in, d_out))


DEVICES: dict[str, Callable[[int, int], bp.Device]] = {
    "modulator": modulator,
    "converter and rings": converter_and_rings,
    "saturating": Saturating,
    "differential": differential,
}
METHODS = ("oracle", "frozen", "default")


def layer(device: bp.Device, method: str, seed: int) -> bp.PhysicalLayer:
    parts = bp.presets.oracle() if method == "oracle" else (None, None)
    made = bp.PhysicalLayer(device, *parts, generator=torch.Generator().manual_seed(seed))
    made.theta.requires_grad_(method != "frozen")
    return made


def train(make: Callable[[int, int], bp.Device], method: str, seed: int, steps: int) -> tuple[float, int, int]:
    """Accuracy, rows and programmings."""
    x, target = (torch.tensor(each) for each in load_digits(return_X_y=True))
    x, order = (x / 16).float(), torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    x, target = x[order], target[order]
    first, last = layer(make(64, 64), method, 2 * seed), layer(make(64, 10), method, 2 * seed + 1)
    model = nn.Sequential(first, nn.BatchNorm1d(64), nn.Sigmoid(), last, nn.BatchNorm1d(10))
    optimizer = torch.optim.Adam(bp.param_groups(model, lr=LR, device_lr=DEVICE_LR))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    batches = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        rows = torch.randint(1400, (BATCH,), generator=batches)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[rows]), target[rows]).backward()
        optimizer.step()
        schedule.step()
    spent = bp.ledger(model)
    model.eval()
    with torch.no_grad():
        accuracy = float((model(x[1400:]).argmax(1) == target[1400:]).float().mean())
    return accuracy, spent.total_rows, spent.total_programmings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    options = parser.parse_args()
    print(f"{'device':20} {'method':8} {'accuracy %':>14} {'rows':>12} {'programmings':>12}")
    for name, make in DEVICES.items():
        for method in METHODS:
            runs = [train(make, method, seed, options.steps) for seed in range(options.seeds)]
            scores = [100 * accuracy for accuracy, _, _ in runs]
            error = stdev(scores) / math.sqrt(len(scores)) if len(scores) > 1 else math.nan
            rows, programmings = (round(fmean(run[k] for run in runs)) for k in (1, 2))
            print(f"{name:20} {method:8} {fmean(scores):8.1f} ± {error:.1f} {rows:12,} {programmings:12,}", flush=True)


if __name__ == "__main__":
    main()
