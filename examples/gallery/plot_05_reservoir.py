"""
A reservoir that learns to remember
===================================

A reservoir is a device with memory: its rows are sequences, and each reading depends on earlier inputs. This one is a
NumPy function of 30 nodes with four settings: feedback, leak, drive and bias. Trained together with its readout, it
learns to remember further back than at the settings where it starts.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

import blackprop as bp

STEPS = 150  # quick: 60
TIME, NODES, DELAYS, WASHOUT = 60, 30, 14, 15

# %%
# The device and the task
# -----------------------
#
# The input is noise. Output k of the readout must tell the input of k samples ago. Each of the four settings is moved
# up and down once a step.

BENCH = np.random.default_rng(0)
COUPLING = np.linalg.qr(BENCH.normal(size=(NODES, NODES)))[0]
INPUTS = BENCH.uniform(-1, 1, (1, NODES))


def reservoir(rows: np.ndarray, settings: np.ndarray) -> np.ndarray:
    feedback, leak, drive, bias = settings
    state, states = np.zeros((len(rows), NODES)), []
    for sample in rows.swapaxes(0, 1):
        state = (1 - leak) * state + leak * np.tanh(feedback * state @ COUPLING + drive * sample @ INPUTS + bias)
        states.append(state)
    return np.stack(states, 1)


device = bp.devices.from_callable(
    reservoir,
    in_shape=(TIME, 1),
    out_shape=(TIME, NODES),
    theta_size=4,
    initial=lambda g: torch.tensor([0.4, 0.7, 1.5, 0.5]),
    low=torch.tensor([0.0, 0.05, 0.0, -2.0]),
    high=torch.tensor([1.5, 1.0, 3.0, 2.0]),
    takes=torch.Tensor.numpy,
)
generator = torch.Generator().manual_seed(0)
layer = bp.PhysicalLayer(device, bp.estimators.Coordinate(), generator=generator)
model = nn.Sequential(layer, nn.Linear(NODES, DELAYS))
start = layer.theta.detach().clone()


def series(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = 2 * torch.rand(count, TIME, 1, generator=generator) - 1
    delayed = torch.cat([x.roll(k, 1) for k in range(1, DELAYS + 1)], -1)
    return x, delayed[:, WASHOUT:]


def memory(theta: torch.Tensor) -> torch.Tensor:
    """The share of each delayed input's variance that a linear readout explains, on series it was not fitted to."""
    device.program(theta.detach())
    fitted, held = [
        (device.read(x)[:, WASHOUT:].reshape(-1, NODES), y.reshape(-1, DELAYS)) for x, y in (series(40), series(40))
    ]
    states = [torch.cat([states, torch.ones(len(states), 1)], 1) for states, _ in (fitted, held)]
    gram = states[0].T @ states[0] + 1e-6 * torch.eye(NODES + 1)
    readout = torch.linalg.solve(gram, states[0].T @ fitted[1])
    rest = (held[1] - states[1] @ readout).square().mean(0) / held[1].var(0)
    return (1 - rest).clamp_min(0)


# %%
# Training
# --------

optimizer = torch.optim.Adam(bp.param_groups(model, lr=2e-2, device_lr=2e-2))
losses, settings = [], []
for _ in range(STEPS):
    x, wanted = series(16)
    optimizer.zero_grad()
    loss = nn.functional.mse_loss(model(x)[:, WASHOUT:], wanted)
    loss.backward()
    optimizer.step()
    losses.append(float(loss.detach()))
    settings.append(layer.theta.detach().clone())
print(bp.ledger(model))
before, after = memory(start), memory(layer.theta)

figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
left.plot(torch.stack(settings).numpy(), label=("feedback", "leak", "drive", "bias"))
left.set(xlabel="step", title="The settings of the device")
left.legend()
delays = range(1, DELAYS + 1)
for name, curve, colour in (("at the start", before, "0.6"), ("trained", after, "tab:blue")):
    middle.plot(delays, curve.numpy(), "o-", color=colour, label=f"{name}: {float(curve.sum()):.1f} samples")
middle.set(xlabel="delay (samples)", ylabel="explained variance", title="Memory")
middle.legend()
x, wanted = series(1)
with torch.no_grad():
    told = model(x)[0, WASHOUT:]
right.plot(wanted[0, :, 2].numpy(), color="0.6", label="input of 3 samples ago")
right.plot(told[:, 2].numpy(), label="readout")
right.set(xlabel="sample", title="Recall of a series")
right.legend()
plt.show()

assert float(after.sum()) > float(before.sum()) + 0.5
