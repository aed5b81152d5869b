"""
Mirrors, lasers and photodiodes of ophyd
========================================

Two lasers pass two steering mirrors and shall enter two fibres. Mirrors, lasers and photodiodes are objects of ophyd,
as at a beamline. The optics between them are unknown to the training, which sees powers alone, with noise.
"""

# needs: ophyd

import matplotlib.pyplot as plt
import numpy as np
import torch
from ophyd.sim import SynAxis, SynSignal

import blackprop as bp

STEPS = 60  # quick: 35

# %%
# The bench
# ---------
#
# The tilts of the mirrors move both beams at once, by a matrix that depends on the distances on the bench.

random = np.random.default_rng(2)
tilts = [SynAxis(name=f"mirror{k}_{axis}") for k in (1, 2) for axis in "xy"]
lasers = [SynAxis(name=f"laser{k}") for k in (1, 2)]
fibres = np.array([[-1.0, 0.0], [1.0, 0.0]])  # positions of their cores (mode radii)
turn = np.kron(np.array([[1.0, 0.5], [0.6, 1.2]]), np.eye(2)) + 0.1 * random.normal(size=(4, 4))
start = fibres.ravel() + np.array([0.9, 0.8, -0.7, -0.9])


def spots() -> np.ndarray:
    """Where the two beams meet the plane of the fibres."""
    return (start + turn @ [tilt.readback.get() for tilt in tilts]).reshape(2, 2)


def power(fibre: int) -> float:
    overlap = np.exp(-np.square(spots() - fibres[fibre]).sum(1))  # of each beam
    return float(overlap @ [laser.readback.get() for laser in lasers]) + 0.003 * random.normal()


diodes = [SynSignal(name=f"diode{k + 1}", func=lambda k=k: power(k)) for k in range(2)]

# %%
# The device
# ----------
#
# A mirror needs 50 ms to come to rest. This time is declared and not waited for here.

device = bp.foreign.from_ophyd(
    parameters=tilts, inputs=lasers, outputs=diodes, theta_low=-2.0, theta_high=2.0, low=0.0, high=1.0,
    initial=lambda generator: torch.zeros(4), linear=True, noise=0.01, cost=bp.Cost(programming=0.05, row=1e-3),
)  # fmt: skip

# %%
# Training
# --------
#
# One laser at a time is on. Laser 1 belongs into fibre 1, and laser 2 into fibre 2.

torch.manual_seed(0)
layer = bp.PhysicalLayer(device, bp.estimators.Coordinate(0.1), bp.surrogates.Streaming(), bias=False)
layer.gain.requires_grad_(False)
optimizer = torch.optim.Adam([layer.theta], lr=5e-2)
paths, powers = [], []
for _ in range(STEPS):
    optimizer.zero_grad()
    coupled = layer(torch.eye(2))
    paths.append(spots())
    (coupled - torch.eye(2)).square().sum().backward()
    optimizer.step()
    powers.append(coupled.detach().diagonal().tolist())
print(bp.ledger(layer))
device.close()

# %%
# The positions of the spots were not seen in training. Circles show where the mode of a fibre has fallen to 1/e.

figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained", width_ratios=(1.3, 1))
path = np.array(paths)
for k in range(2):
    axes[0].add_patch(plt.Circle(fibres[k], 1, fill=False, color=f"C{k}", linewidth=1.2))
    axes[0].plot(*path[:, k].T, ".-", color=f"C{k}", linewidth=0.8, markersize=3, label=f"laser {k + 1}")
    axes[0].plot(*path[0, k], "x", color=f"C{k}", markersize=9)
    axes[1].plot([each[k] for each in powers], color=f"C{k}", label=f"laser {k + 1} in fibre {k + 1}")
axes[0].set(title="The spots, from the crosses on", xlabel="position (mode radii)", ylabel="position (mode radii)")
axes[0].set(aspect="equal", xlim=(-2.4, 2.4), ylim=(-1.6, 1.6))
axes[1].set(title="Power in the right fibre", xlabel="step", ylabel="coupled power", ylim=(0, 1.05))
axes[0].legend()
axes[1].legend()
plt.show()

assert min(powers[-1]) > max(0.9, 0.5 + max(powers[0]))
