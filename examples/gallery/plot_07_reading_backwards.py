"""
Reading backwards
=================

A mesh with a power tap behind each phase shifter computes the gradient for its own phases. Light that carries the
errors of the outputs runs backwards through the chip, and its mirror image is superposed with the input: the taps then
read derivatives. This takes 3 rows for each pair of input and error, with no model, no calibration and no programming.
"""

import matplotlib.pyplot as plt
import torch

import blackprop as bp

STEPS = 200  # quick: 150
MODES = 12


def chip() -> bp.Device:
    mesh = bp.devices.ImperfectMZIMesh(MODES, MODES, phase=10.0, splitter=0.05)  # offsets anywhere, none of them known
    return bp.devices.TappedMesh(mesh, noise=0.02)


def layer(*parts: object, seed: int = 0) -> bp.PhysicalLayer:
    return bp.PhysicalLayer(chip(), *parts, generator=torch.Generator().manual_seed(seed))  # type: ignore[arg-type]


METHODS = {
    "in situ": lambda: layer(bp.estimators.InSitu(), bp.surrogates.Reciprocal()),
    "random directions": lambda: layer(*bp.presets.paper(rank=MODES, samples=10, step=0.01)),
}

# %%
# One gradient
# ------------
#
# The oracle differentiates the simulated chip, which a laboratory cannot do.

x = torch.randn(32, MODES, generator=torch.Generator().manual_seed(1))
target = torch.linalg.qr(torch.randn(MODES, MODES, generator=torch.Generator().manual_seed(2))).Q


def gradient(layer: bp.PhysicalLayer) -> torch.Tensor:
    (layer(x) - x @ target.T).square().sum().backward()
    assert layer.theta.grad is not None
    return layer.theta.grad


exact = gradient(layer(*bp.presets.oracle()))
measured, spent = {}, {}
for name, make in METHODS.items():
    one = make()
    measured[name], spent[name] = gradient(one), one.ledger
cosine = {name: float(torch.cosine_similarity(g, exact, dim=0)) for name, g in measured.items()}

# %%
# Training
# --------


def fit(layer: bp.PhysicalLayer) -> list[float]:
    optimizer = torch.optim.Adam([layer.theta], lr=0.03)
    generator = torch.Generator().manual_seed(3)
    errors = []
    for _ in range(STEPS):
        rows = torch.randn(32, MODES, generator=generator)
        optimizer.zero_grad()
        y, wanted = layer(rows), rows @ target.T
        (y - wanted).square().mean().backward()
        optimizer.step()
        errors.append(float((y.detach() - wanted).norm() / wanted.norm()))
    return errors


curves = {"oracle": fit(layer(*bp.presets.oracle())), **{name: fit(make()) for name, make in METHODS.items()}}

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
for name, marker in zip(METHODS, ("o", "x"), strict=True):
    scale = exact.norm() / measured[name].norm()
    cost = f"{spent[name].total_rows} rows, {spent[name].total_programmings} programmings"
    left.scatter(
        exact.numpy(),
        (scale * measured[name]).numpy(),
        s=14,
        marker=marker,
        label=f"{name}: cosine {cosine[name]:.3f}\n{cost}",
    )
left.axline((0, 0), slope=1, color="0.6", linewidth=1, zorder=0)
left.set(xlabel="exact derivative", ylabel="measured derivative (scaled)", title=f"The {len(exact)} phases, one batch")
left.legend()
for name, errors in curves.items():
    right.plot(errors, label=name, color={"oracle": "0.5"}.get(name), linestyle="--" if name == "oracle" else "-")
right.set(xlabel="step", ylabel="relative error of the matrix", yscale="log", title="Training to a given matrix")
right.legend()
plt.show()

assert cosine["in situ"] > 0.95 > cosine["random directions"]
assert spent["in situ"].total_programmings == 1
assert sum(curves["in situ"][-5:]) < 0.8 * sum(curves["random directions"][-5:])
