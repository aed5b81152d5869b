"""
A black box in NumPy
====================

Any function of rows and a setting is a device. Here it is a simulated interferometer in NumPy: two inputs set phases,
eight detectors read powers, and 72 heaters bend the light on its way. PyTorch cannot differentiate it.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import make_moons
from torch import nn

import blackprop as bp

STEPS = 400  # quick: 150
PATHS = 8

# %%
# The simulator
# -------------
#
# Light splits into eight paths. Each input delays it by a different amount in each path, a heater adds a phase, and a
# mixing section with heaters of its own superposes the paths on eight detectors.


def interferometer(rows: np.ndarray, volts: np.ndarray) -> np.ndarray:
    arms, mixing = volts[:PATHS], volts[PATHS:].reshape(PATHS, PATHS)
    delays = np.stack([np.cos(np.arange(PATHS)), np.sin(2 * np.arange(PATHS))])
    light = np.exp(1j * (1.5 * rows @ delays + arms)) / np.sqrt(PATHS)
    return np.abs(light @ (np.exp(1j * mixing) / np.sqrt(PATHS))) ** 2


def device() -> bp.Device:
    return bp.devices.from_callable(
        interferometer,
        in_shape=2,
        out_shape=PATHS,
        theta_size=PATHS + PATHS**2,
        period=2 * np.pi,
        takes=lambda t: t.double().numpy(),
    )


# %%
# The classifier
# --------------
#
# Two half-moons, told apart by the interferometer and a linear readout of its powers. The estimator is a perturbation
# of all heaters in random directions.

points, labels = make_moons(400, noise=0.12, random_state=0)
points = torch.as_tensor(points, dtype=torch.float32) - torch.tensor([0.5, 0.25])
labels = torch.as_tensor(labels)


def fit(trained: bool) -> tuple[nn.Sequential, list[float]]:
    torch.manual_seed(1)
    layer = bp.PhysicalLayer(device(), bp.estimators.RandomDirections(16, 1e-2))
    layer.theta.requires_grad_(trained)
    model = nn.Sequential(layer, nn.Linear(PATHS, 2))
    optimizer = torch.optim.Adam(bp.param_groups(model, lr=3e-2, device_lr=3e-2))
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(points), labels)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return model.eval(), losses


fits = {"heaters left alone": fit(False), "heaters trained": fit(True)}
print(bp.ledger(fits["heaters trained"][0]))

# %%
# The colour is the probability of the second class.

figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained", width_ratios=(1, 1, 1.1))
x, y = torch.meshgrid(torch.linspace(-2, 2, 80), torch.linspace(-1.5, 1.5, 80), indexing="xy")
accuracy = {}
for axis, (name, (model, losses)) in zip(axes, fits.items(), strict=False):
    with torch.no_grad():
        shade = model(torch.stack([x, y], -1).reshape(-1, 2)).softmax(1)[:, 1].reshape(x.shape)
        accuracy[name] = 100 * float((model(points).argmax(1) == labels).float().mean())
    axis.pcolormesh(x.numpy(), y.numpy(), shade.numpy(), cmap="RdBu_r", vmin=0, vmax=1, shading="gouraud")
    axis.scatter(*points.T.numpy(), c=labels.numpy(), cmap="RdBu_r", s=9, edgecolors="white", linewidths=0.4)
    axis.set(title=f"{name}: {accuracy[name]:.0f} %", xticks=(), yticks=())
    axes[2].plot(losses, label=name)
axes[2].set(xlabel="step", ylabel="cross-entropy", yscale="log", title="Training loss")
axes[2].legend()
plt.show()

assert accuracy["heaters trained"] > accuracy["heaters left alone"] + 3
