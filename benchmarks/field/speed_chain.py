"""How much faster a chain and a rollout answer a batch than row by row.

python benchmarks/field/speed_chain.py
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from lorenz import Missing, step

import blackprop as bp
from blackprop.devices import Chain, Rollout


def seconds(call: Callable[[], object], repeats: int) -> float:
    call()
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    meshes = [bp.devices.ThreeSplitterMesh(16, 16) for _ in range(3)]
    devices = (
        Chain(meshes[0], torch.tanh, meshes[1], torch.tanh, meshes[2]),
        Rollout(step, Missing(), state=3, steps=10),
    )
    for device in devices:
        device.program(device.theta.draw(torch.Generator().manual_seed(0)))
        x = torch.randn(args.rows, *device.in_shape, generator=torch.Generator().manual_seed(1))
        together = seconds(lambda: device.read(x), args.repeats)  # noqa: B023
        alone = seconds(lambda: [device.read(row[None]) for row in x], 1)  # noqa: B023
        name = type(device).__name__
        print(f"{name:8} {args.rows} rows together {together:.2e} s, one by one {alone:.2e} s: {alone / together:.0f}×")


if __name__ == "__main__":
    main()
