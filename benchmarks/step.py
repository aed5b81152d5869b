"""What the layer adds: a default training step and a read at a held setting, each beside the same mathematics.

    python benchmarks/step.py

- *train*: `PhysicalLayer(LightModulator(d, d))` with the default plan and SGD, over the same transfer under autograd.
- *train, as built*: the same for a modulator whose elements differ, calibrated with a curve for each element.
- *read*: `measure` of B rows at a setting that the device holds, over the product of the rows with a matrix.

One process, one thread, the two in turn; medians, and the median of the ratios.
"""

from __future__ import annotations

import argparse

import torch

import blackprop as bp
from speed import Work, draw, ratio

DEVICES = {
    "light modulator": bp.devices.LightModulator,
    "microring": bp.devices.Microring,
    "crossbar": bp.devices.Crossbar,
    "mesh": bp.devices.MZIMesh,
}


def steps(device: bp.Simulator, batch: int) -> tuple[Work, Work]:
    """A step of the layer, and one of its mathematics."""
    torch.manual_seed(0)
    layer = bp.PhysicalLayer(device)
    theta = torch.nn.Parameter(layer.theta.detach().clone())
    x, grad = draw(batch, *device.in_shape).requires_grad_(), draw(batch, *device.out_shape, seed=1)
    ours, same = torch.optim.SGD(layer.parameters(), 1e-3), torch.optim.SGD([theta], 1e-3)

    def step() -> None:
        ours.zero_grad()
        layer(x).backward(grad)
        ours.step()

    def maths() -> None:
        same.zero_grad()
        device.transfer(x, theta).backward(grad)
        same.step()

    return step, maths


def reads(device: bp.Simulator, batch: int) -> tuple[Work, Work]:
    """A read at a held setting, and a product with a matrix."""
    theta = device.theta.draw(torch.Generator().manual_seed(0))
    x, matrix = draw(batch, *device.in_shape), draw(*device.out_shape, *device.in_shape)
    query = bp.Query(x, theta, bp.Purpose.FORWARD)
    return (lambda: device.measure([query])), (lambda: x @ matrix.mT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 256, 1024])
    parser.add_argument("--batches", nargs="+", type=int, default=[32, 512])
    parser.add_argument("--seconds", type=float, default=3.0, help="for each line")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'':30}{'d':>6}{'batch':>7}{'ours, ms':>10}{'maths, ms':>11}{'ratio':>8}")
    for d in args.sizes:
        for batch in args.batches:
            lines = {"train": steps(bp.devices.LightModulator(d, d), batch)}
            built = bp.devices.as_built(bp.devices.LightModulator(d, d), camera=False, unsigned=False)
            lines["train, as built"] = steps(built, batch)
            lines |= {f"read {name}": reads(kind(d, d), batch) for name, kind in DEVICES.items()}
            for name, (ours, maths) in lines.items():
                slow, fast, times = ratio(ours, maths, args.seconds)
                print(f"{name:30}{d:6}{batch:7}{1e3 * slow:10.2f}{1e3 * fast:11.2f}{times:8.2f}", flush=True)


if __name__ == "__main__":
    main()
