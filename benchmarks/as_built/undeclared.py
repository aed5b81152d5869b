"""Digits through devices that declare nothing: the default, which asks first, beside oracle, frozen and SPSA.

    python benchmarks/as_built/undeclared.py --seeds 1 --factors 1 3

Both devices of the all-physical network are of one kind, and tell a period and nothing else. A factor of 1 is what 10
epochs of backpropagation through a simulator ask: 28,160 rows and 440 programmings, those of the inquiry counted in.
SPSA takes the best of three rates on a seed that is not reported; the default has one rate for all devices. Accuracy
in %, with the running statistics of the batch norms, and with those of the last 8 training batches
(`bp.optim.RecentNorms`). Results are printed as they come, one JSON object a line, and a table at the end.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any

import torch

import blackprop as bp
from blackprop.experiments import Allowance, Default, Digits, Hardware, Trial
from blackprop.experiments.engine._callbacks import SILENT
from blackprop.experiments.engine._evaluation import evaluate
from blackprop.experiments.engine._training import Training
from blackprop.experiments.methods._by_loss import Spsa
from blackprop.experiments.methods._methods import TrainingMethod
from blackprop.experiments.methods._references import FrozenReference, OracleReference
from blackprop.planning import AskFirst

TASK = Digits(epochs=10)
ROWS, PROGRAMMINGS = 28_160, 440
RATES = (6e-3, 2e-2, 6e-2)  # of SPSA
TUNING = 100  # the seed that rates are chosen on


@dataclass(frozen=True)
class Undeclared:
    """A kind of device that tells its period alone, its parameters in its own order or in a hidden one."""

    kind: Hardware
    hidden: bool = False
    noise: float = 0.0

    @property
    def value(self) -> str:
        return (
            self.kind.value
            + (", hidden wiring" if self.hidden else "")
            + (f", {self.noise:.0%} noise" * bool(self.noise))
        )

    def make(self, d_in: int, d_out: int, seed: int = 0) -> bp.Device:
        device = self.kind.make(d_in, d_out, seed)
        if self.noise:
            device = bp.devices.Noisy(device, read=self.noise, seed=seed)
        size = device.theta.size
        order = torch.randperm(size, generator=torch.Generator().manual_seed(size)) if self.hidden else None
        device = bp.devices.Declared(device, period=device.theta.period, order=order)
        device.capabilities = ()
        return device


KINDS: dict[str, Undeclared] = {
    "modulator": Undeclared(Hardware.LIGHT_MODULATOR),
    "modulator-hidden": Undeclared(Hardware.LIGHT_MODULATOR, hidden=True),
    "microring": Undeclared(Hardware.MICRORING),
    "crossbar": Undeclared(Hardware.CROSSBAR),
    "medium": Undeclared(Hardware.SCATTERING_MEDIUM),
    "three-splitter": Undeclared(Hardware.THREE_SPLITTER_MESH),
    "mzi": Undeclared(Hardware.MZI_MESH),
    "modulator-noisy": Undeclared(Hardware.LIGHT_MODULATOR, hidden=True, noise=0.02),
    "medium-noisy": Undeclared(Hardware.SCATTERING_MEDIUM, noise=0.02),
}
METHODS: dict[str, TrainingMethod] = {
    "oracle": OracleReference(),
    "frozen": FrozenReference(),
    "spsa": Spsa(),
    "default": Default(),
}


def result(kind: str, method: str, factor: int, seed: int, rate: float = TASK.device_lr) -> dict[str, Any]:
    """One training within the allowance."""
    start, data = time.perf_counter(), TASK.data()
    task, allowance = replace(TASK, device_lr=rate), Allowance(ROWS * factor, PROGRAMMINGS * factor)
    trial = Trial(task, METHODS[method], KINDS[kind], seed, allowance=allowance)
    training = Training(trial, data)
    model = training.model
    norms = bp.optim.RecentNorms(model)
    training.run_segment(SILENT)
    ledger = bp.ledger(model)
    evaluated = bp.Purpose.EVALUATE
    rows = ledger.total_rows - ledger.rows[evaluated]
    programmings = ledger.total_programmings - ledger.programmings[evaluated]
    plain, steps = training.score, training.steps
    norms.apply()
    recent = task.objective.scores(evaluate(trial, model, data, training.workers))["accuracy"]
    asking = [m.surrogate for m in model.modules() if isinstance(m, bp.PhysicalLayer)]
    found = [f"{each.finding}; {each.chosen}" for each in asking if isinstance(each, AskFirst)]
    return {
        "device": kind,
        "method": method,
        "factor": factor,
        "seed": seed,
        "rate": rate,
        "accuracy": round(100 * plain, 1),
        "recent": round(100 * recent, 1),
        "steps": steps,
        "rows": rows,
        "programmings": programmings,
        "seconds": round(time.perf_counter() - start, 1),
        "found": found if method == "default" else [],
    }


def tuned(kind: str, factor: int) -> float:
    return max(RATES, key=lambda rate: result(kind, "spsa", factor, TUNING, rate)["recent"])


def table(results: list[dict[str, Any]], methods: list[str]) -> str:
    """Mean accuracy, running statistics / recent ones."""
    lines = ["| device | × | " + " | ".join(methods) + " |", "| --- | --- |" + " --- |" * len(methods)]
    for device, factor in dict.fromkeys((each["device"], each["factor"]) for each in results):
        cells = []
        for method in methods:
            some = [r for r in results if (r["device"], r["factor"], r["method"]) == (device, factor, method)]
            means = [f"{mean(r[key] for r in some):.1f}" for key in ("accuracy", "recent") if some]
            cells.append(" / ".join(means) or "–")
        lines.append(f"| {device} | {factor} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--factors", nargs="+", type=int, default=[1, 3])
    parser.add_argument("--seeds", type=int, default=1, help="how many: 0, 1, ...")
    given = parser.parse_args()
    results: list[dict[str, Any]] = []
    for kind in given.devices:
        for factor in given.factors:
            for method in given.methods:
                rate = tuned(kind, factor) if method == "spsa" else TASK.device_lr
                for seed in range(given.seeds):
                    results.append(result(kind, method, factor, seed, rate))
                    print(json.dumps(results[-1]), flush=True)
    print(table(results, given.methods))


if __name__ == "__main__":
    main()
