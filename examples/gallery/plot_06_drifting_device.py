"""
Fine-tuning on a drifting device
================================

A trained network goes onto a modulator whose pixels drift through the day. Left alone, its accuracy decays. A batch of
fine-tuning every quarter of an hour holds it: the layer notices the drift in the readings of these batches, finds the
displacement from a few extra rows, and moves the settings against it.
"""

import copy

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn

import blackprop as bp

HOURS = 12  # quick: 4
DRIFT = 0.35  # rad in an hour
torch.manual_seed(0)
images, labels = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
images = images.float() / 16
train, test = slice(0, 1437), slice(1437, None)

# %%
# A network trained digitally
# ---------------------------

digital = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
optimizer = torch.optim.Adam(digital.parameters(), lr=3e-3, weight_decay=1e-4)
for _ in range(30):
    for batch in torch.randperm(1437).split(64):
        optimizer.zero_grad()
        nn.functional.cross_entropy(digital(images[batch]), labels[batch]).backward()
        optimizer.step()

# %%
# Its first layer goes onto the device
# ------------------------------------
#
# The clock of the drift is a number here, so that a day passes in seconds.

now = [0.0]  # s


def onto_the_device(linear: nn.Linear) -> bp.PhysicalLayer:
    modulator = bp.devices.LightModulator(linear.in_features, linear.out_features)
    device = bp.devices.Drifting(modulator, per_root_second=DRIFT / 60, clock=lambda: now[0], seed=1)
    return bp.PhysicalLayer.from_linear(linear, device)


def accuracy(model: nn.Module) -> float:
    model.eval()
    with torch.no_grad():
        return 100 * float((model(images[test]).argmax(1) == labels[test]).float().mean())


# %%
# A day
# -----


def day(tuned: bool) -> tuple[list[float], list[float], nn.Module]:
    now[0] = 0.0
    torch.manual_seed(1)
    model = bp.substitute(copy.deepcopy(digital), {"0": onto_the_device})
    optimizer = torch.optim.Adam(bp.param_groups(model, lr=1e-4, device_lr=2e-3))
    hours, accuracies = [0.0], [accuracy(model)]
    for _ in range(4 * HOURS):
        now[0] += 900
        if tuned:
            model.train()
            for batch in torch.randperm(1437)[:256].split(64):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
                optimizer.step()
        hours.append(now[0] / 3600)
        accuracies.append(accuracy(model))
    return hours, accuracies, model


left_alone, tuned = day(tuned=False), day(tuned=True)
print(bp.ledger(tuned[2]))
events = tuned[2][0].surrogate.monitor.events
print(*events[-2:], sep="\n")

figure, axis = plt.subplots(figsize=(8, 4), layout="constrained")
axis.axhline(accuracy(digital), color="0.6", linestyle="--", label="the digital network")
axis.plot(*tuned[:2], label="four batches of fine-tuning every quarter of an hour")
axis.plot(*left_alone[:2], label="left alone")
axis.set(
    xlabel="time (h)",
    ylabel="test accuracy (%)",
    title=f"A modulator that drifts by {DRIFT} rad in an hour",
    ylim=(0, 100),
)
axis.legend(loc="lower left")
plt.show()

assert tuned[1][-1] > left_alone[1][-1] + 10
assert tuned[1][-1] > tuned[1][0] - 10
