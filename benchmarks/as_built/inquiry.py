"""How often an inquiry names the family of a device: drawn devices of every family, and devices built to deceive it.

    python benchmarks/as_built/inquiry.py --devices 400

Each device has a size of 2 to 64 inputs and outputs, read noise of 0 to 5 %, an output scale and an input scale of 1e-3
to 1e3, in a quarter of the cases unsigned inputs, and in half of the cases the hidden errors of `devices.as_built`. It
declares a period or limits, and no more. *Right*: the family is the true one. *Sure and wrong* is the failure that
matters: a family that is not sure is checked again by the method that is chosen for it.

A device whose leaks vary in size (wires of a crossbar, a common gain) counts as one of elements below 1 % of the
changes, above 5 % as one without, and between them as either.
The table counts; `--show` lists each device that was not told rightly.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

import blackprop as bp
from blackprop import devices
from blackprop.core import metered
from blackprop.devices import Declared, Noisy, chips
from blackprop.planning import AskFirst, Family, InquiryResult

FROZEN = [each for each in bp.planning.CANDIDATES if each.name == "frozen"]  # the inquiry alone
SMALL_LEAK, LARGE_LEAK = 0.01, 0.05
PERIOD = 2 * math.pi
Shape = tuple[int, int]


@dataclass(frozen=True)
class Case:
    """A drawn device: the kind, the families that are right, and the device."""

    kind: str
    right: tuple[Family, ...]
    device: bp.Device
    amplitude: float
    about: str


def cosines(shape: Shape, matrix: Callable[[Tensor], Tensor], bend: Callable[[Tensor], Tensor] | None = None):
    """A device whose matrix is a function of the cosines (d_out, d_in) of its parameters; its outputs may be bent."""
    d_in, d_out = shape

    def transfer(x: Tensor, theta: Tensor) -> Tensor:
        y = x @ matrix(theta.cos().view(d_out, d_in)).mT / math.sqrt(d_in)
        return y if bend is None else bend(y)

    return devices.from_callable(
        transfer,
        in_shape=d_in,
        out_shape=d_out,
        theta_size=d_in * d_out,
        period=PERIOD,
        initial=lambda g: PERIOD * torch.rand(d_in * d_out, generator=g),
    )


def curved(shape: Shape, g: torch.Generator) -> bp.Device:
    """A modulator whose pixels turn with the square of a voltage."""
    d_in, d_out = shape
    gain = 0.8 + 0.4 * torch.rand(d_out, d_in, generator=g)

    def transfer(x: Tensor, volts: Tensor) -> Tensor:
        return x @ (gain * volts.view(d_out, d_in).square()).cos().mT / math.sqrt(d_in)

    size = d_in * d_out
    start = lambda generator: 2.5 * torch.rand(size, generator=generator)  # noqa: E731
    return devices.from_callable(
        transfer, in_shape=d_in, out_shape=d_out, theta_size=size, low=0.0, high=2.5, initial=start
    )


def unitary(size: int, g: torch.Generator) -> Tensor:
    return torch.linalg.qr(torch.randn(size, size, generator=g))[0]


def mixed_rows(shape: Shape, g: torch.Generator) -> bp.Device:
    Q = unitary(shape[0], g)
    return cosines(shape, lambda c: c @ Q)


def coupled_row(shape: Shape, g: torch.Generator) -> bp.Device:
    """Elements, but for one output whose parameters move all of its elements."""
    row, Q = int(torch.randint(shape[1], (), generator=g)), unitary(shape[0], g)

    def matrix(c: Tensor) -> Tensor:
        one = torch.arange(len(c)) == row
        return torch.where(one[:, None], c @ Q, c)

    return cosines(shape, matrix)


def heated(shape: Shape, g: torch.Generator) -> bp.Device:
    """Elements whose common gain falls with the mean of all parameters."""
    del g
    return cosines(shape, lambda c: c * (1 + c.mean()))


def saturated(shape: Shape, amplitude: float, part: float) -> bp.Device:
    """A modulator whose detectors lose `part` of three standard deviations of the output."""
    peak = 3 * amplitude / math.sqrt(2)
    level = peak / math.sqrt(3 * part)  # tanh(u)/u = 1 − u²/3
    return cosines(shape, lambda c: c, lambda y: level * (y / level).tanh())


def leaking_mask(shape: Shape, g: torch.Generator) -> bp.Device:
    """A phase mask whose pixels spill a third of their phase into the next."""
    d_in, d_out = shape
    R = torch.randn(d_in, d_out, dtype=torch.complex64, generator=g) / math.sqrt(2 * d_in)

    def transfer(x: Tensor, theta: Tensor) -> Tensor:
        return ((x * torch.polar(torch.ones_like(theta), theta + theta.roll(1) / 3)) @ R).abs().square()

    start = lambda generator: PERIOD * torch.rand(d_in, generator=generator)  # noqa: E731
    return devices.from_callable(
        transfer, in_shape=d_in, out_shape=d_out, theta_size=d_in, period=PERIOD, initial=start
    )


def tanh_network(shape: Shape, amplitude: float, g: torch.Generator) -> bp.Device:
    d_in, d_out = shape
    mix = unitary(d_in, g) / amplitude

    def transfer(x: Tensor, theta: Tensor) -> Tensor:
        return (2 * x @ mix).tanh() @ theta.cos().view(d_out, d_in).mT

    return devices.from_callable(transfer, in_shape=d_in, out_shape=d_out, theta_size=d_in * d_out, period=PERIOD)


def spilt(device: bp.Device) -> float:
    """The root mean square of the changes of elements whose parameters stay, relative to those that move."""
    spec, g = device.declaration, torch.Generator().manual_seed(0)
    unit, squares = torch.eye(spec.d_in), torch.zeros(2)
    for _ in range(8):
        theta = spec.theta.draw(g)
        move = torch.rand(spec.theta.size, generator=g) < 0.5
        low, high = spec.theta.range_around(theta)
        quarter = torch.where(high - theta > theta - low, (high - low) / 4, (low - high) / 4)
        far = theta + (quarter if spec.theta.limited or spec.theta.period is None else spec.theta.period / 4)
        matrices = []
        for setting in (theta, torch.where(move, far, theta)):
            device.program(setting)
            matrices.append(device.read(unit).mT.flatten())
        change = (matrices[1] - matrices[0]).square()
        squares += torch.stack((change[~move].mean(), change[move].mean()))
    return float((squares[0] / squares[1]).sqrt())


def by_leak(device: bp.Device) -> tuple[bp.Device, tuple[Family, ...]]:
    """The device, and the families that are right for its leaks."""
    leak = spilt(device)
    right = (Family.ELEMENT,) if leak < LARGE_LEAK else ()
    return device, right + ((Family.LINEAR, Family.ROW) if leak > SMALL_LEAK else ())


def crossbar(shape: Shape, g: torch.Generator) -> tuple[bp.Device, tuple[Family, ...]]:
    """A crossbar with wires of a resistance that is drawn."""
    return by_leak(devices.Crossbar(*shape, line=10 ** float(torch.empty(()).uniform_(-1, 3, generator=g))))


ELEMENT, ROW, LINEAR, MASK, BLOCKS, POWER, OTHER = (
    Family[name] for name in ("ELEMENT", "ROW", "LINEAR", "MASK", "BLOCKS", "POWER", "OTHER")
)
# What each draws: the device and its right families, from a shape, an amplitude of the rows and a generator.
Draw = Callable[[Shape, float, torch.Generator], tuple[bp.Device, tuple[Family, ...]]]
KINDS: dict[str, Draw] = {
    "modulator": lambda s, a, g: (devices.LightModulator(*s), (ELEMENT,)),
    "modulator with a phase curve": lambda s, a, g: (curved(s, g), (ELEMENT,)),
    "ring bank": lambda s, a, g: (devices.Microring(*s), (ELEMENT,)),
    "phase-change crossbar": lambda s, a, g: (
        devices.Memristive(devices.Crossbar(*s, memristor=devices.PCM), seed=1, clock=lambda: 0.0),
        (ELEMENT,),
    ),
    "row": lambda s, a, g: (mixed_rows(s, g), (ROW,)),
    "pairs of conductances": lambda s, a, g: (devices.ConductanceArray(*s), (ROW,)),
    "crossbar with wires": lambda s, a, g: crossbar(s, g),
    "Mach-Zehnder mesh": lambda s, a, g: (devices.MZIMesh(*s), (Family.MESH, LINEAR)),
    "three-splitter mesh": lambda s, a, g: (devices.ThreeSplitterMesh(*s), (LINEAR,)),
    "triangular chip": lambda s, a, g: (devices.Chip(chips.Triangular(), *s, seed=1), (LINEAR,)),
    "butterfly chip": lambda s, a, g: (devices.Chip(chips.Butterfly(), *s, seed=1), (LINEAR,)),
    "low rank": lambda s, a, g: (devices.LowRank(*s, rank=min(4, *s)), (LINEAR,)),
    "Monarch": lambda s, a, g: (devices.Monarch(*s), (LINEAR,)),
    "phase mask": lambda s, a, g: (devices.ScatteringMedium(*s, seed=1), (MASK,)),
    "chip read as power": lambda s, a, g: (
        devices.Chip(chips.Rectangular(), *s, readout=chips.Power()),
        (POWER, OTHER),
    ),
    "tanh network": lambda s, a, g: (tanh_network(s, a, g), (BLOCKS,)),
}
DECEIVERS: dict[str, Draw] = {
    "leaks of 10 % to the next row": lambda s, a, g: (cosines(s, lambda c: c + 0.1 * c.roll(1, 0)), (LINEAR,)),
    "leaks of 10 % in the row": lambda s, a, g: (cosines(s, lambda c: c + 0.1 * c.roll(1, 1)), (ROW,)),
    "one row coupled": lambda s, a, g: (coupled_row(s, g), (ROW,)),
    "common gain": lambda s, a, g: by_leak(heated(s, g)),
    "saturation of 10 %": lambda s, a, g: (saturated(s, a, 0.10), (BLOCKS,)),
    "saturation of 20 %": lambda s, a, g: (saturated(s, a, 0.20), (BLOCKS,)),
    "phase mask that leaks": lambda s, a, g: (leaking_mask(s, g), (OTHER,)),
}
BUILT = {"modulator", "ring bank", "Mach-Zehnder mesh", "three-splitter mesh", "low rank", "Monarch"}
HIDDEN = {"modulator", "modulator with a phase curve", "ring bank", "phase-change crossbar"}


def drawn(kind: str, number: int) -> Case:
    """Draw a device of this kind."""
    g = torch.Generator().manual_seed(1000 + number)

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=g))

    least = 8 if kind in ("low rank", "Monarch") else 34 if kind == "phase mask" else 3 if kind in DECEIVERS else 2
    shape = (round(2 ** uniform(math.log2(least), 6)), round(2 ** uniform(math.log2(least), 6)))
    amplitude, scale = 10 ** uniform(-3, 3), 10 ** uniform(-3, 3)
    device, right = {**KINDS, **DECEIVERS}[kind](shape, amplitude, g)
    about = [f"{shape[0]} -> {shape[1]}"]
    if kind in BUILT and uniform(0, 1) < 0.5:
        unsigned, camera = uniform(0, 1) < 0.25, uniform(0, 1) < 0.25 and kind in HIDDEN
        amplitude = 1.0 if camera else amplitude  # behind a camera, rows of training are brighter than its dark level
        device = devices.as_built(device, seed=number, unsigned=unsigned, camera=camera, scale=scale)
        about += ["as built"] + ["unsigned"] * unsigned + ["camera"] * camera
    noise = max(0.0, uniform(-0.01, 0.05))
    device = Noisy(device, read=noise, seed=number) if noise else device
    hidden = kind in HIDDEN and uniform(0, 1) < 0.5
    order = torch.randperm(device.theta.size, generator=g) if hidden else None
    device = Declared(device, period=device.theta.period, order=order)
    device.capabilities = ()
    about += ["hidden"] * hidden + [f"{noise:.1%} noise"]
    return Case(kind, right, device, amplitude, ", ".join(about))


def told(case: Case) -> tuple[InquiryResult, bp.Ledger]:
    spec = case.device.declaration
    surrogate, ledger = AskFirst(FROZEN), bp.Ledger()
    surrogate.bind(spec)
    surrogate.input_rms = case.amplitude * math.sqrt(spec.d_in)
    g = torch.Generator().manual_seed(5)
    bp.run(surrogate.start(spec.theta.draw(g), g), metered(case.device, ledger))
    assert surrogate.finding is not None
    return surrogate.finding, ledger


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=400, help="how many in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", default=[*KINDS, *DECEIVERS])
    parser.add_argument("--show", action="store_true", help="list those that were not told rightly")
    given = parser.parse_args()
    torch.set_num_threads(1)
    counts: dict[str, list[tuple[bool, bool, int, int]]] = defaultdict(list)
    for number in range(given.devices):
        case = drawn(given.kinds[number % len(given.kinds)], number + 100_000 * given.seed)
        found, ledger = told(case)
        right = found.family in case.right
        counts[case.kind].append((right, found.sure, ledger.total_programmings, ledger.total_rows))
        if given.show and not right:
            print(f"{number}: {case.kind}, {case.about}: {found}", flush=True)
    print("| devices | drawn | right | sure | sure and wrong | programmings | rows |")
    print("| --- " * 7 + "|")
    groups = {**counts, "all": [each for some in counts.values() for each in some]}
    groups["all that deceive"] = [each for kind in DECEIVERS for each in counts.get(kind, [])]
    for kind, some in groups.items():
        if some:
            right, sure, programmings, rows = (list(column) for column in zip(*some, strict=True))
            wrong = sum(s and not r for r, s in zip(right, sure, strict=True))
            print(
                f"| {kind} | {len(some)} | {sum(right) / len(some):.1%} | {sum(sure) / len(some):.0%} | {wrong} | "
                f"{median(programmings):g} | {median(rows):,g} |"
            )


if __name__ == "__main__":
    main()
