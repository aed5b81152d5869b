"""
Two machines
============

The instrument stands in the laboratory, and the model trains on another machine. ``blackprop serve`` gives the device
to the network, encrypted and authenticated; ``RemoteDevice`` is the same device on the other side. Here both machines
are this one: the server is a process of its own.
"""

import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import blackprop as bp

STEPS = 150  # quick: 80
folder = Path(tempfile.mkdtemp())

# %%
# On the machine of the instrument
# --------------------------------
#
# A factory makes the device. The guard limits the rate of rows and leaves the device dark when the last
# client has gone.

(folder / "bench.py").write_text("""
import torch
import blackprop as bp

def modulator():
    device = bp.devices.as_built(bp.devices.LightModulator(32, 16), seed=0)
    return bp.lab.Guarded(device, rows_per_second=1e6, park=torch.zeros(device.theta.size))
""")
with socket.socket() as probe:  # a free port of this machine
    probe.bind(("127.0.0.1", 0))
    address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
blackprop = [sys.executable, "-m", "blackprop"]
subprocess.run([*blackprop, "keys", "lab-keys"], cwd=folder, check=True)
server = subprocess.Popen([*blackprop, "serve", "bench:modulator", "--keys", "lab-keys", "--bind", address], cwd=folder)

# %%
# On the machine of the model
# ---------------------------

remote = bp.lab.RemoteDevice(address, keys=folder / "lab-keys", wait=60)
print(remote)
local = bp.devices.as_built(bp.devices.LightModulator(32, 16), seed=0)


def fit(device: bp.Device) -> tuple[list[float], list[float], bp.PhysicalLayer]:
    layer = bp.PhysicalLayer(device)
    layer.generator.manual_seed(1)  # of all that the layer draws
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # a served device does not tell its own initial settings
        layer.theta.copy_(local.theta.draw(generator))
    optimizer = torch.optim.Adam([layer.theta], lr=0.02)
    target = torch.randn(16, 32, generator=generator) / 8
    losses, seconds = [], []
    for _ in range(STEPS):
        x = torch.randn(64, 32, generator=generator)
        begun = time.perf_counter()
        optimizer.zero_grad()
        loss = (layer(x) - x @ target.T).square().mean()
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - begun)
        losses.append(float(loss.detach()))
    return losses, seconds, layer


try:
    there, here = fit(remote), fit(local)
finally:
    server.terminate()
    server.wait()
print(there[2].ledger)

# %%
# The two runs are bit-identical. The link costs milliseconds a step, which the round trips of a real network add to.

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
left.plot(here[0], linewidth=6, alpha=0.35, label="device on this machine")
left.plot(there[0], label="device behind the network")
left.set(xlabel="step", ylabel="mean squared error", title="The same training", yscale="log")
left.legend()
milliseconds = [[1e3 * second for second in run[1]] for run in (here, there)]
right.boxplot(milliseconds, tick_labels=["this machine", "network"], showfliers=False)
right.set(ylabel="time of a step (ms)", title="The cost of the link", ylim=(0, None))
plt.show()

assert here[0] == there[0]
assert bool((here[2].theta == there[2].theta).all())
assert here[0][-1] < 0.5 * here[0][0]
