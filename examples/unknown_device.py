"""A device that nothing is known of: characterise it, then train through it as the findings allow."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

import blackprop as bp

INPUTS, OUTPUTS = 32, 16
BENCH = np.random.default_rng(0)
WIRING = BENCH.permutation(INPUTS * OUTPUTS)  # which driver feeds which pixel: nobody wrote it down


def modulator(x: Tensor, theta: Tensor) -> Tensor:
    """A modulator whose drivers count in 256 levels a turn, read with 1 % noise; NumPy, so autograd sees nothing."""
    transmission = np.cos(2 * np.pi * theta.numpy()[WIRING] / 256).reshape(OUTPUTS, INPUTS) / math.sqrt(INPUTS)
    y = x.numpy() @ transmission.T
    return torch.from_numpy((y + 0.005 * BENCH.normal(size=y.shape)).astype(np.float32))


def start(generator: torch.Generator) -> Tensor:
    return 32 + 64 * torch.rand(INPUTS * OUTPUTS, generator=generator)


def main() -> None:
    torch.manual_seed(0)
    device = bp.devices.from_callable(
        modulator, in_shape=INPUTS, out_shape=OUTPUTS, theta_size=INPUTS * OUTPUTS, initial=start
    )
    found = bp.characterise(device, bp.Budget(rows=30_000, programmings=500))
    print(found)
    print(found.save("found"))
    print(bp.plan(found.device, batch_size=64).reason)

    layer = bp.PhysicalLayer(found.device)
    model = nn.Sequential(nn.Linear(8, INPUTS), nn.Tanh(), layer, nn.Tanh(), nn.Linear(OUTPUTS, 2))
    turn = found.declaration.theta.period or 1.0
    optimizer = torch.optim.Adam(bp.param_groups(model, lr=1e-2, device_lr=turn / 200))
    x = torch.randn(512, 8)
    target = (x[:, 0] * x[:, 0] + x[:, 1] > 1).long()
    for step in range(101):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), target)
        loss.backward()
        optimizer.step()
        if step % 25 == 0:
            print(f"step {step:3d}   loss {loss.item():.3f}")
    print(bp.ledger(model))


if __name__ == "__main__":
    main()
