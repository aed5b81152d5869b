"""How well chips as built are calibrated: residuals and cosines at fresh settings, for what they cost.

    python benchmarks/as_built/chips.py                        # every case, some hours on one core
    python benchmarks/as_built/chips.py --sizes 16 --seeds 1
    python benchmarks/as_built/chips.py --sizes 32 --designs rectangular3 triangular --readouts power balanced

Phase offsets anywhere, splitters that err by 0.05 rad, 1 % read noise. Rectangular meshes whose fields are read take
the programmings of `--cases`; other designs and readouts take one pass of 2N rows, powers of 1.5N, two passes where
less than half of the outputs are wired. The residual and the cosines
of both gradients are those of the model against the chip itself, without noise, at settings drawn anew over the whole
circle; the loss is quadratic.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import replace

import torch

import blackprop as bp
from blackprop.core import run
from blackprop.core._metered import metered
from blackprop.devices import Chip, Noisy, chips
from blackprop.twins import CalibratedChip, Precision

NOISE = 0.01
DESIGNS = {
    "rectangular": chips.Rectangular(),
    "rectangular3": chips.Rectangular(3),
    "triangular": chips.Triangular(),
    "triangular3": chips.Triangular(3),
    "butterfly": chips.Butterfly(),
    "butterfly3": chips.Butterfly(3),
}
READOUTS = {"field": chips.Field(), "power": chips.Power(), "balanced": chips.Balanced()}
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


def calibrated(chip: Chip, precision: Precision | None, seed: int) -> tuple[CalibratedChip, bp.Ledger, float]:
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


def runs(options: argparse.Namespace) -> Iterator[tuple[str, Chip, Precision | None, int]]:
    """The name, chip, precision and seed of each run."""
    for modes, design, readout in itertools.product(options.sizes, options.designs, options.readouts):
        outputs = options.outputs or modes // READOUTS[readout].ports_each
        closed = design == "rectangular" and readout == "field" and 2 * outputs >= modes
        named = cases(modes, outputs) if closed else {"one pass": None}
        if not closed and 2 * outputs * READOUTS[readout].ports_each < modes:
            named = {"two passes": Precision(rows=2 * modes, repeats=2)}
        for name, seed in itertools.product(options.cases if closed else named, range(options.seeds)):
            chip = Chip(DESIGNS[design], modes, outputs, modes=modes, seed=seed, readout=READOUTS[readout])
            yield f"{design}, {readout} | {modes} | {outputs} | {name}", chip, named[name], seed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--outputs", type=int, help="outputs that are wired, all by default")
    parser.add_argument("--cases", nargs="+", default=["2N + 19", "5N", "12N"])
    parser.add_argument("--designs", nargs="+", default=list(DESIGNS), choices=DESIGNS)
    parser.add_argument("--readouts", nargs="+", default=list(READOUTS), choices=READOUTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(
        "| chip | N | outputs | allowed | seed | programmings | rows | residual | cosine θ | cosine x | held out "
        "| CPU s |"
    )
    print("| --- " * 12 + "|")
    for name, chip, precision, seed in runs(options):
        surrogate, ledger, seconds = calibrated(chip, precision, seed)
        residual, by_theta, by_x = compared(chip, surrogate)
        print(
            f"| {name} | {seed} | {ledger.total_programmings} | {ledger.total_rows:,} | {residual:.4f} | "
            f"{by_theta:.5f} | {by_x:.5f} | {float(surrogate.held_out):.4f} | {seconds:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
