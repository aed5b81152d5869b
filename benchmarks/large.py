"""The first step of a layer on a large device, with its calibration: time, time within the device, and peak memory.

    python benchmarks/large.py
    python benchmarks/large.py --sizes 4096 --built

Each size runs in a process of its own. The peak is that of the process, PyTorch included (about 0.4 GB).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import torch

import blackprop as bp


def step(d: int, built: bool) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    device = bp.devices.LightModulator(d, d)
    device = bp.devices.as_built(device) if built else device
    bp.PhysicalLayer(bp.devices.LightModulator(8, 8))(torch.randn(2, 8).requires_grad_())  # lazy loading, once
    within, measure = 0.0, device.measure

    def timed(queries: object) -> list[torch.Tensor]:
        nonlocal within
        began = time.perf_counter()
        readings = measure(queries)  # pyright: ignore[reportArgumentType]
        within += time.perf_counter() - began
        return readings

    device.measure = timed  # pyright: ignore[reportAttributeAccessIssue]
    layer = bp.PhysicalLayer(device)
    x = torch.randn(32, d).requires_grad_()
    began = time.perf_counter()
    layer(x).square().sum().backward()
    took = time.perf_counter() - began
    cosine = layer.surrogate.diagnosis()["check_cosine"]
    peak = next(
        float(line.split()[1])
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )
    print(f"{d:6}{d * d:12}{took:10.1f}{within:10.1f}{took - within:10.1f}{peak / 2**20:10.2f}{cosine:10.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=int, default=[1024, 2048, 4096])
    parser.add_argument("--built", action="store_true", help="elements that differ")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        step(args.one, args.built)
        return
    print(f"{'d':>6}{'P':>12}{'step, s':>10}{'device':>10}{'ours':>10}{'peak, GB':>10}{'cosine':>10}", flush=True)
    for d in args.sizes:
        command = [sys.executable, __file__, "--one", str(d), *(["--built"] if args.built else [])]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
