"""Dual adaptive training beside plain deployment and physics-aware training, on a mesh whose phases are off.

    python benchmarks/dual.py                        # digits, 3 seeds, phases off by 0.1 rad
    python benchmarks/dual.py --task mnist --data-dir DIR --epochs 2 --seeds 1

All-physical network: two MZI meshes of 64 ports (digits: 64 → 64 → 10), batch norms between and behind. Every phase of
the devices is off by a fixed normal error that the model does not know. All methods have the same rates.

- plain: trained on the design, then carried to the devices, with the batch norms adapted there.
- aware: physics-aware training, forward through the device, backward through the design.
- dual: a network of errors beside the design, fitted to the readings of every batch.
- both: a network of errors beside a design whose offsets are unknown numbers, fitted together in the same way.
- offsets: the offsets as unknown numbers in place of the network, fitted in the same way.
- fitted: the offsets, calibrated beforehand by 2,560 rows a device.
- oracle: the exact gradients of the devices.

Accuracy in %, mean ± standard error over the seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from torch import nn

import blackprop as bp
from blackprop.estimators import FromSurrogate
from blackprop.experiments import Digits, Mnist, OracleReference, Trial
from blackprop.experiments.engine._callbacks import SILENT
from blackprop.experiments.engine._evaluation import evaluate
from blackprop.experiments.engine._training import Training
from blackprop.experiments.methods._methods import TrainingMethod
from blackprop.surrogates import Twin
from blackprop.twins import ErrorNetwork, MeshTwin

# Steps a batch and rate of the fit. On seed 0 the network alone had 48.6 with these and 49.4 with (8, 0.5), the offsets
# 63.1 with these and 24.4 with (4, 0.05).
FITS = {"dual": (1, 0.05), "offsets": (1, 0.015), "both": (1, 0.015)}
BATCHES = 32  # of rows, which adapt the batch norms of a carried network


@dataclass(frozen=True)
class Jittered:
    """A kind of mesh whose phases are off by normal errors of `phase` rad."""

    phase: float
    splitter: float = 0.0

    @property
    def value(self) -> str:
        return f"mzi, phases off by {self.phase:g}"

    def make(self, d_in: int, d_out: int, seed: int = 0) -> bp.Device:
        return bp.devices.ImperfectMZIMesh(d_in, d_out, phase=self.phase, splitter=self.splitter, seed=seed)


@dataclass(frozen=True)
class ThroughModel(TrainingMethod):
    """Both gradients through a model of the device: its design, with a network of errors or with unknown offsets."""

    kind: str = "aware"
    steps: int = 0
    rate: float = 0.015

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.kind

    def layer(self, device: bp.Device, generator: torch.Generator) -> bp.PhysicalLayer:
        design = bp.devices.MZIMesh(*device.in_shape, *device.out_shape)
        surrogate = {
            "aware": lambda: Twin(MeshTwin(design), fit_steps=0, online_steps=0),
            "dual": lambda: Twin(ErrorNetwork(design), fit_steps=0, online_steps=self.steps, lr=self.rate, watch=None),
            "offsets": lambda: Twin(MeshTwin(design), fit_steps=0, online_steps=self.steps, lr=self.rate, watch=None),
            "both": lambda: Twin(
                ErrorNetwork(MeshTwin(design)), fit_steps=0, online_steps=self.steps, lr=self.rate, watch=None
            ),
            "fitted": lambda: Twin(MeshTwin(design)),
        }[self.kind]()
        return bp.PhysicalLayer(device, FromSurrogate(surrogate), surrogate, generator=generator)


METHODS = ("plain", "aware", "dual", "both", "offsets", "fitted", "oracle")


def result(task: Any, phase: float, name: str, seed: int, steps: int, rate: float) -> dict[str, Any]:
    """One training; `plain` trains on devices without errors and is evaluated on those with them."""
    start, data = time.perf_counter(), task.data()
    method = OracleReference() if name in {"plain", "oracle"} else ThroughModel(name, steps, rate)
    kind = Jittered(0.0 if name == "plain" else phase)
    training = Training(Trial(task, method, kind, seed), data)
    while not training.done:
        training.run_segment(SILENT)
    model, score = training.model, training.score
    if name == "plain":
        carried = Trial(task, method, Jittered(phase), seed)
        there = carried.model()
        with torch.no_grad():
            for own, trained in zip(there.parameters(), model.parameters(), strict=True):
                own.copy_(trained)
        settle(there, data.x_train[: BATCHES * task.batch_size], task.batch_size)
        score = task.objective.scores(evaluate(carried, there, data, training.workers))["accuracy"]
    rows = bp.ledger(model).rows
    return {
        "method": name,
        "phase": phase,
        "seed": seed,
        "accuracy": round(100 * score, 2),
        "steps": training.steps,
        "rows": {purpose.value: n for purpose, n in rows.items()},
        "seconds": round(time.perf_counter() - start, 1),
    }


@torch.no_grad()
def settle(model: nn.Module, x: torch.Tensor, batch: int) -> None:
    """Adapt the running statistics of the batch norms to a new device."""
    model.train()
    for rows in x.split(batch):
        model(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=["digits", "mnist"], default="digits")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--phase", type=float, default=0.1)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args()
    torch.set_num_threads(1)
    task = Digits(epochs=given.epochs) if given.task == "digits" else Mnist(given.data_dir, epochs=given.epochs)
    for name in given.methods:
        how = FITS.get(name, (0, 0.015))
        found = [result(task, given.phase, name, seed, *how) for seed in given.seeds]
        for each in found:
            print(json.dumps(each), flush=True)
        scores = [each["accuracy"] for each in found]
        error = f" ± {stdev(scores) / math.sqrt(len(scores)):.1f}" if len(scores) > 1 else ""
        print(f"| {name} | {mean(scores):.1f}{error} |", flush=True)


if __name__ == "__main__":
    main()
