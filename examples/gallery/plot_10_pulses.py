"""
Cells that are moved by pulses
==============================

Most memristive arrays are never set to a weight. Coincident pulses on a row and a column move a cell by one step, up
or down, and the weight is known from readings alone. How well a network learns then depends on the number of states
between the bounds of a cell, and on the method that sends the pulses.
"""

import dataclasses
from itertools import pairwise

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn

import blackprop as bp
from blackprop.estimators import pulsed

IMAGES = 1437  # quick: 1000
EPOCHS, BATCH = 2, 10
STATES = (10, 100, 1000)
images, labels = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
images = images.float() / 16
test = slice(1437, None)

# %%
# The methods
# -----------
#
# A method says which tiles of a device are pulsed and read, and when. Each has the gains of the tiles that it needs,
# and its learning rate. Analog descent sends the outer product of every row at once. Tiki-Taka sends it to a fast tile,
# which is read column by column and moves the main tile. Residual learning reads both tiles together, so that the fast
# one corrects the main one. Mixed precision adds the gradient up digitally and sends whole pulses.

METHODS = {
    "analog descent": (pulsed.AnalogSGD, (1.0,), 0.2),
    "Tiki-Taka": (pulsed.TikiTaka, (0.0, 1.0), 0.3),
    "residual learning": (lambda: pulsed.ResidualLearning(transfer=0.05), (0.3, 1.0), 0.3),
    "mixed precision": (pulsed.MixedPrecision, (1.0,), 0.3),
}

# %%
# The network
# -----------
#
# Electrochemical cells, a published part, with steps as large as the number of states demands. ``bp.optim.Pulsed``
# wraps an ordinary optimizer: its step sends the pulses.


def network(method: str, states: int) -> tuple[nn.Sequential, float]:
    make, gains, rate = METHODS[method]
    cell = dataclasses.replace(bp.devices.cells.ECRAM, step=2.0 / states)
    torch.manual_seed(0)
    parts: list[nn.Module] = []
    for n, (d_in, d_out) in enumerate(pairwise((64, 48, 10))):
        device = bp.devices.PulsedCrossbar(d_in, d_out, cell, gains=gains, seed=n)
        parts += [bp.PhysicalLayer(device, make(), bp.surrogates.Reciprocal(), bias=True), nn.Tanh()]
    return nn.Sequential(*parts[:-1]), rate


def learnt(model: nn.Sequential, rate: float) -> float:
    """Test accuracy in % after the training."""
    optimizer = bp.optim.Pulsed(torch.optim.SGD(bp.param_groups(model, lr=0.1, device_lr=rate)), model)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * -(-IMAGES // BATCH))
    for _ in range(EPOCHS):
        for batch in torch.randperm(IMAGES).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        return 100 * float((model.eval()(images[test]).argmax(1) == labels[test]).float().mean())


accuracy: dict[str, list[float]] = {}
pulses: dict[str, int] = {}
for method in METHODS:
    for states in STATES:
        model, rate = network(method, states)
        accuracy.setdefault(method, []).append(learnt(model, rate))
        pulses[method] = bp.ledger(model).actions["pulse"]
    print(f"{method:18}", *(f"{value:5.1f}" for value in accuracy[method]), f"{pulses[method]:>9,} pulses")

# %%
# With few states, a single step of a cell is larger than most corrections. The method that adds them up before it sends
# a pulse loses least. Its outer products are digital, which is its price.

figure, axis = plt.subplots(figsize=(6.4, 4), layout="constrained")
for method, values in accuracy.items():
    axis.semilogx(STATES, values, "o-", label=method)
axis.set(xlabel="states of a cell", ylabel="test accuracy (%)", title="Digits on cells that are moved by pulses")
axis.set_xticks(STATES, [str(states) for states in STATES])
axis.legend(loc="lower right")
axis.minorticks_off()
plt.show()

best = accuracy["mixed precision"]
assert best[0] > max(values[0] for name, values in accuracy.items() if name != "mixed precision") + 2
assert best[0] > best[-1] - 10
