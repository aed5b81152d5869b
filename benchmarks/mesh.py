"""Meshes in compiled code, beside the plain path through PyTorch: forward, and forward with both gradients.

    python benchmarks/mesh.py

Each line also gives the greatest error of the readings, or of the gradient for θ, relative to the greatest value in
float64.
One process, one thread, the two in turn; medians, and the median of the ratios. Needs Numba: `pip install ".[fast]"`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor

import blackprop as bp
from speed import draw, ratio

KINDS = {
    "mzi": bp.devices.MZIMesh,
    "three-splitter": bp.devices.ThreeSplitterMesh,
    "imperfect": bp.devices.ImperfectMZIMesh,
}
Map = Callable[[Tensor, Tensor], Tensor]


def plain(device: bp.devices.MZIMesh) -> Map:
    return lambda x, theta: device._plain(x, device._numbers(theta))


def gradients(map_: Map, x: Tensor, theta: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    x, theta = x.detach().requires_grad_(), theta.detach().requires_grad_()
    y = map_(x, theta)
    y.backward(weights)
    assert theta.grad is not None
    return y.detach(), theta.grad


def error(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).abs().max() / exact.abs().max())


def passes(name: str, device: bp.devices.MZIMesh, rows: int, seconds: float) -> None:
    modes = device.in_shape[0]
    theta, x = device.theta.draw(torch.Generator().manual_seed(0)), draw(rows, modes)
    weights, before = draw(rows, modes, seed=1), plain(device)
    exact = before(x.double(), theta.double()) if modes < 1024 else before(x, theta)
    with torch.no_grad():
        line = ratio(lambda: before(x, theta), lambda: device.transfer(x, theta), seconds)
    report(f"{name} forward", line, error(device.transfer(x, theta), exact))
    if modes * rows > 2**19:
        return  # the plain path keeps the fields behind all columns
    found = gradients(device.transfer, x, theta, weights)[1]
    exact = gradients(before, x.double(), theta.double(), weights.double())[1]
    line = ratio(
        lambda: gradients(before, x, theta, weights), lambda: gradients(device.transfer, x, theta, weights), seconds
    )
    report(f"{name} forward and gradient", line, error(found, exact))


def settings(name: str, device: bp.Simulator, rows: int, seconds: float) -> None:
    x = draw(rows, *device.in_shape)
    queries = [bp.Query(x, theta, bp.Purpose.PARAMETER) for theta in draw(16, device.theta.size)]
    line = ratio(lambda: [device.measure([q]) for q in queries], lambda: device.measure(queries), seconds)
    report(f"{name}, 16 settings one by one", line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["64/8", "256/128", "256/1024", "1024/8", "1024/1024"])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["mzi"])
    parser.add_argument("--seconds", type=float, default=3.0, help="for each line")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'':40}{'plain, ms':>10}{'ours, ms':>10}{'ratio':>8}{'error':>10}")
    for kind in args.kinds:
        for modes, rows in (map(int, size.split("/")) for size in args.sizes):
            passes(f"{kind} {modes}/{rows}", KINDS[kind](modes, modes), rows, args.seconds)
        for modes, rows in ((16, 8), (64, 8), (64, 64), (256, 128)):
            settings(f"{kind} {modes}/{rows}", KINDS[kind](modes, modes), rows, args.seconds)


def report(name: str, line: tuple[float, float, float], wrong: float | None = None) -> None:
    slow, fast, times = line
    error = "" if wrong is None else f"{wrong:10.1e}"
    print(f"{name:40}{1e3 * slow:10.3f}{1e3 * fast:10.3f}{times:8.2f}{error}", flush=True)


if __name__ == "__main__":
    main()
