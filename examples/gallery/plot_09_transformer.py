"""
A transformer with physical layers
==================================

A small transformer sorts digits. The four matrices of its block lie on modulators whose errors are unknown: queries,
keys and values, the output of the attention, and the two layers of its MLP. ``substitute`` replaces the layers of a
digital model by name.
"""

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

import blackprop as bp

STEPS = 400  # quick: 90
LENGTH, WIDTH, HEADS = 6, 32, 2


class Sorter(nn.Module):
    """Six digits in, the same digits in ascending order out."""

    def __init__(self) -> None:
        super().__init__()
        self.digits = nn.Embedding(10, WIDTH)
        self.places = nn.Parameter(0.1 * torch.randn(LENGTH, WIDTH))
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH) for _ in range(3)])
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, 10)
        self.attention = torch.empty(0)

    def forward(self, sequence: Tensor) -> Tensor:
        x = self.digits(sequence) + self.places
        q, k, v = self.qkv(self.norms[0](x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        attention = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        self.attention = attention.detach()
        x = x + self.out((attention @ v).transpose(1, 2).flatten(2))
        x = x + self.down(nn.functional.gelu(self.up(self.norms[1](x))))
        return self.head(self.norms[2](x))


def modulator(linear: nn.Linear) -> bp.PhysicalLayer:
    design = bp.devices.LightModulator(linear.in_features, linear.out_features)
    built = bp.devices.as_built(design, seed=linear.out_features)
    return bp.PhysicalLayer(bp.devices.Noisy(built, read=0.01), bias=True)


# %%
# Training
# --------


def fit(trained: bool) -> tuple[Sorter, list[float]]:
    torch.manual_seed(0)
    model = bp.substitute(Sorter(), dict.fromkeys(("qkv", "out", "up", "down"), modulator))
    for layer in model.children():
        if isinstance(layer, bp.PhysicalLayer):
            layer.theta.requires_grad_(trained)
    optimizer = torch.optim.Adam(bp.param_groups(model, lr=4e-3, device_lr=2e-2))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, [g["lr"] for g in optimizer.param_groups], STEPS)
    right = []
    for _ in range(STEPS):
        sequence = torch.randint(10, (64, LENGTH))
        wanted = sequence.sort(1).values
        optimizer.zero_grad()
        told = model(sequence)
        nn.functional.cross_entropy(told.flatten(0, 1), wanted.flatten()).backward()
        optimizer.step()
        schedule.step()
        right.append(100 * float((told.argmax(-1) == wanted).float().mean()))
    return model.eval(), right


models = {"devices trained": fit(True), "devices left as drawn": fit(False)}
model = models["devices trained"][0]
print(bp.ledger(model))

# %%
# One sequence
# ------------
#
# Rows of the map are places of the sorted sequence, columns the digits as they came.

sequence = torch.tensor([[7, 2, 9, 4, 0, 5]])
with torch.no_grad():
    told = model(sequence).argmax(-1)[0].tolist()
print(sequence[0].tolist(), "→", told)

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained", width_ratios=(3, 2))
for name, (_, accuracy) in models.items():
    smooth = torch.tensor(accuracy).unfold(0, 10, 5).mean(1).tolist()
    left.plot(range(10, 10 + 5 * len(smooth), 5), smooth, label=f"{name}: {accuracy[-1]:.0f} %")
left.set(xlabel="step", ylabel="digits in their place (%)", title="Sorting six digits")
left.legend(loc="lower right")
right.imshow(model.attention[0].amax(0).numpy(), cmap="magma")
right.set(xticks=range(LENGTH), xticklabels=sequence[0].tolist(), yticks=range(LENGTH), yticklabels=told)
right.set(xlabel="digits as they came", ylabel="digits sorted", title="Attention, larger of two heads")
plt.show()

final = {name: sum(accuracy[-10:]) / 10 for name, (_, accuracy) in models.items()}
assert final["devices trained"] > final["devices left as drawn"] + 2
