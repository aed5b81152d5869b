"""
A first device
==============

Half of this network is a light modulator whose copy in the laboratory differs from its design: every pixel has a phase
offset and a gain that were never measured, and each reading has noise. The layer measures the device, and the training
loop is PyTorch's own.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn

import blackprop as bp

EPOCHS = 12  # quick: 4
torch.manual_seed(0)
images, labels = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
images = images.float() / 16
train, test = slice(0, 1437), slice(1437, None)

# %%
# The device
# ----------
#
# ``as_built`` draws a copy of a design with hidden errors. ``Declared`` without further arguments takes the declaration
# away: the library knows that there are 64 inputs, 32 outputs and 2,048 parameters, and not what they do.


def build(trained: bool) -> nn.Sequential:
    torch.manual_seed(0)
    built = bp.devices.as_built(bp.devices.LightModulator(64, 32), seed=0)
    device = bp.devices.Declared(bp.devices.Noisy(built, read=0.01))
    layer = bp.PhysicalLayer(device)
    layer.theta.requires_grad_(trained)
    return nn.Sequential(layer, nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))


# %%
# The training loop
# -----------------


def fit(model: nn.Sequential) -> list[float]:
    optimizer = torch.optim.Adam(bp.param_groups(model, lr=3e-3, device_lr=2e-2))
    accuracies = []
    for _ in range(EPOCHS):
        model.train()
        for batch in torch.randperm(1437).split(64)[:-1]:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            right = model(images[test]).argmax(1) == labels[test]
        accuracies.append(100 * float(right.float().mean()))
    return accuracies


trained, frozen = build(trained=True), build(trained=False)
curves = {"device trained": fit(trained), "device left as drawn": fit(frozen)}
print(trained[0].surrogate.finding)
print(bp.ledger(trained))

# %%
# The ledger counts the rows by purpose. Identifying and calibrating the device is a fraction of the rows that the
# forward passes read anyway.

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), width_ratios=(3, 2), layout="constrained")
for name, accuracy in curves.items():
    left.plot(range(1, EPOCHS + 1), accuracy, "o-", label=name)
left.set(xlabel="epoch", ylabel="test accuracy (%)", title="Digits through a modulator with unknown errors")
left.legend(loc="lower right")
rows = {purpose.value: count for purpose, count in bp.ledger(trained).rows.items() if count}
bars = right.barh(list(rows), list(rows.values()))
right.bar_label(bars, [f"{count:,}" for count in rows.values()], padding=4)
right.set(xlabel="rows", title="Rows by purpose", xlim=(0, 1.35 * max(rows.values())))
plt.show()

assert curves["device trained"][-1] > curves["device left as drawn"][-1] + 3
