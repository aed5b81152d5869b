"""What a memory of directions knows of the gradient, against the theory; and what it costs to ask it.

    python benchmarks/memory.py --plot docs/research/memory.svg

One thread. Cosines are to the true gradient, by autograd through the simulator; batches and cotangents are random, and
the basis has full rank, so that what is missing is what is not remembered. Means of five seeds and their standard
deviation. The same seeds and the same machine give the same figures, but for the times.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import blackprop as bp
from blackprop.core import metered, run
from blackprop.devices import LightModulator, ThreeSplitterMesh
from blackprop.estimators import ByOutput, DirectionalMemory, Estimator, Oracle
from blackprop.estimators.memory._hadamard import family_size
from blackprop.experiments.report._look import INK, bare, page

SEEDS = range(5)
NEVER = 10**9
KEPT, LASTS = 4, 32  # of the walk: a memory of K = P/4 or so, renewed in 32 steps
WARM, WATCHED = 40, 24  # steps of the walk
DEVICES: dict[str, Callable[[], bp.Simulator]] = {
    "light modulator": lambda: LightModulator(32, 32),
    "three-splitter mesh": lambda: ThreeSplitterMesh(16, 16),
}
WALKS = {  # rms of a step, rad
    "light modulator": (0.02, 0.06, 0.18, 0.5, 1.5),
    "three-splitter mesh": (0.003, 0.01, 0.03, 0.1, 0.3),
}
APART = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.2, 1.6, 2.0)  # rad


@dataclass(frozen=True)
class Point:
    """A cosine at `at`: its mean over the seeds, their standard deviation, and what theory says."""

    at: float
    cosine: float
    spread: float
    theory: float


class Bench:
    """A simulator, a batch and its cotangents, at a setting that is uniform over the period and may move."""

    def __init__(self, device: bp.Simulator, seed: int) -> None:
        self.device, self.spec = device, device.declaration
        self.stream = torch.Generator().manual_seed(seed)
        self.x, self.grad_y = self._drawn(64, self.spec.d_in), self._drawn(64, self.spec.d_out)
        self.theta = 2 * math.pi * torch.rand(self.spec.theta.size, generator=self.stream, dtype=torch.float64)

    def _drawn(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.stream, dtype=torch.float64)

    def wander(self, size: float) -> None:
        self.theta = self.theta + size * self._drawn(len(self.theta))

    def memory(self, **settings: Any) -> DirectionalMemory:
        memory = DirectionalMemory(**{"rank": self.spec.d_in, "step": 1e-3, **settings})
        memory.bind(self.spec)
        return memory.to(self.theta)

    def gradient(self, estimator: Estimator) -> Tensor:
        with torch.no_grad():
            y = self.device.transfer(self.x, self.theta)
            asked = estimator.grad_theta(self.x, self.theta, y, self.grad_y, self.spec, self.stream)
            return run(asked, metered(self.device, bp.Ledger()))

    def cosine(self, memory: DirectionalMemory) -> float:
        return float(torch.cosine_similarity(self.gradient(memory), self.gradient(Oracle()), dim=0))


def at_rest(make: Callable[[], bp.Simulator], credit: ByOutput | None = None) -> list[Point]:
    """θ fixed: the cosine against the part that is remembered, K/P or K·d_out/P."""
    found: dict[int, list[float]] = {}
    parameters = make().theta.size // (credit.outputs if credit else 1)
    count = max(1, parameters // 128)
    for seed in SEEDS:
        bench = Bench(make(), seed)
        memory = bench.memory(count=count, size=parameters, refresh=NEVER, credit=credit)
        for call in range(1, math.ceil(parameters / count) + 1):
            known, cosine = min(call * count, parameters), bench.cosine(memory)
            if call & (call - 1) == 0 or known == parameters:
                found.setdefault(known, []).append(cosine)
    return [_point(K / parameters, values, math.sqrt(K / mass(K, parameters))) for K, values in found.items()]


def walking(make: Callable[[], bp.Simulator], size: float, length: float) -> tuple[Point, float]:
    """θ walks at random by `size` a step: the steady cosine, and the correlation length that the memory learnt."""
    values, learnt, parameters = [], [], make().theta.size
    for seed in SEEDS:
        bench = Bench(make(), seed)
        memory = bench.memory(**_window(parameters))
        cosines = []
        for step in range(WARM + WATCHED):
            if step < WARM:
                bench.gradient(memory)
            else:
                cosines.append(bench.cosine(memory))
            bench.wander(size)
        values.append(statistics.fmean(cosines))
        learnt.append(memory.diagnosis()["correlation_length"])
    return _point(size, values, remembered(size, length, parameters)), statistics.median(learnt)


def remembered(size: float, length: float, parameters: int) -> float:
    """`√(Σ w²/c)`, `w = exp(−(d/ℓ)²)`, `d² = δ²·age`: the last K directions, M a step."""
    window = _window(parameters)
    ages = torch.arange(window["size"], dtype=torch.float64) // window["count"]
    return math.sqrt(float((-2 * size**2 * ages / length**2).exp().sum()) / mass(len(ages), parameters))


def mass(known: int, parameters: int) -> float:
    """c: P where few of the family's n directions are known, n where all are."""
    return parameters + known * (1 - parameters / family_size(parameters))


def _window(parameters: int) -> dict[str, int]:
    """K and M of the walk."""
    size = family_size(parameters) // KEPT
    return {"count": size // LASTS, "size": size}


def correlation_length(make: Callable[[], bp.Simulator]) -> float:
    """ℓ of `exp(−(d/ℓ)²)`, by least squares, to how the true gradient at θ + d·ξ regresses on that at θ."""
    products, squares = torch.zeros(len(APART)), 0.0
    for seed in range(10):
        bench = Bench(make(), 100 + seed)
        here, start = bench.gradient(Oracle()), bench.theta
        squares += float(here @ here)
        for i, d in enumerate(APART):
            bench.theta = start
            bench.wander(d)
            products[i] += float(bench.gradient(Oracle()) @ here)
    lengths = torch.linspace(0.05, 3, 591)
    shapes = (-(torch.tensor(APART) / lengths[:, None]).square()).exp()
    return float(lengths[(shapes - products / squares).square().sum(1).argmin()])


def _point(at: float, values: list[float], theory: float) -> Point:
    return Point(at, statistics.fmean(values), statistics.stdev(values), theory)


def overhead(size: int, count: int = 8, steps: int = 48) -> tuple[float, float]:
    """Milliseconds of process time a step, median and mean, 784 → 128: the device's answers are ready beforehand."""
    spec = LightModulator(784, 128).declaration
    stream = torch.Generator().manual_seed(0)
    x, grad_y = (torch.randn(128, d, generator=stream) for d in (784, 128))
    theta = torch.randn(spec.theta.size, generator=stream)
    memory = DirectionalMemory(count, size, start=size)
    ready = [torch.randn(memory.rank, 128, generator=stream) for _ in range(size + 1)]
    times = []
    for _ in range(steps + 1):
        start = time.process_time()
        asked = memory.grad_theta(x, theta, grad_y, grad_y, spec, stream)
        try:
            queries = next(asked)
            while True:
                queries = asked.send(ready[: len(queries)])
        except StopIteration:
            pass
        times.append(1e3 * (time.process_time() - start))
        theta = theta + 1e-3
    return statistics.median(times[1:]), statistics.fmean(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plot", type=Path, help="draw the cosines, as .svg, .png or .pdf")
    plot: Path | None = parser.parse_args().plot
    torch.set_num_threads(1)
    rest = {name: at_rest(make) for name, make in DEVICES.items()}
    rest["light modulator, by output"] = at_rest(DEVICES["light modulator"], ByOutput(32))
    for name, points in rest.items():
        _print(f"{name}, at rest: part remembered", points)
    moving, lengths = {}, {}
    for name, make in DEVICES.items():
        lengths[name] = length = correlation_length(make)
        found = [walking(make, size, length) for size in WALKS[name]]
        moving[name] = [point for point, _ in found]
        _print(f"{name}, walking (correlation length {length:.2f} rad): step, rad", moving[name])
        print("  learnt length, rad: " + ", ".join(f"{learnt:.2g}" for _, learnt in found))
    for size in (1000, 2000):
        median, mean = overhead(size)
        print(f"overhead a step at P = 100,352, K = {size:,}, M = 8: {median:.0f} ms median, {mean:.0f} ms mean")
    if plot:
        draw(rest, moving, lengths, plot)


def _print(title: str, points: list[Point]) -> None:
    print(title)
    for p in points:
        print(f"  {p.at:8.4f}   cosine {p.cosine:.3f} ± {p.spread:.3f}   theory {p.theory:.3f}")


def draw(rest: dict[str, list[Point]], moving: dict[str, list[Point]], lengths: dict[str, float], file: Path) -> None:
    """Lines are theory, marks are measured."""
    looks = dict(zip(rest, (("#0072b2", "o"), ("#d55e00", "^"), ("#009e73", "s")), strict=True))
    with page(file, (9, 3.8)) as figure:
        left, right = figure.subplots(1, 2)
        parts = torch.logspace(math.log10(1 / 300), 0, 100).tolist()
        left.plot(parts, [math.sqrt(part) for part in parts], color=INK, linewidth=1, label="theory: √ of that part")
        for (name, points), shift in zip(rest.items(), (1, 0.97, 1.03), strict=True):  # side by side
            _marks(left, points, looks[name], name, shift)
        left.set_title("θ at rest", loc="left", fontweight="bold", fontsize=10)
        left.set_xlabel("part remembered: K/P; by output, K·d_out/P")
        left.legend(frameon=False, fontsize=8, loc="upper left")
        for name, points in moving.items():
            parameters = DEVICES[name]().theta.size
            first, last = points[0].at / 1.6, points[-1].at * 1.6
            sizes = torch.logspace(math.log10(first), math.log10(last), 100).tolist()
            theory = [remembered(size, lengths[name], parameters) for size in sizes]
            right.plot(sizes, theory, color=looks[name][0], linewidth=1)
            _marks(right, points, looks[name], f"{name}, ℓ = {lengths[name]:.2f} rad")
            count = _window(parameters)["count"]
            fresh = math.sqrt(count / (count + parameters))
            right.axhline(fresh, color=INK, linewidth=1, linestyle=(0, (1, 2)))  # alike for both
        right.plot([], [], color=INK, linewidth=1, label="theory")
        right.plot([], [], color=INK, linewidth=1, linestyle=(0, (1, 2)), label="fresh directions only")
        title = f"θ walks at random, K ≈ P/{KEPT}, M = K/{LASTS} a step"
        right.set_title(title, loc="left", fontweight="bold", fontsize=10)
        right.set_xlabel("δ, rms of a step of θ, rad")
        right.legend(frameon=False, fontsize=8, loc="upper right")
        for ax, top in ((left, 1.05), (right, 0.78)):
            bare(ax)
            ax.set_xscale("log")
            ax.set_ylim(0, top)
            ax.set_ylabel("cosine to the true gradient")
            ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            ax.grid(axis="y", color="#e6e6e6", linewidth=0.7)
            ax.set_axisbelow(True)
            ax.spines[["top", "right"]].set_visible(False)


def _marks(ax: Any, points: list[Point], look: tuple[str, str], label: str, shift: float = 1) -> None:
    x, y, spread = zip(*((shift * p.at, p.cosine, p.spread) for p in points), strict=True)
    ax.errorbar(x, y, spread, color=look[0], marker=look[1], linestyle="none", markersize=5, capsize=3, label=label)


if __name__ == "__main__":
    main()
