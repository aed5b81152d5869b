"""
A netlist of ngspice
====================

Diodes and resistors shape a triangle into a sine, as in function generators. ngspice simulates the circuit, and
training chooses its resistors and bias voltages. No gradient of ngspice is needed.
"""

# needs-program: ngspice

import math

import matplotlib.pyplot as plt
import torch

import blackprop as bp

STEPS = 150  # quick: 60

# %%
# The circuit
# -----------
#
# Three pairs of diodes load the output from three voltages on. The resistors are given by their logarithms, ``a`` and
# ``b``, so that one step of the optimizer suits all of them. Parameters of the same name serve both signs.

netlist = """a shaper of a triangle into a sine
.param a1=5 a2=5 a3=5 b1=0.5 b2=0.8 b3=1.1
vin in 0 0
r0 in out 10k
rl out 0 100k
.model fast d(is=1e-12 n=1.2 rs=5)
"""
for k in (1, 2, 3):
    netlist += f"""
vp{k} p{k} 0 {{b{k}}}
rp{k} p{k} q{k} {{10**a{k}}}
dp{k} out q{k} fast
vn{k} n{k} 0 {{-b{k}}}
rn{k} n{k} m{k} {{10**a{k}}}
dn{k} m{k} out fast
"""

names = ["a1", "a2", "a3", "b1", "b2", "b3"]
shaper = bp.foreign.from_spice(
    netlist,
    parameters=names,
    inputs=["vin"],
    outputs=["v(out)"],
    low=torch.tensor([2.0, 2.0, 2.0, 0.0, 0.0, 0.0]),  # 100 Ω, 0 V
    high=torch.tensor([6.0, 6.0, 6.0, 2.0, 2.0, 2.0]),  # 1 MΩ, 2 V
    initial=lambda generator: torch.tensor([5.0, 5.0, 5.0, 0.5, 0.8, 1.1]),
)

# %%
# Training
# --------
#
# The circuit treats both signs alike, so that 16 rows of a quarter of the period suffice. The loss is the share of the
# power that lies in harmonics. The amplitude of the sine is free.

torch.manual_seed(0)
phase = 0.5 * math.pi * (torch.arange(16) + 0.5) / 16
triangle, sine = (4 * phase / math.pi).unsqueeze(1), phase.sin().unsqueeze(1)  # V


def distorted(wave: torch.Tensor) -> torch.Tensor:
    return 1 - (wave * sine).sum().square() / (wave.square().sum() * sine.square().sum())


surrogate = bp.surrogates.Streaming(bias=True, exact_start=False)
layer = bp.PhysicalLayer(shaper, bp.estimators.Coordinate(1e-2), surrogate, bias=False)
layer.gain.requires_grad_(False)
optimizer = torch.optim.Adam(bp.param_groups(layer, lr=3e-2, device_lr=3e-2))
shares, waves = [], []
for _ in range(STEPS):
    optimizer.zero_grad()
    wave = layer(triangle)
    loss = distorted(wave)
    loss.backward()
    optimizer.step()
    shares.append(float(loss.detach()))
    waves.append(wave.detach())
print(bp.ledger(layer))
print({name: round(value, 2) for name, value in zip(names, layer.theta.tolist(), strict=True)})
shaper.close()

# %%


def period(quarter: torch.Tensor) -> torch.Tensor:
    half = torch.cat((quarter, quarter.flip(0))).flatten()
    return torch.cat((half, -half)) / half.norm()


first, last = (math.sqrt(share) for share in (shares[0], shares[-1]))
figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.3), layout="constrained")
degrees = 360 * (torch.arange(64) + 0.5) / 64
axes[0].plot(degrees, period(sine), color="0.7", linewidth=4, label="sine")
spectra = {"before": waves[0], "after": waves[-1]}
for number, (name, wave) in enumerate(spectra.items()):
    axes[0].plot(degrees, period(wave), color=f"C{number}", label=name)
    lines = torch.fft.rfft(period(wave)).abs()[1:14:2]
    axes[1].semilogy(range(1, 14, 2), lines / lines[0], "o-", color=f"C{number}", label=name)
axes[0].set(title="The wave at the output", xlabel="phase (degrees)", ylabel="voltage (scaled)")
axes[1].set(title="Its harmonics", xlabel="harmonic", ylabel="relative to the first", xticks=range(1, 14, 2))
axes[2].semilogy([100 * math.sqrt(share) for share in shares], color="C1")
axes[2].set(title=f"Distortion: {first:.1%} to {last:.1%}", xlabel="step", ylabel="distortion (%)")
axes[0].legend()
axes[1].legend()
plt.show()

assert last < 0.25 * first
