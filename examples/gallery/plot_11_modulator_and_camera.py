"""
A modulator and a camera of slmsuite
====================================

slmsuite drives light modulators and cameras, and simulates both. Here a row of four numbers shifts the phase of four
blocks of the modulator, and a mask of 36 phases is added to it. The camera reads four spots behind a lens. Light alone
tells whether two of the numbers agree, which no linear readout of the numbers can.
"""

# needs: slmsuite

import warnings

import matplotlib.pyplot as plt
import torch
from slmsuite.hardware.cameras.simulated import SimulatedCamera
from slmsuite.hardware.slms.simulated import SimulatedSLM
from torch import nn

import blackprop as bp

warnings.simplefilter("ignore")
STEPS = 60  # quick: 30

# %%
# The hardware
# ------------

slm = SimulatedSLM((48, 48))
camera = SimulatedCamera(slm, resolution=(48, 48), bitdepth=16, gain=0.9)
spots = [(slice(i, i + 2), slice(j, j + 2)) for i in (21, 26) for j in (21, 26)]  # beside the centre


def device() -> bp.Device:
    return bp.foreign.from_slmsuite(slm, camera, inputs=(2, 2), mask=(6, 6), spots=spots, amplitude=1.5)


# %%
# The task
# --------

torch.manual_seed(0)
signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 4)
rows, labels = signs, (signs[:, 0] * signs[:, 3] > 0).long()


def fit(trained: bool) -> tuple[nn.Module, list[float]]:
    torch.manual_seed(1)
    layer = bp.PhysicalLayer(device(), bp.estimators.RandomDirections(6, 5e-2))
    layer.theta.requires_grad_(trained)
    model = nn.Sequential(layer, nn.Linear(4, 2))
    optimizer = torch.optim.Adam(bp.param_groups(model, lr=3e-2, device_lr=1e-1))
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(rows), labels)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return model.eval(), losses


fits = {"mask left alone": fit(False), "mask trained": fit(True)}
print(bp.ledger(fits["mask trained"][0]))

# %%
# The images are those of one row, on a logarithmic scale; the frames are the spots that are read.

figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.4), layout="constrained", width_ratios=(1, 1, 1.2))
for axis, (name, (model, losses)) in zip(axes, fits.items(), strict=False):
    with torch.no_grad():
        model(rows[:1])  # leaves the pattern on the modulator
    image = torch.as_tensor(camera.get_image().astype(float) + 1).log10()
    axis.imshow(image[16:33, 16:33], cmap="magma", extent=(15.5, 32.5, 32.5, 15.5))
    for i, j in spots:
        axis.add_patch(plt.Rectangle((j.start - 0.5, i.start - 0.5), 2, 2, fill=False, color="white", linewidth=1.2))
    axis.set(title=name, xticks=(), yticks=())
    axes[2].plot(losses, label=name)
axes[2].set(title="Training loss", xlabel="step", ylabel="cross-entropy", yscale="log")
axes[2].legend()
plt.show()

assert fits["mask trained"][1][-1] < 0.7 * fits["mask left alone"][1][-1]
