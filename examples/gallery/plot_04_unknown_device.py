"""
An unknown device, characterised
================================

A modulator with 512 drivers that count in 256 levels a turn. Which driver feeds which pixel was never written down. The
library measures it: linearity, period, noise, resolution, and the wiring.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

import blackprop as bp

STEPS = 150  # quick: 60
INPUTS, OUTPUTS = 32, 16
BENCH = np.random.default_rng(0)
WIRING = BENCH.permutation(INPUTS * OUTPUTS)


def modulator(x: np.ndarray, theta: np.ndarray) -> np.ndarray:
    transmission = np.cos(2 * np.pi * theta[WIRING] / 256).reshape(OUTPUTS, INPUTS) / np.sqrt(INPUTS)
    return x @ transmission.T + 0.005 * BENCH.normal(size=(len(x), OUTPUTS))


def bench() -> bp.Device:
    return bp.devices.from_callable(
        modulator,
        in_shape=INPUTS,
        out_shape=OUTPUTS,
        theta_size=INPUTS * OUTPUTS,
        initial=lambda g: 32 + 64 * torch.rand(INPUTS * OUTPUTS, generator=g),
        takes=torch.Tensor.numpy,
    )


# %%
# Characterise it
# ---------------

found = bp.characterise(bench(), bp.Budget(rows=30_000, programmings=500))
print(found.conclusion)

# %%
# Train with the findings, and without them
# -----------------------------------------
#
# ``found.device`` carries the declaration. A layer around it calibrates each pixel and needs no query for gradients.
# Perturbations, which need no declaration, train the second network at the same rate.

x = torch.randn(512, 8, generator=torch.Generator().manual_seed(1))
target = (x[:, 0] * x[:, 0] + x[:, 1] > 1).long()


def fit(layer: bp.PhysicalLayer) -> tuple[list[int], list[float]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, INPUTS), nn.Tanh(), layer, nn.Tanh(), nn.Linear(OUTPUTS, 2))
    optimizer = torch.optim.Adam(bp.param_groups(model, lr=1e-2, device_lr=256 / 200))
    rows, losses = [], []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), target)
        loss.backward()
        optimizer.step()
        rows.append(bp.ledger(model).total_rows)
        losses.append(float(loss.detach()))
    return rows, losses


torch.manual_seed(0)
local_linear = bp.surrogates.Streaming(bias=True, exact_start=False)
perturbed = bp.PhysicalLayer(bench(), bp.estimators.RandomDirections(4, 2.0), local_linear)
curves = {"with the findings": fit(bp.PhysicalLayer(found.device)), "perturbations": fit(perturbed)}

# %%
# Left: the driver that the library found for each pixel, against the one that feeds it. Middle: one pixel's response,
# read again. Right: the loss against the rows of training.

figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
order = found.device.order
left.scatter(WIRING, order.numpy(), s=5)
left.set(xlabel="driver of the pixel", ylabel="driver that was found", title="Wiring of 512 pixels")
levels = torch.arange(0.0, 512, 8)
base = found.device.theta.draw(torch.Generator().manual_seed(0))
settings = base.repeat(len(levels), 1)
settings[:, 0] = levels
row = torch.eye(INPUTS)[:1]
readings = found.device.measure([bp.Query(row, setting, bp.Purpose.EVALUATE) for setting in settings])
middle.plot(levels.numpy(), [float(y[0, 0]) for y in readings], ".")
period = found.declaration.theta.period
middle.axvspan(64, 64 + period, alpha=0.15, label=f"the period found: {period:.1f} levels")
middle.set(xlabel="level of driver 0", ylabel="output 0", title="Response of one pixel")
middle.legend(loc="lower center", bbox_to_anchor=(0.5, -0.42), frameon=False)
for name, (rows, losses) in curves.items():
    right.plot(rows, losses, label=name)
right.set(xlabel="rows of training", ylabel="cross-entropy", xscale="log", title="Training")
right.legend()
plt.show()

assert found.declaration.linear
assert found.declaration.coupling is bp.Coupling.ELEMENT
assert abs(period - 256) < 0.5
assert bool((order.numpy() == WIRING).all())
assert curves["with the findings"][0][-1] < curves["perturbations"][0][-1]
