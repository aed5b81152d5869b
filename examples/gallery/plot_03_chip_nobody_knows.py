"""
A chip with unknown errors
==========================

A mesh of interferometers as a foundry delivers it: each of its 56 phases has an offset anywhere on the circle, and its
splitters err. Its drawing predicts none of its readings. ``CalibratedChip`` reads the chip once, finds its errors in
closed form, and training then needs no measurements other than the forward passes. A layer without further arguments
takes this method by itself where a device declares the design of a mesh.
"""

import matplotlib.pyplot as plt
import torch

import blackprop as bp

STEPS = 300  # quick: 150
MODES = 8

chip = bp.devices.Noisy(bp.devices.Chip(bp.devices.chips.Rectangular(), MODES, MODES, seed=3), read=0.01)
generator = torch.Generator().manual_seed(0)
surrogate = bp.twins.CalibratedChip(chip)
print(f"calibration: {surrogate.programmings} programmings, {surrogate.total_rows:,} rows")
layer = bp.PhysicalLayer(chip, bp.estimators.FromSurrogate(surrogate), surrogate, generator=generator)

# %%
# Train the chip to be a given matrix
# -----------------------------------
#
# The target is an orthogonal matrix. Training starts with the calibration. The published method, which has no model of
# the chip, trains a second layer for comparison.

target = torch.linalg.qr(torch.randn(MODES, MODES, generator=generator)).Q
published = bp.PhysicalLayer(chip, *bp.presets.paper(rank=4, samples=10, step=0.05), generator=generator)


def fit(layer: bp.PhysicalLayer) -> tuple[list[int], list[float]]:
    optimizer = torch.optim.Adam([layer.theta], lr=0.05)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS, 2e-3)
    rows, errors = [], []
    for _ in range(STEPS):
        x = torch.randn(32, MODES, generator=generator)
        optimizer.zero_grad()
        wanted = x @ target.T
        y = layer(x)
        (y - wanted).square().mean().backward()
        optimizer.step()
        scheduler.step()
        rows.append(layer.ledger.total_rows)
        errors.append(float((y.detach() - wanted).norm() / wanted.norm()))
    return rows, errors


curves = {"calibrated chip": fit(layer), "published method": fit(published)}
print(layer.ledger)

# %%
# The model against the chip
# --------------------------
#
# Fresh rows at settings that neither the calibration nor the training has seen: the drawing, and the calibrated model.

drawing, model = chip.drawing(), surrogate.model
theta = 2 * torch.pi * torch.rand(40, drawing.theta.size, generator=generator)
x = torch.randn(10, MODES, generator=generator)
with torch.no_grad():
    query = [bp.Query(x, setting, bp.Purpose.EVALUATE) for setting in theta]
    read = torch.stack(chip.measure(query)).flatten()
    said = {
        "the drawing": torch.stack([drawing.oracle()(x, setting) for setting in theta]).flatten(),
        "the calibrated model": torch.stack([model(x, setting) for setting in theta]).flatten(),
    }
unexplained = {name: float((y - read).norm() / read.norm()) for name, y in said.items()}

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
for (name, y), colour in zip(said.items(), ("0.75", "tab:blue"), strict=True):
    left.scatter(
        read.numpy(), y.numpy(), s=6, color=colour, label=f"{name}: error {unexplained[name]:.1%}", rasterized=True
    )
left.set(xlabel="reading of the chip", ylabel="prediction", title="Fresh rows at fresh settings")
left.legend(loc="upper left", markerscale=3)
for name, (rows, errors) in curves.items():
    right.plot(rows, errors, label=name)
right.set(xlabel="rows, of all purposes", ylabel="relative error of the matrix", yscale="log", title="Training")
right.legend()
plt.show()

assert unexplained["the calibrated model"] < 0.05
assert unexplained["the drawing"] > 0.5
assert sum(curves["calibrated chip"][1][-5:]) < 0.7 * sum(curves["published method"][1][-5:])
