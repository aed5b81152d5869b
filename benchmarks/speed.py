"""Speed as ratios within one process on one thread, against the straightforward form; memory of the large mesh.

python benchmarks/speed.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

import blackprop as bp
from blackprop.core import Purpose, Query
from blackprop.surrogates import LowRankRecursive, Projection, Recursive, Rule

Work = Callable[[], object]


def ratio(slow: Work, fast: Work, seconds: float = 3.0) -> tuple[float, float, float]:
    """Median times of both, taken in turn, and the median of their ratios: what one disturbs, it disturbs for both."""
    slow(), fast()
    pairs = []
    end = time.perf_counter() + seconds
    while len(pairs) < 5 or time.perf_counter() < end:
        pairs.append((_time(slow), _time(fast)))
    slows, fasts = zip(*pairs, strict=True)
    return statistics.median(slows), statistics.median(fasts), statistics.median(s / f for s, f in pairs)


def _time(work: Work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def mesh_rows() -> tuple[float, float, float]:
    """A mesh of 1,024 modes on 8 rows, against building its matrix and multiplying."""
    device = bp.devices.MZIMesh(1024, 1024)
    theta, x, unit = device.theta.draw(torch.Generator().manual_seed(0)), draw(8, 1024), torch.eye(1024)

    def rebuild() -> Tensor:
        return x @ device.transfer(unit, theta)

    torch.testing.assert_close(rebuild(), device.transfer(x, theta), rtol=1e-3, atol=1e-3)
    return ratio(rebuild, lambda: device.transfer(x, theta), seconds=10)


def settings(device: bp.Simulator) -> tuple[float, float, float]:
    """16 settings on 8 rows in one round, against a round for each."""
    queries = [
        Query(draw(8, device.in_shape[0]), theta, Purpose.PARAMETER) for theta in draw(16, device.theta.size, seed=1)
    ]
    queries = [Query(queries[0].x, query.theta, query.purpose) for query in queries]
    return ratio(lambda: [device.measure([q]) for q in queries], lambda: device.measure(queries))


def training_step() -> tuple[float, float, float]:
    """A step of the hybrid digits network with `paper` at M = 100, against its perturbation draws and device reads."""
    torch.manual_seed(0)
    M, r, B, device = 100, 10, 64, bp.devices.LightModulator(128, 128)
    layer = bp.PhysicalLayer(device, *bp.presets.paper(rank=r, samples=M))
    model = torch.nn.Sequential(
        torch.nn.Linear(64, 128),
        torch.nn.ReLU(),
        layer,
        torch.nn.BatchNorm1d(128),
        torch.nn.ReLU(),
        torch.nn.Linear(128, 10),
    )
    optimizer = torch.optim.Adam(bp.param_groups(model, lr=1e-3, device_lr=1e-2))
    x, target = draw(B, 64), torch.randint(0, 10, (B,), generator=torch.Generator().manual_seed(0))
    rows, probes, theta = draw(B, 128), draw(r + M, 128), layer.theta.detach()
    generator = torch.Generator().manual_seed(0)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), target).backward()
        optimizer.step()

    def alone() -> None:
        u = torch.randn(M, theta.numel(), generator=generator)
        torch.randn(M, 128, generator=generator)
        device.measure([Query(rows, theta, Purpose.FORWARD)])
        device.measure([Query(rows, t, Purpose.PARAMETER) for t in u])
        device.measure([Query(probes, t, Purpose.SURROGATE) for t in u[:2]])

    return ratio(step, alone)


def streaming(rule: Rule) -> tuple[float, float, float]:
    """What the streaming surrogate adds to a step of the hybrid MNIST network (B = 128, d = 256), device untrained."""
    torch.manual_seed(0)
    B, d = 128, 256
    surrogate = bp.surrogates.Streaming(rule=rule)
    layer = bp.PhysicalLayer(bp.devices.LightModulator(d, d), bp.estimators.RandomDirections(1), surrogate)
    layer.theta.requires_grad_(False)
    model = torch.nn.Sequential(
        torch.nn.Linear(784, d),
        torch.nn.ReLU(),
        layer,
        torch.nn.BatchNorm1d(d),
        torch.nn.ReLU(),
        torch.nn.Linear(d, 10),
    )
    optimizer = torch.optim.Adam(model.parameters())
    x, target = draw(B, 784), torch.randint(0, 10, (B,), generator=torch.Generator().manual_seed(0))
    rows, y = draw(B, d), draw(B, d, seed=1)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), target).backward()
        optimizer.step()

    step()
    return ratio(lambda: surrogate.observe(rows, y), step)


def streaming_memory(rule: Rule) -> float:
    """MiB that the streaming surrogate takes at d_in = 6144, d_out = 192, B = 64, its matrix included."""
    code = (
        "import sys; sys.path.insert(0, 'benchmarks'); import speed; from blackprop.surrogates import *; "
        f"print(speed.streaming_peak({rule!r}))"
    )
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def streaming_peak(rule: Rule) -> float:
    torch.set_num_threads(1)
    spec = bp.devices.from_callable(lambda x, t: x, in_shape=6144, out_shape=192, theta_size=1, linear=True).declaration
    x, y, small = draw(64, 6144), draw(64, 192), draw(4, 4)
    torch.linalg.cholesky(small @ small.mT + torch.eye(4))  # lazy loading, once
    Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the peak so far
    before = _resident("VmRSS")
    surrogate = bp.surrogates.Streaming(rule=rule)
    surrogate.bind(spec)
    for _ in range(3):
        surrogate.observe(x, y)
        surrogate.grad_x(x, y)
    return (_resident("VmHWM") - before) / 1024


def mesh_memory() -> float:
    """MiB that a mesh of 1,024 modes takes for 256 rows beyond its parameters and rows: a process's own peak."""
    code = "import sys; sys.path.insert(0, 'benchmarks'); import speed; print(speed.peak())"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def peak() -> float:
    torch.set_num_threads(1)
    device = bp.devices.MZIMesh(1024, 1024)
    theta, x = device.theta.draw(torch.Generator().manual_seed(0)), draw(256, 1024)
    query = Query(x, theta, Purpose.FORWARD)
    small = bp.devices.MZIMesh(8, 8)
    small.measure([Query(draw(2, 8), small.theta.draw(torch.Generator()), Purpose.FORWARD)])  # lazy loading, once
    Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the peak so far
    before = _resident("VmRSS")
    device.measure([query])
    return (_resident("VmHWM") - before) / 1024


def _resident(field: str) -> float:  # kB
    status = Path("/proc/self/status").read_text()
    return next(float(line.split()[1]) for line in status.splitlines() if line.startswith(field))


def main() -> None:
    torch.set_num_threads(1)
    print(f"{'':58}{'plain':>10}{'ours':>10}{'ratio':>8}   wanted")
    for name, figures, wanted in (
        ("mesh N = 1024, 8 rows: rebuild the matrix", mesh_rows(), ">= 10"),
        ("mesh N = 64, 8 rows: 16 settings one by one", settings(bp.devices.MZIMesh(64, 64)), ">= 5"),
        ("light modulator 64x64: 16 settings one by one", settings(bp.devices.LightModulator(64, 64)), ">= 2"),
    ):
        slow, fast, times = figures
        print(f"{name:58}{1e3 * slow:>8.2f}ms{1e3 * fast:>8.2f}ms{times:>8.2f}   {wanted}")
    step, alone, times = training_step()
    name = "a training step / its draws and reads alone"
    print(f"{name:58}{1e3 * alone:>8.2f}ms{1e3 * step:>8.2f}ms{times:>8.2f}   <= 2")
    for name, rule, wanted in (
        ("the streaming surrogate's part of a hybrid MNIST step", Projection(), "<= 0.3"),
        ("the same, recursive", Recursive(), "<= 0.3"),
        ("the same, recursive with rank 32", LowRankRecursive(32), "(meant for more inputs)"),
    ):
        observe, step, part = streaming(rule)
        print(f"{name:58}{1e3 * step:>8.2f}ms{1e3 * observe:>8.2f}ms{part:>8.2f}   {wanted}")
    print(f"{'mesh N = 1024, 256 rows: memory beyond the parameters':58}{mesh_memory():>26.1f} MiB   < 64")
    for name, rule in (
        ("streaming at 6144 -> 192: memory, its matrix included", Projection()),
        ("the same, recursive with rank 128", LowRankRecursive(128)),
    ):
        print(f"{name:58}{streaming_memory(rule):>26.1f} MiB   < 100")


if __name__ == "__main__":
    main()
