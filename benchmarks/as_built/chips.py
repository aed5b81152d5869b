"""How well chips as built are calibrated: residuals and cosines at fresh settings, for what they cost.

    python benchmarks/as_built/chips.py                        # every case, about an hour on one core
    python benchmarks/as_built/chips.py --sizes 16 --seeds 1

Rectangular meshes, phase offsets anywhere, splitters that err by 0.05 rad, 1 % read noise. The residual and the cosines
of both gradients are those of the model against the chip itself, without noise, at settings drawn anew over the whole
circle; the loss is quadratic.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import replace

import torch

import blackprop as bp
from blackprop.core import run
from blackprop.core._metered import metered
from blackprop.devices import Chip, Noisy, chips
from blackprop.twins import CalibratedChip, Precision

NOISE = 0.01
FRESH = 32, 16  # settings and rows


def cases(modes: int, outputs: int) -> dict[str, Precision]:
    """By the programmings that each may take; twice as many where not all outputs are read."""
    factor = 1 if outputs == modes else 2
    found = {}
    for name, budget, fixed, iterations in (
        ("2N + 19", 2 * modes + 19, 0, 60),
        ("5N", 5 * modes, 64, 32),
        ("12N", 12 * modes, 96, 0),
    ):
        each = Precision(rows=1)
        while Precision(rows=1, repeats=each.repeats + 1).programmings(modes, outputs) <= factor * budget:
            each = Precision(rows=1, repeats=each.repeats + 1)
        more = max(0, factor * budget - each.programmings(modes, outputs)) if iterations else 0
        rows = fixed or (150 * factor * modes - 32) // (each.programmings(modes, outputs) + more - 4)
        found[name] = replace(each, rows=rows, more=more, iterations=iterations if factor == 1 else 60)
    return found


def calibrated(chip: Chip, precision: Precision, seed: int) -> tuple[CalibratedChip, bp.Ledger, float]:
    """The surrogate, what it asked, and the seconds of the processor beside those of the simulated chip."""
    device, ledger = Noisy(chip, read=NOISE, seed=seed), bp.Ledger()
    surrogate = CalibratedChip(device, precision=precision)
    surrogate.bind(device.declaration)
    surrogate.input_rms = math.sqrt(chip.modes)
    generator = torch.Generator().manual_seed(seed)
    start = time.process_time()
    run(surrogate.start(chip.theta.draw(generator), generator), metered(device, ledger))
    return surrogate, ledger, time.process_time() - start


def compared(chip: Chip, surrogate: CalibratedChip) -> tuple[float, float, float]:
    """The relative residual at fresh settings, and the cosines of the gradients for θ and x."""
    generator = torch.Generator().manual_seed(12345)
    settings, rows = FRESH
    theta = 2 * math.pi * torch.rand(settings, chip.theta.size, generator=generator)
    x, target = (torch.randn(rows, *shape, generator=generator) for shape in (chip.in_shape, chip.out_shape))
    y, found, gradients = chip.transfer(x, theta), surrogate.model(x, theta), []
    for transfer in (chip.transfer, surrogate.model):
        at, sent = theta.clone().requires_grad_(), x.clone().requires_grad_()
        gradients.append(torch.autograd.grad(transfer(sent, at), (at, sent), y - target))
    by_theta, by_x = (
        float(torch.cosine_similarity(a.flatten(), b.flatten(), dim=0)) for a, b in zip(*gradients, strict=True)
    )
    return float((found - y).norm() / y.norm()), by_theta, by_x


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--outputs", type=int, help="outputs that are wired, all by default")
    parser.add_argument("--cases", nargs="+", default=["2N + 19", "5N", "12N"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| N | outputs | allowed | seed | programmings | rows | residual | cosine θ | cosine x | held out | CPU s |")
    print("| --- " * 11 + "|")
    for modes in options.sizes:
        for name in options.cases:
            for seed in range(options.seeds):
                chip = Chip(chips.Rectangular(), modes, options.outputs or modes, modes=modes, seed=seed)
                surrogate, ledger, seconds = calibrated(chip, cases(modes, chip.out_shape[0])[name], seed)
                residual, by_theta, by_x = compared(chip, surrogate)
                print(
                    f"| {modes} | {chip.out_shape[0]} | {name} | {seed} | {ledger.total_programmings} | "
                    f"{ledger.total_rows:,} | {residual:.4f} | {by_theta:.5f} | {by_x:.5f} | "
                    f"{float(surrogate.held_out):.4f} | {seconds:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
