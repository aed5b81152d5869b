"""A network around a foreign simulator: a NumPy function of rows and a setting, nothing declared but its shapes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

import blackprop as bp

MIXING = np.random.default_rng(0).normal(size=(16, 16)) / 4


def scatter(x: Tensor, theta: Tensor) -> Tensor:
    """Light through a random medium whose outputs are attenuated by θ; NumPy, so autograd sees nothing."""
    field = x.numpy() @ MIXING * np.cos(theta.numpy())
    return torch.from_numpy(field.astype(np.float32))


def main() -> None:
    torch.manual_seed(0)
    device = bp.devices.from_callable(scatter, in_shape=16, out_shape=16, theta_size=16, linear=True, period=2 * np.pi)
    layer = bp.PhysicalLayer(device, *bp.presets.paper(rank=16, samples=8))
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), layer, nn.Tanh(), nn.Linear(16, 2))
    optimizer = torch.optim.Adam(bp.param_groups(model, lr=1e-2, device_lr=3e-2))
    x = torch.randn(256, 8)
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
