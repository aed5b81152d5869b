"""A network around a reservoir that is a NumPy function, trained from the losses of forward passes alone."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

import blackprop as bp

TIME, NODES, WASHOUT, DELAYS = 20, 20, 5, 2
BENCH = np.random.default_rng(0)
COUPLING = BENCH.normal(size=(NODES, NODES)) / np.sqrt(NODES)
INPUTS = BENCH.uniform(-1, 1, (1, NODES))


def reservoir(x: Tensor, theta: Tensor) -> Tensor:
    """Coupled nodes with a memory, driven one sample after another; θ is feedback, drive and bias. Autograd sees none
    of it.
    """
    feedback, drive, bias = theta.numpy()
    state, states = np.zeros((len(x), NODES)), []
    for sample in x.numpy().swapaxes(0, 1):
        state = np.tanh(feedback * state @ COUPLING + drive * sample @ INPUTS + bias)
        states.append(state)
    return torch.from_numpy(np.stack(states, 1).astype(np.float32))


def start(generator: torch.Generator) -> Tensor:
    return torch.tensor([0.2, 0.3, 0.1]) + 0.05 * torch.randn(3, generator=generator)


def main() -> None:
    torch.manual_seed(0)
    device = bp.devices.from_callable(
        reservoir, in_shape=(TIME, 1), out_shape=(TIME, NODES), theta_size=3, initial=start
    )
    layer = bp.PhysicalLayer(device)
    model = nn.Sequential(nn.Linear(1, 1), layer, nn.Linear(NODES, DELAYS))
    # What was sent one and two samples ago is to be told from the present state.
    x = torch.randint(2, (24, TIME, 1)).float()
    target = torch.cat([x.roll(k, 1) for k in range(1, DELAYS + 1)], -1)[:, WASHOUT:]
    optimizer = bp.optim.PerturbativeGradient(
        bp.param_groups(model, lr=2e-2, device_lr=2e-2), lr=2e-2, betas=(0.9, 0.99), directions=4
    )

    def loss() -> Tensor:
        return nn.functional.mse_loss(model(x)[:, WASHOUT:], target)

    for step in range(241):
        found = optimizer.step(loss)
        if step % 60 == 0:
            print(f"step {step:3d}   loss {found.item():.3f}")
    print("feedback, drive, bias:", [round(value, 2) for value in layer.theta.tolist()])
    print(bp.ledger(model))


if __name__ == "__main__":
    main()
