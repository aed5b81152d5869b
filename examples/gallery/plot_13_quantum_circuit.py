"""
A quantum circuit with shots
============================

A circuit of PennyLane on one qubit learns to tell the inside of a circle from the outside. Each reading is a mean over
100 shots, so readings are noisy. Two shifted readings of each angle give its gradient without bias, at any number of
shots.
"""

# needs: pennylane

import math

import matplotlib.pyplot as plt
import pennylane as qml
import torch
from torch import nn

import blackprop as bp

STEPS = 80  # quick: 80
SHOTS = 100

# %%
# The circuit
# -----------
#
# The two coordinates of a point enter three times, each time together with two angles of θ. PennyLane executes all rows
# of a query at once.


@qml.set_shots(SHOTS)
@qml.qnode(qml.device("default.qubit", wires=1, seed=0))
def circuit(x, weights):
    for angles in weights:
        qml.RY(x[..., 0] + angles[0], wires=0)
        qml.RZ(x[..., 1] + angles[1], wires=0)
    qml.RY(x[..., 0], wires=0)
    return qml.expval(qml.PauliZ(0))


noise = 1 / math.sqrt(SHOTS)  # of an expectation value near zero
device = bp.foreign.from_qnode(circuit, in_shape=2, weights_shape=(3, 2), out_shape=1, noise=noise, broadcast=True)

# %%
# Training
# --------

torch.manual_seed(0)
points = (2 * torch.rand(400, 2) - 1) * 2
radius = points.norm(dim=1)
labels = (radius < 1.5).float()


def fit(trained: bool) -> tuple[nn.Module, list[float]]:
    torch.manual_seed(1)
    layer = bp.PhysicalLayer(device, bp.estimators.ParameterShift(), bias=False)
    layer.theta.requires_grad_(trained)
    layer.gain.requires_grad_(False)
    model = nn.Sequential(layer, nn.Linear(1, 1))
    optimizer = torch.optim.Adam(bp.param_groups(model, lr=0.2, device_lr=0.1))
    losses = []
    for _ in range(STEPS):
        batch = torch.randperm(len(points))[:100]
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(model(points[batch])[:, 0], labels[batch])
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return model.eval(), losses


fits = {"angles left alone": fit(False), "angles trained": fit(True)}
print(bp.ledger(fits["angles trained"][0]))

# %%
# The maps are read from the circuit itself, shots included.

grid = torch.cartesian_prod(*[torch.linspace(-2, 2, 41)] * 2)
figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.4), layout="constrained", width_ratios=(1, 1, 1.2))
shares = []
for number, (axis, (name, (model, losses))) in enumerate(zip(axes, fits.items(), strict=False)):
    with torch.no_grad():
        inside = model(grid)[:, 0].sigmoid()
    shares.append(float(((inside > 0.5) == (grid.norm(dim=1) < 1.5)).float().mean()))
    axis.imshow(inside.view(41, 41).T, origin="lower", extent=(-2, 2, -2, 2), cmap="RdBu", vmin=0, vmax=1)
    axis.add_patch(plt.Circle((0, 0), 1.5, fill=False, color="black", linewidth=1.2))
    axis.set(
        title=f"{name}: {shares[-1]:.0%} right", xlabel="$x_0$", ylabel="$x_1$", xticks=(-2, 0, 2), yticks=(-2, 0, 2)
    )
    axes[2].plot(losses, color=f"C{number}", label=name)
axes[2].set(title="Training loss", xlabel="step", ylabel="cross-entropy")
axes[2].legend()
plt.show()

assert shares[1] > shares[0] + 0.1
