"""What drift costs: accuracy with devices whose settings walk by 0.5 rad over a run, watched and not.

    python benchmarks/lab/drift.py --seeds 5 [--devices microring ...] [--networks physical ...] [--methods default ...]

The digits of `blackprop compare digits`. Every parameter walks by a random step at every programming, so that the walk
of a drift-free run's programmings has the root mean square `--walk` at its end (`--clock`: by the second, one a round).
The last evaluation is on the device where it has drifted to. Prints a Markdown table, means ± standard errors.
"""

from __future__ import annotations

import argparse
import logging
import math
import statistics
import warnings
from dataclasses import dataclass, replace
from itertools import count

import torch

from blackprop import PhysicalLayer, devices, estimators, twins
from blackprop.devices import Device
from blackprop.errors import BlackpropWarning
from blackprop.experiments import (
    Data,
    Digits,
    FrozenReference,
    Hardware,
    Imperfections,
    OracleReference,
    Paper,
    Row,
    TrainingMethod,
    Trial,
)
from blackprop.experiments.engine._bill import Bill
from blackprop.experiments.engine._callbacks import Callbacks
from blackprop.experiments.engine._training import Training
from blackprop.experiments.tasks._networks import DigitNetwork
from blackprop.surrogates import CalibratedResponse, Twin

HARDWARE = ("light-modulator", "microring", "mzi-mesh", "three-splitter-mesh")


@dataclass(frozen=True)
class Watched(TrainingMethod):
    """Calibrated curves (`default`) or a `twin`, with the monitor or without."""

    name: str = "default"
    watch: float | None = 3.0
    share: float = 0.25

    def layer(self, device: Device, generator: torch.Generator) -> PhysicalLayer:
        surrogate = self._surrogate(device)
        return PhysicalLayer(device, estimators.FromSurrogate(surrogate), surrogate, generator=generator)

    def _surrogate(self, device: Device) -> CalibratedResponse | Twin:
        while isinstance(device, devices.Wrapper):
            device = device.device
        if self.name == "default":
            return CalibratedResponse(watch=self.watch, share=self.share)
        if isinstance(device, (devices.MZIMesh, devices.ThreeSplitterMesh)):
            return Twin(twins.MeshTwin(device), watch=self.watch, share=self.share)
        kind = twins.MicroringTwin if isinstance(device, devices.Microring) else twins.LightModulatorTwin
        return Twin(kind(device), settings=64, rows=40, lr=0.05, watch=self.watch, share=self.share)


@dataclass(frozen=True)
class Ageing(Imperfections):
    """Drift by the clock, of which every round takes one second."""

    by_clock: bool = False

    def wrap(self, device: Device, seed: int) -> Device:
        if not self.by_clock:
            return super().wrap(device, seed)
        clock = count()
        return devices.Drifting(device, per_root_second=self.drift, seed=seed, clock=lambda: float(next(clock)))


@dataclass(frozen=True)
class Run:
    score: float
    rows: float
    programmings: float
    moved: int
    taken: int  # programmings of the busiest device


def run(trial: Trial, data: Data) -> Run:
    training = Training(trial, data)
    while not training.done:
        training.run_segment(Callbacks())
    layers = list(training.devices.values())
    bill = Bill.of([(layer.ledger, layer.theta.requires_grad) for layer in layers], training.steps)
    moved = sum(int(layer.surrogate.diagnosis().get("moved", 0)) for layer in layers)
    taken = max(layer.ledger.total_programmings for layer in layers)
    return Run(training.score, bill.row_overhead, bill.programming_overhead, moved, taken)


def methods(hardware: Hardware, chosen: list[str], watch: float, share: float) -> list[list[TrainingMethod]]:
    """Of each, the variants that drift is met with; the first is also run without drift."""
    element = hardware in (Hardware.LIGHT_MODULATOR, Hardware.MICRORING)
    found: list[list[TrainingMethod]] = []
    for name in chosen:
        if name in ("oracle", "frozen", "row", "paper"):
            known: dict[str, TrainingMethod] = {
                "oracle": OracleReference(),
                "frozen": FrozenReference(),
                "row": Row(),
                "paper": Paper(),
            }
            if name != "row" or element:
                found.append([known[name]])
        elif name == "twin" or element:
            on = Watched(name, watch, share)
            found.append([on, replace(on, watch=None)])
    return found


def told(method: TrainingMethod) -> str:
    if not isinstance(method, Watched):
        return method.name
    return f"{method.name}, {'unwatched' if method.watch is None else 'watched'}"


def line(label: list[str], runs: list[Run]) -> str:
    scores = [100 * one.score for one in runs]
    error = statistics.stdev(scores) / math.sqrt(len(scores)) if len(scores) > 1 else 0.0
    mean = [statistics.fmean(getattr(one, name) for one in runs) for name in ("rows", "programmings", "moved")]
    cells = [*label, f"{statistics.fmean(scores):.1f} ± {error:.1f}", *(f"{value:.2f}" for value in mean)]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--devices", nargs="+", choices=HARDWARE, default=list(HARDWARE))
    parser.add_argument(
        "--networks", nargs="+", choices=[n.value for n in DigitNetwork], default=["physical", "hybrid"]
    )
    names = ("oracle", "frozen", "default", "twin", "row", "paper")
    parser.add_argument("--methods", nargs="+", choices=names, default=list(names))
    parser.add_argument("--walk", type=float, default=0.5, help="rad, at the end of the run")
    parser.add_argument("--clock", action="store_true", help="drift by the second in place of by the programming")
    parser.add_argument(
        "--watch", type=float, default=3.0, help="residual, over what is normal, that is a device moved"
    )
    parser.add_argument("--share", type=float, default=0.25, help="of training's rows, that finding drift may cost")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--log", action="store_true", help="what the monitors did, as it happens")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", BlackpropWarning)
    if given.log:
        logging.basicConfig(level=logging.INFO, format="%(message)s")
    data = Digits().data()
    print("| network | device | method | drift | accuracy, % | row overhead | programming overhead | events |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for network in map(DigitNetwork, given.networks):
        task = Digits(network=network, epochs=given.epochs)
        for hardware in map(Hardware, given.devices):
            for variants in methods(hardware, given.methods, given.watch, given.share):
                free = [run(Trial(task, variants[0], hardware, seed), data) for seed in range(given.seeds)]
                label = [network.value, hardware.value]
                print(line([*label, told(variants[0]), "none"], free), flush=True)
                # Of a reference that is programmed but once, the walk would be one step; it walks as the oracle does.
                step = given.walk / math.sqrt(max(free[0].taken, task.steps(len(data.x_train))))
                drift = Ageing(drift=step, by_clock=given.clock)
                for method in variants:
                    runs = [run(Trial(task, method, hardware, seed, drift), data) for seed in range(given.seeds)]
                    print(line([*label, told(method), f"{given.walk} rad"], runs), flush=True)


if __name__ == "__main__":
    main()
