"""What reservoirs remember, and what simulating them costs.

    python benchmarks/reservoirs.py --plot docs/research/reservoirs.svg

One thread, three parts: the active ring's memory and parity capacity against its gain; NARMA-10 with 200 nodes; the
ring's rows together against the same integration row by row, and the ring's error against its step.

A ridge readout of all nodes and a constant, standardised on the training rows, with a penalty of `RIDGE` a sample. Rows
are independent sequences from rest; the first `WASHOUT` samples of each are left out, the last fifth of the rows is
tested. Memory is Σ r² of the bit k samples ago, parity Σ r² of the parity of the last k + 1 bits, k = 1 to 12; the
present sample counts for neither. NRMSE is relative to the standard deviation of the target. Physical readings carry
a noise of `NOISE`, a part of their root mean square; a readout without any would find memory far below it.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor

from blackprop.devices import ActiveRing, EchoState, Ikeda, Reservoir, SpinWaveScatterer
from blackprop.experiments.report._look import INK, page

RIDGE, NOISE, WASHOUT, DEPTH = 1e-6, 1e-3, 30, 12
MEGA = 2 * math.pi * 1e6  # rad/s
GAINS = (0.0, 0.3, 0.6, 0.8, 0.9, 1.0, 1.1, 1.2, 1.35, 1.5, 1.75, 2.0, 2.5, 3.0)


def read_out(states: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """What a readout trained on the first four fifths of the rows says on the others, and what it should, (samples,
    targets); for states (rows, time, nodes) and targets (rows, time, targets).
    """
    train = len(states) * 4 // 5
    states, targets = states[:, WASHOUT:].double(), targets[:, WASHOUT:].double()
    seen = states[:train].flatten(0, 1)
    states = (states - seen.mean(0)) / seen.std(0).clamp_min(1e-12)
    states = torch.cat((states, torch.ones_like(states[..., :1])), -1)
    a, b = states[:train].flatten(0, 1), targets[:train].flatten(0, 1)
    penalty = RIDGE * len(a) * torch.eye(a.shape[1], dtype=a.dtype)
    weights = torch.linalg.solve(a.mT @ a + penalty, a.mT @ b)
    return states[train:].flatten(0, 1) @ weights, targets[train:].flatten(0, 1)


def capacities(states: Tensor, bits: Tensor) -> tuple[float, float]:
    """Memory and parity capacity of the states (rows, time, nodes) that answered the bits (rows, time)."""
    past = torch.stack([bits.roll(k, 1) for k in range(DEPTH + 1)], -1)
    return _capacity(states, past[..., 1:]), _capacity(states, past.cumsum(-1)[..., 1:] % 2)


def _capacity(states: Tensor, targets: Tensor) -> float:
    said, wanted = (values - values.mean(0) for values in read_out(states, targets))
    return float(((said * wanted).sum(0).square() / (said.square().sum(0) * wanted.square().sum(0) + 1e-30)).sum())


def nrmse(states: Tensor, target: Tensor) -> float:
    said, wanted = read_out(states, target.unsqueeze(-1))
    return float(((said - wanted).square().mean() / wanted.var()).sqrt())


def draw_bits(rows: int, samples: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 2, (rows, samples), generator=torch.Generator().manual_seed(seed)).float()


def narma10(rows: int, samples: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Inputs u ~ U(0, 0.5) and `y_{t+1} = 0.3 y_t + 0.05 y_t Σ_{i<10} y_{t−i} + 1.5 u_{t−9} u_t + 0.1`, both
    (rows, samples). At t the target is y_t, on which u_{t−1} to u_{t−10} act: the harder of the two usual readings.
    """
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(rows, 100 + samples, generator=generator, dtype=torch.float64) / 2
    y = torch.zeros_like(u)
    for t in range(9, u.shape[1] - 1):
        y[:, t + 1] = 0.3 * y[:, t] + 0.05 * y[:, t] * y[:, t - 9 : t + 1].sum(1) + 1.5 * u[:, t - 9] * u[:, t] + 0.1
    assert y.max() < 2, "NARMA-10 ran away: take another seed"
    return u[:, 100:].float(), y[:, 100:].float()


def capacity_ring(samples: int, drive: ActiveRing.Drive = ActiveRing.Drive.INJECTED, substeps: int = 1) -> ActiveRing:
    """What returns meets the mask one node further on."""
    delay = 500e-9
    return ActiveRing(samples, nodes=50, drive=drive, delay=delay, period=delay * 50 / 51, substeps=substeps)


def narma_ring(samples: int, substeps: int = 1) -> ActiveRing:
    """A long line, Γτ = 63, so that 200 nodes are independent; the mask is seven nodes shorter."""
    delay = 5e-6
    return ActiveRing(
        samples,
        nodes=200,
        delay=delay,
        period=delay * 200 / 207,
        substeps=substeps,
        damping=2 * MEGA,
        shift=-0.25 * MEGA,
        nonlinear_damping=0.4,
        saturation=3.5,
        injection=MEGA,
        gain=0.9,
        bias=0.15,
        phase=-1.1,
        scale=0.5,
    )


def answer(device: Reservoir, x: Tensor, seed: int = 1, gains: tuple[float, ...] = (), noise: float = NOISE) -> Tensor:
    """The readings of the rows (rows, time) at the setting drawn from `seed`; one stack for each of the gains."""
    generator = torch.Generator().manual_seed(seed)
    theta = device.theta.draw(generator).to(x)
    if gains:
        theta = theta.repeat(len(gains), 1)
        theta[:, 0] = torch.tensor(gains).to(x)
    with torch.no_grad():
        y = device.transfer(x.unsqueeze(-1), theta)
    size = y.square().mean((-3, -2, -1), keepdim=True).sqrt()
    return y + noise * size * torch.randn(y.shape, generator=generator, dtype=y.dtype)


def noise_of(device: Reservoir) -> float:
    return 0.0 if isinstance(device, EchoState) else NOISE


def sweep(drive: ActiveRing.Drive, rows: int = 30, samples: int = 130, seeds: int = 2) -> list[tuple[float, ...]]:
    """Gain, memory and parity capacity, means over masks and bits."""
    found = []
    for seed in range(seeds):
        bits = draw_bits(rows, samples, seed)
        states = answer(capacity_ring(samples, drive), 2 * bits - 1, seed, GAINS)
        found.append([capacities(each, bits) for each in states])
    return [(gain, *map(statistics.fmean, zip(*runs, strict=True))) for gain, *runs in zip(GAINS, *found, strict=True)]


def speed(rows: int = 256, samples: int = 1000, alone: int = 2) -> tuple[float, float]:
    """Seconds for `rows` rows together, and one by one: `alone` of them are timed, of as many as there are."""
    ring, x = capacity_ring(samples), torch.rand(rows, samples, generator=torch.Generator().manual_seed(0))
    answer(capacity_ring(4), x[:2, :4])
    start = time.perf_counter()
    answer(ring, x)
    middle = time.perf_counter()
    for row in x[:alone]:
        answer(ring, row.unsqueeze(0))
    return middle - start, (time.perf_counter() - middle) * rows / alone


def errors(counts: tuple[int, ...] = (1, 2, 4, 8, 16)) -> list[tuple[int, float]]:
    """The largest error of the readings of a ring near its limit cycle, against 128 steps a node."""
    x = torch.rand(1, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    run = {n: answer(ActiveRing(6, gain=1.3, substeps=n), x, noise=0.0) for n in (*counts, 128)}
    return [(n, float((run[n] - run[128]).abs().max())) for n in counts]


def draw(found: dict[str, list[tuple[float, ...]]], file: Path) -> None:
    with page(file, (9, 3.2)) as figure:
        panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
        for ax, (drive, points) in zip(panels, found.items(), strict=True):
            gains, memory, parity = zip(*points, strict=True)
            ax.plot(gains, memory, color="#0072b2", marker="o", markersize=4, label="memory")
            ax.plot(gains, parity, color="#d55e00", marker="^", markersize=4, label="parity")
            ax.axvline(1, color=INK, linewidth=1, linestyle=(0, (1, 2)))
            ax.set_title(f"input as {drive}", loc="left", fontweight="bold", fontsize=10)
            ax.set_xlabel("gain, in thresholds")
            ax.spines[["top", "right"]].set_visible(False)
        panels[0].set_ylabel("capacity")
        panels[0].legend(frameon=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plot", type=Path, help="draw the sweep, as .svg, .png or .pdf")
    plot: Path | None = parser.parse_args().plot
    torch.set_num_threads(1)
    found = {}
    for drive in ActiveRing.Drive:
        found[drive.value] = sweep(drive)
        print(f"ring of 50 nodes, input as {drive.value}: gain, memory, parity", flush=True)
        for gain, memory, parity in found[drive.value]:
            print(f"{gain:>8.2f}{memory:>8.2f}{parity:>8.2f}", flush=True)
    bits = draw_bits(30, 130)
    for device in (SpinWaveScatterer(130), Ikeda(130), EchoState(130, nodes=50)):
        memory, parity = capacities(answer(device, 2 * bits - 1, noise=noise_of(device)), bits)
        print(f"{type(device).__name__} of 50 nodes: memory {memory:.2f}, parity {parity:.2f}", flush=True)
    u, target = narma10(40, 130)
    scatterer = SpinWaveScatterer(130, nodes=200, shift=-0.1 * MEGA, scale=0.3)
    fibre = Ikeda(130, nodes=200, scale=0.1, period=20.87e-6 * 200 / 201)
    for device in (narma_ring(130), EchoState(130), fibre, scatterer):
        error = nrmse(answer(device, 4 * u - 1, noise=noise_of(device)), target)
        print(f"NARMA-10, {type(device).__name__} of 200 nodes: NRMSE {error:.3f}", flush=True)
    together, alone = speed()
    print(f"256 rows x 1,000 samples x 50 nodes: {together:.1f} s, row by row {alone:.0f} s: {alone / together:.0f} x")
    for n, error in errors():
        print(f"{n:>4} steps a node: error {error:.1e}")

    if plot:
        draw(found, plot)


if __name__ == "__main__":
    main()
