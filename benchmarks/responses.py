"""Calibrated responses of elements that differ, beside the truth: their slopes, their check, and training by them.

    python benchmarks/responses.py --quick
    python benchmarks/responses.py --only cos volts rings train budget --seeds 3
    python benchmarks/responses.py --only draws --first-seed 200 --devices 400

`cos`, `volts` and `rings` compare the delivered slopes with the true ones, at θ drawn evenly over the range; what is
withheld counts as zero in the cosine, and not in the share of right signs. `train` fits a device to a random matrix
under the plan's default, the oracle and no θ-gradient, at equal steps and rates; the loss is exact and free of noise,
relative to that of a device that reads zero. `budget` does it where only 16 settings may be measured. `draws` counts
the devices that the check passes wrongly, and its false alarms. Two cores take about 20 minutes for everything.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

import blackprop as bp
from blackprop.core import metered, run
from blackprop.errors import CalibrationWarning
from blackprop.surrogates import CalibratedResponse

TURN = 2 * math.pi
VOLTS = 5.0
SIZES = ((4, 4), (16, 8), (32, 32), (128, 128), (64, 1024))  # inputs, outputs
NOISE = (0.0, 0.01, 0.05)
KINDS = ("alike", "shifted", "cos", "rings", "rings-spread", "half", "smooth", "volts", "volts-2", "volts-rings")
LOOKED_AT = 1024  # slopes at least, of small devices at several θ
STREAMS = 5  # of noise that losses are averaged over, of devices of fewer elements than
FEW = 64
COSINE, SIGNS = 0.9, 0.9  # below which a calibration must not pass


class Elements(bp.Simulator):
    """`A_ij = R_ij(θ_ij) / √d_in` with drawn curves R_ij, of period 2π or in volts from 0 to 5.

    *alike*: cosines, all the same; *shifted*: by 0.5 rad on average; *cos*: by any phase, with 20 % spread of gain and
    an offset; *rings*: the same of `2t − 1` of a microring; *rings-spread*: microrings of any phase with 5 % spread of
    a and r; *half*: of both; *smooth*: eight random harmonics that decay; *volts*: *cos* of a phase `kV²` of one
    period, with 10 % spread of k, *volts-2* of two, and *volts-rings* rings of one.
    """

    stacks = True

    def __init__(self, shape: tuple[int, int], kind: str, seed: int) -> None:
        d_in, d_out = shape
        size, generator = d_in * d_out, torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, size, generator=generator)

        def spread(mean: float) -> Tensor:
            return (mean * (1 + 0.05 * normal())).clamp(0.01, 0.99)

        volts = kind.startswith("volts")
        top = VOLTS if volts else TURN
        theta = bp.ThetaSpec(
            size,
            lambda g: top * torch.rand(size, generator=g),
            period=None if volts else TURN,
            low=0.0 if volts else None,
            high=VOLTS if volts else None,
        )
        super().__init__(d_in, d_out, theta, linear=True, coupling=bp.Coupling.ELEMENT)
        self.shape, self.top = kind, top
        self.phase = {"alike": 0 * normal(), "shifted": 0.5 * normal()}.get(
            kind, TURN * torch.rand(size, generator=generator)
        )
        plain = kind in ("alike", "shifted", "rings-spread")
        self.gain, self.offset = (1.0, 0.0) if plain else (1 + 0.2 * normal(), 0.1 * normal())
        self.per_volt = (0.5 if kind == "volts-2" else 0.25) * (1 + 0.1 * normal())
        self.a, self.r = (spread(0.8), spread(0.9)) if kind == "rings-spread" else (0.8, 0.9)
        decay = torch.exp(-torch.arange(8) / 2.5)[:, None]
        self.series = torch.stack((normal(8), normal(8))) * decay
        self.half = torch.arange(size) % 2 == 0

    def transfer(self, x: Tensor, theta: Tensor, /) -> Tensor:
        matrix = self.curve(theta).unflatten(-1, (*self.out_shape, *self.in_shape))
        return x @ matrix.mT / math.sqrt(self.in_shape[0])

    def curve(self, theta: Tensor) -> Tensor:
        """R (*, P) of theta (*, P)."""
        if self.shape == "smooth":
            angle = theta[..., None, :] * torch.arange(1, 9)[:, None]
            return (self.series[0] * angle.cos() + self.series[1] * angle.sin()).sum(-2)
        phase = self.per_volt * theta.square() if self.shape.startswith("volts") else theta
        phase = phase + self.phase
        if self.shape == "half":
            shape = torch.where(self.half, phase.cos(), self._ring(phase))
        else:
            shape = self._ring(phase) if "rings" in self.shape else phase.cos()
        return self.gain * shape + self.offset

    def _ring(self, phase: Tensor) -> Tensor:
        a, r = self.a, self.r
        beat = 4 * r * a * (phase / 2).sin().square()
        return 2 * (((a - r) ** 2 + beat) / ((1 - r * a) ** 2 + beat)).clamp_min(1e-12).sqrt() - 1


class Slopes:
    """Delivered slopes beside the true ones, at θ drawn evenly."""

    def __init__(self, device: Elements, noise: float, settings: int | None, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.surrogate = surrogate = CalibratedResponse(settings)
        real = bp.devices.Noisy(device, read=noise, seed=seed) if noise else device
        surrogate.bind(real.declaration)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CalibrationWarning)
            run(surrogate.start(device.theta.draw(generator), generator), metered(real, bp.Ledger()))
        found, true = [], []
        for _ in range(max(1, LOOKED_AT // device.theta.size)):
            theta = (device.top * torch.rand(device.theta.size, generator=generator)).requires_grad_()
            (slope,) = torch.autograd.grad(device.curve(theta).sum(), theta)
            true.append(slope)
            surrogate._stand_at(theta.detach())
            found.append(surrogate.slope.flatten())
        self.found, self.true = torch.cat(found), torch.cat(true)

    @property
    def cosine(self) -> float:
        return float(torch.cosine_similarity(self.found, self.true, 0))

    @property
    def signs(self) -> float:
        """Of the slopes that are delivered, the share that has the right sign."""
        given = self.found != 0
        return float((self.found.sign() == self.true.sign())[given].double().mean()) if bool(given.any()) else 1.0

    @property
    def given(self) -> float:
        return float((self.found != 0).double().mean())

    @property
    def passed(self) -> bool:
        return self.surrogate.verdict.trusted

    @property
    def good(self) -> bool:
        return self.cosine >= COSINE and self.signs >= SIGNS

    def __str__(self) -> str:
        told = self.surrogate.diagnosis()
        return (
            f"K {told['check_settings']:.0f}: cosine {self.cosine:.4f} (told {told['check_cosine']:.3f}), "
            f"signs {self.signs:.3f} (told {told['check_signs']:.3f}), given {self.given:.2f}"
            f"{'' if self.passed else ', warned'}"
        )


def slopes(kinds: tuple[str, ...], settings: int | None, options: argparse.Namespace) -> None:
    """Cosine and signs of each kind, size and noise; the worst of the seeds."""
    for kind in kinds:
        for size in options.sizes:
            for noise in options.noise:
                runs = [Slopes(Elements(size, kind, seed), noise, settings, seed) for seed in options.seeds]
                worst = min(runs, key=lambda each: each.cosine)
                print(f"{kind:12s} {size[0]:4d}x{size[1]:<4d} noise {noise:.2f}  {worst}", flush=True)


def draws(options: argparse.Namespace) -> None:
    """Devices of every kind, size, noise and number of settings: what the check says, and what is so."""
    wrong = false = alarms = 0
    seeds = range(options.first_seed, options.first_seed + options.devices)
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)

        def pick(of: tuple[Any, ...], generator: torch.Generator = generator) -> Any:
            return of[int(torch.randint(len(of), (), generator=generator))]

        kind, size = pick(KINDS), pick(((2, 2), (4, 4), (8, 8), (16, 8), (30, 20), (32, 32)))
        noise, settings = pick((0.0, 0.0, 0.01, 0.05)), pick((8, 16, 24, None, None, None))
        each = Slopes(Elements(size, kind, seed), noise, settings, seed)
        wrong += each.passed and not each.good
        false += not each.passed and each.good
        alarms += not each.passed
        if each.passed != each.good or options.all:
            print(f"{seed} {kind} {size[0]}x{size[1]} noise {noise:.2f} settings {settings}  {each}", flush=True)
    print(f"of {len(seeds)} devices {alarms} alarms, of these {false} false; {wrong} wrongly passed")


def trained(
    device: Elements,
    method: tuple[Any, Any] | None,
    noise: float,
    steps: int,
    seed: int,
    budget: bp.Budget | None,
    stream: int = 0,
) -> tuple[float, float, int]:
    """The final loss `|A − T|² / |T|²` of fitting a device to a random matrix T, rows drawn anew every step; with the
    share of the warnings, and the settings that were measured.
    """
    real = bp.devices.Noisy(device, read=noise, scale=0.7, seed=seed + 1000 * stream) if noise else device
    generator, rate = torch.Generator().manual_seed(seed), 0.03 * device.top / TURN
    d_in, d_out = device.in_shape[0], device.out_shape[0]
    more: dict[str, Any] = {"budget": budget} if budget else {}
    layer = bp.PhysicalLayer(real, *(method or ()), generator=torch.Generator().manual_seed(seed), **more)
    target = 0.4 * torch.randn(d_out, d_in, generator=generator) / math.sqrt(d_in)
    with torch.no_grad():
        layer.theta.copy_(device.theta.draw(generator))
    optimizer = torch.optim.Adam([layer.theta], lr=rate)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(steps):
            x = torch.randn(64, d_in, generator=generator)
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(layer(x), x @ target.mT).backward()
            optimizer.step()
            if budget:  # of the calibration alone
                budget.limits["rows"] = None
    warned = any(issubclass(each.category, CalibrationWarning) for each in said)
    A = device.curve(layer.theta.detach()).view(d_out, d_in) / math.sqrt(d_in)
    programmed = layer.ledger.programmings[bp.Purpose.CALIBRATE]
    return float((A - target).square().sum() / target.square().sum()), float(warned), programmed


def frozen(device: Elements, seed: int) -> float:
    """The loss of θ as it was drawn."""
    return trained(device, None, 0.0, 0, seed, None)[0]


def train(
    cases: tuple[tuple[str, int | None], ...], options: argparse.Namespace, rows: Callable[[int], int] | None = None
) -> None:
    """The default, or `settings` settings, beside the oracle and frozen: the mean loss over the seeds."""
    for kind, settings in cases:
        for size in options.sizes:
            for noise in options.noise:
                steps, ours, best, still, warned, measured = options.steps, [], [], [], [], []
                streams = STREAMS if noise and size[0] * size[1] < FEW else 1
                for seed in options.seeds:
                    device, losses, oracles = Elements(size, kind, seed), [], []
                    for stream in range(streams):
                        curves = CalibratedResponse(settings)
                        method = (bp.estimators.FromSurrogate(curves), curves) if settings else None
                        budget = bp.Budget(rows=rows(size[0]) + 64) if rows else None
                        loss, said, count = trained(device, method, noise, steps, seed, budget, stream)
                        losses.append(loss)
                        warned.append(said)
                        measured.append(count)
                        oracles.append(trained(device, bp.presets.oracle(), noise, steps, seed, None, stream)[0])
                    ours.append(statistics.fmean(losses))
                    best.append(statistics.fmean(oracles))
                    still.append(frozen(device, seed))
                means = [statistics.fmean(each) for each in (ours, best, still)]
                print(
                    f"train {kind:12s} {size[0]:4d}x{size[1]:<4d} noise {noise:.2f}  loss {means[0]:.5f}, "
                    f"oracle {means[1]:.5f}, frozen {means[2]:.3f}: ratio {means[0] / means[1]:.3f} "
                    f"(seeds {' '.join(f'{a / b:.2f}' for a, b in zip(ours, best, strict=True))}), "
                    f"settings {max(measured)}, warned {statistics.fmean(warned):.2f}",
                    flush=True,
                )


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "cos": lambda options: slopes(("cos",), 16, options),
    "volts": lambda options: slopes(("volts", "volts-2"), 16, options),
    "rings": lambda options: slopes(("rings", "rings-spread"), None, options),
    "train": lambda options: train(
        (("cos", 16), ("volts", 16), ("volts-2", 16), ("rings", None), ("rings-spread", None)), options
    ),
    "budget": lambda options: train((("rings", None), ("rings-spread", None)), options, lambda d_in: 17 * d_in),
    "draws": draws,
}


def sizes(words: list[str]) -> Iterator[tuple[int, int]]:
    for word in words:
        d_in, _, d_out = word.partition("x")
        yield int(d_in), int(d_out)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--quick", action="store_true", help="one seed, small devices, in under a minute")
    parser.add_argument("--sizes", nargs="+", default=["x".join(map(str, size)) for size in SIZES], help="d_in x d_out")
    parser.add_argument("--noise", nargs="+", type=float, default=NOISE, help="of a reading, relative")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--devices", type=int, default=400, help="that `draws` draws, from --first-seed on")
    parser.add_argument("--steps", type=int, default=200, help="of training")
    parser.add_argument("--all", action="store_true", help="print every drawn device, and not only what is wrong")
    options = parser.parse_args()
    if options.quick:
        options.sizes, options.noise, options.seeds, options.devices = ["4x4", "16x8"], [0.0, 0.05], 1, 20
    options.sizes = list(sizes(options.sizes))
    options.seeds = range(options.first_seed, options.first_seed + options.seeds)
    torch.set_num_threads(1)
    for part in options.only:
        begin = time.perf_counter()
        PARTS[part](options)
        print(f"{part}: {time.perf_counter() - begin:.0f} s\n", flush=True)


if __name__ == "__main__":
    main()
