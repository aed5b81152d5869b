"""The active ring by itself: what it does below its threshold and above.

    python benchmarks/ring.py --plot docs/ring.svg

No input, no bias: a wave that is there at the start circulates. Without frequency shift the power above threshold is
known, `(1 + Q P)(1 + P/P_s) = g`.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor

from blackprop.devices import ActiveRing
from blackprop.experiments.report._look import INK, page

NODES = 100
PORTRAITS = (0.9, 1.3, 2.0)  # gains
GAINS = tuple(0.1 * i for i in range(31))
SHIFT = -2 * math.pi * 1e6  # rad/s: a weak one turns slowly enough to be followed


def wave(gain: float, turns: int, shift: float = SHIFT, start: complex = 0.02, phase: float = 0.0) -> Tensor:
    """The envelope c at every node of so many turns around the loop."""
    ring = ActiveRing(1, nodes=NODES, shift=shift, gain=gain, bias=0.0, initial=start, phase=phase)
    theta = ring.theta.draw(torch.Generator().manual_seed(0)).double()
    x = torch.zeros(1, 1, 1, dtype=torch.float64)
    state, seen = ring.rest(x, theta), []
    with torch.no_grad():
        for _ in range(turns):
            _, state = ring.evolve(x, theta, state)
            seen.append(state[0, 1:])
    return torch.cat(seen)


def power(gain: float, shift: float) -> float:
    """The mean of |c|² once the wave has settled."""
    return float(wave(gain, 400, shift)[-20 * NODES :].abs().square().mean())


def law(gain: float) -> float:
    """The power of a ring with Q = P_s = 1 and no shift."""
    return max(0.0, math.sqrt(gain) - 1)


def draw(file: Path, powers: dict[str, list[float]]) -> None:
    with page(file, (9, 3.4)) as figure:
        left, right = figure.subplots(1, 2)
        for gain, color in zip(PORTRAITS, ("#009e73", "#0072b2", "#d55e00"), strict=True):
            c = wave(gain, 60, start=0.3, phase=0.5)
            left.plot(c.real, c.imag, color=color, linewidth=0.9, label=f"g = {gain:g}")
        left.set_aspect("equal")
        left.set_xlabel("Re c")
        left.set_ylabel("Im c")
        left.set_title("phase portrait", loc="left", fontweight="bold", fontsize=10)
        left.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
        right.plot(GAINS, [law(gain) for gain in GAINS], color=INK, linewidth=1, label="law, no shift")
        for (label, found), marker in zip(powers.items(), "o^", strict=True):
            right.plot(GAINS, found, marker=marker, markersize=4, linestyle="", label=label)
        right.axvline(1, color=INK, linewidth=1, linestyle=(0, (1, 2)))
        right.set_xlabel("gain, in thresholds")
        right.set_ylabel("power |c|², in units of saturation")
        right.set_title("threshold", loc="left", fontweight="bold", fontsize=10)
        right.legend(frameon=False, fontsize=8)
        for ax in (left, right):
            ax.spines[["top", "right"]].set_visible(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plot", type=Path, help="draw it, as .svg, .png or .pdf")
    plot: Path | None = parser.parse_args().plot
    torch.set_num_threads(1)
    powers = {"no shift": [power(g, 0.0) for g in GAINS], "shift of 1 MHz": [power(g, SHIFT) for g in GAINS]}
    print("gain, power by the law, without and with a frequency shift")
    for gain, *found in zip(GAINS, *powers.values(), strict=True):
        print(f"{gain:>6.1f}{law(gain):>8.4f}" + "".join(f"{p:>8.4f}" for p in found))
    if plot:
        draw(plot, powers)


if __name__ == "__main__":
    main()
