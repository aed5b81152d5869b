"""
A photonic circuit of SAX
=========================

Six interferometers of SAX form a mesh of four ports. Its couplers do not split evenly, and training does not know by
how much. The heaters learn to send the light of each input to its own output, from powers alone.
"""

# needs: sax

import jax
import matplotlib.pyplot as plt
import numpy as np
import sax
import torch

import blackprop as bp

STEPS = 60  # quick: 40

# %%
# The circuit
# -----------
#
# An interferometer has two couplers and two heaters. The mesh is a netlist of interferometers.

wires = {"left,out0": "arm,in0", "arm,out0": "right,in0", "left,out1": "right,in1", "outer,out0": "left,in0"}
ports = {"in0": "outer,in0", "in1": "left,in1", "out0": "right,out0", "out1": "right,out1"}
parts = {"left": "coupler", "right": "coupler", "arm": "heater", "outer": "heater"}
models = {"coupler": sax.models.coupler_ideal, "heater": sax.models.phase_shifter}
mzi, _ = sax.circuit(netlist={"instances": parts, "connections": wires, "ports": ports}, models=models)

pairs = [(0, 1), (2, 3), (1, 2), (0, 1), (2, 3), (1, 2)]  # the ports that each interferometer joins
ends, connections = dict.fromkeys(range(4)), {}
outside = {}
for number, pair in enumerate(pairs):
    for side, port in enumerate(pair):
        here = f"m{number},in{side}"
        if ends[port] is None:
            outside[f"in{port}"] = here
        else:
            connections[ends[port]] = here
        ends[port] = f"m{number},out{side}"
outside |= {f"out{port}": end for port, end in ends.items()}
netlist = {"instances": {f"m{k}": "mzi" for k in range(6)}, "connections": connections, "ports": outside}
mesh, _ = sax.circuit(netlist=netlist, models={"mzi": mzi})

uneven = np.random.default_rng(0).uniform(0.42, 0.58, (6, 2)).tolist()  # shares of light that change sides
built = {f"m{k}": {"left": {"coupling": a}, "right": {"coupling": b}} for k, (a, b) in enumerate(uneven)}

# %%
# The device
# ----------
#
# The glue is one call. The voltages of twelve heaters are θ.

heaters = [f"m{k}.{name}.voltage" for k in range(6) for name in ("arm", "outer")]
sides = {"inputs": [f"in{k}" for k in range(4)], "outputs": [f"out{k}" for k in range(4)]}
chip = bp.foreign.from_sax(jax.jit(mesh), parameters=heaters, **sides, settings=built, low=0.0, high=2.0)

# %%
# Training
# --------

torch.manual_seed(3)
surrogate = bp.surrogates.Streaming(bias=True, exact_start=False)
layer = bp.PhysicalLayer(chip, bp.estimators.Coordinate(2e-2), surrogate, bias=False)
layer.gain.requires_grad_(False)
optimizer = torch.optim.Adam([layer.theta], lr=4e-2)
target, losses = torch.eye(4).flip(1), []  # input 0 to output 3, and so on
for step in range(STEPS):
    optimizer.zero_grad()
    powers = layer(torch.eye(4))
    loss = (powers - target).square().sum()
    loss.backward()
    if step == 0:
        before = powers.detach()
    optimizer.step()
    losses.append(float(loss.detach()))
after = layer.eval()(torch.eye(4)).detach()
print(bp.ledger(layer))

# %%

figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.3), layout="constrained", width_ratios=(1, 1, 1.2))
for axis, powers, name in ((axes[0], before, "before"), (axes[1], after, "after")):
    right = float((powers * target).sum(1).mean())
    axis.imshow(powers, cmap="viridis", vmin=0, vmax=1)
    axis.set(title=f"{name}: {right:.0%} goes right", xlabel="output", ylabel="input")
    axis.set(xticks=range(4), yticks=range(4))
axes[2].semilogy(losses, color="C0")
axes[2].set(title="Error of the powers", xlabel="step", ylabel="sum of squares")
plt.show()

right = [float((powers * target).sum(1).mean()) for powers in (before, after)]
assert right[1] > 0.8 > right[0] + 0.2
