"""Digits through opaque devices, from losses alone: LOZO and ZO-Muon beside SPSA, at equal queries.

    python benchmarks/as_built/low_rank.py --seeds 3 --factors 1

Both devices of the all-physical network are of one kind, and tell a period and nothing else. A factor of 1 is 28,160
rows and 440 programmings, evaluation apart. Every method takes the best of its rates on a seed that is not reported.
SPSA and LOZO give their estimates to Adam, ZO-Muon makes its own steps, all with cosine decay to zero. Accuracy in % by
the batch norms' statistics of the last 8 training batches. Results are printed as they come, one JSON object a line.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

import torch
import undeclared
from torch import nn

from blackprop.experiments.methods._by_loss import ByLoss, FromLosses
from blackprop.experiments.methods._rule import Backward, Batch, GradientRule
from blackprop.optim import LOZO, ForwardOnly, ZOMuon

TUNING = 100


@dataclass(frozen=True)
class Lozo(ByLoss):
    rank: int = 2
    name: str = "lozo"

    def estimating(self, model: nn.Module, parameters: list[nn.Parameter], generator: torch.Generator) -> ForwardOnly:
        return LOZO(parameters, 1.0, rank=self.rank, generator=generator, model=model)


class OwnSteps(FromLosses):
    """Steps of the optimizer itself. The optimizer of the training has no gradient to follow."""

    def __init__(self, optimizer: ForwardOnly, steps: int) -> None:
        super().__init__(optimizer)
        self.rates = [group["lr"] for group in optimizer.param_groups]
        self.planned = steps

    def add_gradients(self, batch: Batch, backward: Backward) -> float:
        del backward
        decay = 0.5 * (1 + math.cos(math.pi * min(1.0, self.optimizer.steps / self.planned)))
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = max(decay * rate, 1e-9)
        return float(self.optimizer.step(batch.loss))

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        raise NotImplementedError


@dataclass(frozen=True)
class ZoMuon(ByLoss):
    rate: float = 0.1
    factor: int = 1
    directions: int = 4
    name: str = "zo-muon"

    def estimating(self, model: nn.Module, parameters: list[nn.Parameter], generator: torch.Generator) -> ForwardOnly:
        how = {"directions": self.directions, "momentum": 0.9}
        return ZOMuon(parameters, self.rate, **how, generator=generator, model=model)

    def rule(self, model: nn.Module, generator: torch.Generator) -> GradientRule:
        optimizer = self.estimating(model, list(model.parameters()), generator)
        return OwnSteps(optimizer, undeclared.PROGRAMMINGS * self.factor // (2 * optimizer.passes))


RATES = {"spsa": (2e-2, 6e-2, 0.2), "lozo": (2e-2, 6e-2, 0.2), "zo-muon": (0.3, 1.0, 3.0)}


def result(kind: str, name: str, factor: int, seed: int, rate: float) -> dict[str, Any]:
    made = {"lozo": Lozo(), "zo-muon": ZoMuon(rate, factor)}
    undeclared.METHODS.update(made)
    found = undeclared.result(kind, name, factor, seed, rate)
    return {name: found[name] for name in ("device", "method", "factor", "seed", "rate", "recent", "steps", "seconds")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", nargs="+", default=["modulator", "three-splitter", "mzi"])
    parser.add_argument("--methods", nargs="+", default=list(RATES), choices=list(RATES))
    parser.add_argument("--factors", nargs="+", type=int, default=[1])
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for factor in given.factors:
        for kind in given.devices:
            for name in given.methods:
                rate = max(RATES[name], key=lambda rate: result(kind, name, factor, TUNING, rate)["recent"])
                scores = []
                for seed in range(given.seeds):
                    found = result(kind, name, factor, seed, rate)
                    scores.append(found["recent"])
                    print(json.dumps(found), flush=True)
                error = stdev(scores) / math.sqrt(len(scores)) if len(scores) > 1 else 0.0
                print(f"| {kind} | {factor} | {name} | {rate:g} | {mean(scores):.1f} ± {error:.1f} |", flush=True)


if __name__ == "__main__":
    main()
