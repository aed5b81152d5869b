"""Evaluations at a setting that is held, beside a product with a matrix of the same size, for each linear simulator.

    python benchmarks/held.py

`measure` of B rows for `Purpose.EVALUATE`, again and again at one setting, over `x @ A.mT`. One process, one thread,
the two in turn; medians, and the median of the ratios.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch

import blackprop as bp
from blackprop.devices import chips
from speed import draw, ratio

DEVICES: dict[str, Callable[[int], bp.Simulator]] = {
    "matrix": lambda d: bp.devices.Matrix(d, d),
    "low rank": lambda d: bp.devices.LowRank(d, d),
    "light modulator": lambda d: bp.devices.LightModulator(d, d),
    "microring": lambda d: bp.devices.Microring(d, d),
    "microring, imperfect": lambda d: bp.devices.ImperfectMicroring(d, d),
    "crossbar": lambda d: bp.devices.Crossbar(d, d),
    "scattering hologram": lambda d: bp.devices.ScatteringMedium(d, d, linear=True),
    "monarch": lambda d: bp.devices.Monarch(d, d),
    "mirrored diffraction": lambda d: bp.devices.MirroredDiffraction(d, d),
    "mesh": lambda d: bp.devices.MZIMesh(d, d),
    "mesh, imperfect": lambda d: bp.devices.ImperfectMZIMesh(d, d),
    "tapped mesh": lambda d: bp.devices.TappedMesh(bp.devices.MZIMesh(d, d), loss=0.1),
    "chip": lambda d: bp.devices.Chip(chips.Rectangular(), d, d),
    "coupled modes": lambda d: bp.devices.CoupledModes(d, d),
    "as built: light modulator": lambda d: bp.devices.as_built(bp.devices.LightModulator(d, d)),
    "as built: mesh": lambda d: bp.devices.as_built(bp.devices.MZIMesh(d, d)),
}
LARGE = {"coupled modes", "tapped mesh", "chip", "as built: mesh"}  # whose matrix takes long to make, if once


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=int, default=[256, 1024])
    parser.add_argument("--batches", nargs="+", type=int, default=[128, 1024])
    parser.add_argument("--seconds", type=float, default=1.0, help="for each line")
    parser.add_argument("--devices", nargs="+", choices=DEVICES, default=list(DEVICES))
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'':30}{'d':>6}{'rows':>7}{'ours, ms':>10}{'product':>10}{'ratio':>8}")
    for d in args.sizes:
        for name in args.devices:
            if d > 256 and name in LARGE:
                continue
            device = DEVICES[name](d)
            theta, matrix = device.theta.draw(torch.Generator().manual_seed(0)), draw(d, d)
            for batch in args.batches:
                query = bp.Query(draw(batch, d), theta, bp.Purpose.EVALUATE)
                ours, product, times = ratio(
                    lambda query=query, device=device: device.measure([query]),
                    lambda query=query, matrix=matrix: query.x @ matrix.mT,
                    args.seconds,
                )
                print(f"{name:30}{d:6}{batch:7}{1e3 * ours:10.3f}{1e3 * product:10.3f}{times:8.2f}", flush=True)


if __name__ == "__main__":
    main()
