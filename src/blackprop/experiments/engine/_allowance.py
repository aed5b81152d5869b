"""Training by what it may ask: every method goes as far as the same rows and programmings take it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Adam

from blackprop.core._budget import Budget
from blackprop.core._query import Purpose
from blackprop.errors import ArgumentError, BudgetExhausted
from blackprop.experiments.engine._trial import Stream, stream_seed
from blackprop.experiments.methods._methods import Method
from blackprop.experiments.methods._rule import Batch
from blackprop.experiments.tasks._objectives import Objective
from blackprop.experiments.tasks._task import Data
from blackprop.nn._layer import PhysicalLayer
from blackprop.nn._substitute import ledger, param_groups
from blackprop.optim import SignalScaled

EVALUATED = 256  # rows at once


class Rated(Protocol):
    """What is needed of a task: its batches, and Adam's rates to begin with."""

    @property
    def batch_size(self) -> Any: ...
    @property
    def objective(self) -> Objective: ...
    @property
    def lr(self) -> float: ...
    @property
    def device_lr(self) -> float: ...
    def augment(self, x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class Allowance:
    """What training may ask of the devices; evaluation is not counted."""

    rows: int
    programmings: int | None = None

    def __post_init__(self) -> None:
        for name, limit in (("rows", self.rows), ("programmings", self.programmings)):
            if limit is not None and limit < 1:
                raise ArgumentError(f"`Allowance({name}=...)` must be at least 1, got {limit}")

    def less(self, rows: int) -> Allowance:
        """What is left beside one reading of so many rows."""
        return Allowance(self.rows - rows, None if self.programmings is None else self.programmings - 1)


def train_within(task: Rated, model: nn.Module, method: Method, data: Data, seed: int, allowance: Allowance) -> int:
    """Steps that were made until the next one would pass the allowance.

    Rates fall as a cosine of the share of it that is spent, so every method has come to rest when it ends.
    """
    layers = physical_layers(model)
    adam = Adam(param_groups(model, lr=task.lr, device_lr=task.device_lr))
    optimizer = SignalScaled(adam, model) if method.signal_scaled else adam
    rule = method.rule(model, torch.Generator().manual_seed(stream_seed(seed, Stream.LAYER, len(layers))))
    full = [group["lr"] for group in optimizer.param_groups]
    batches, dearest, steps = _batches(data, task.batch_size, seed), (0, 0), 0
    model.train()
    with _budgeted(layers, allowance):
        while (share := _share(model, dearest, allowance)) is not None:
            for group, rate in zip(optimizer.param_groups, full, strict=True):
                group["lr"] = rate * (1 + math.cos(math.pi * share)) / 2
            drawn = torch.Generator().manual_seed(stream_seed(seed, Stream.AUGMENT, steps))
            before, (x, y) = asked(model), task.augment(*next(batches), drawn)
            try:
                optimizer.zero_grad()
                rule.add_gradients(Batch(x, y, model, task.objective.loss), Tensor.backward)
                optimizer.step()
            except BudgetExhausted:
                if not steps:  # a result of no training would mislead
                    raise
                break
            if steps:  # the first one may calibrate, which no other will
                cost = tuple(now - then for now, then in zip(asked(model), before, strict=True))
                dearest = (max(dearest[0], cost[0]), max(dearest[1], cost[1]))
            steps += 1
    return steps


@torch.no_grad()
def evaluate(objective: Objective, model: nn.Module, data: Data) -> dict[str, float]:
    """The scores on the rows to test on."""
    model.eval()
    pairs = zip(data.x_test.split(EVALUATED), data.y_test.split(EVALUATED), strict=True)
    return objective.scores(torch.stack([objective.tally(model(x), y) for x, y in pairs]).sum(0))


def asked(model: nn.Module) -> tuple[int, int]:
    """Rows and programmings of training."""
    total = ledger(model)
    return (
        total.total_rows - total.rows[Purpose.EVALUATE],
        total.total_programmings - total.programmings[Purpose.EVALUATE],
    )


def physical_layers(model: nn.Module) -> list[PhysicalLayer]:
    return [module for module in model.modules() if isinstance(module, PhysicalLayer)]


@contextmanager
def _budgeted(layers: list[PhysicalLayer], allowance: Allowance) -> Iterator[None]:
    """Within, the devices refuse what would pass the allowance."""
    budget = Budget(allowance.rows, allowance.programmings)
    for layer in layers:
        layer.budget = budget
    try:
        yield
    finally:
        for layer in layers:
            layer.budget = None


def _batches(data: Data, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled, epoch after epoch; what is left over of one is left out of it."""
    for epoch in count():
        order = torch.Generator().manual_seed(stream_seed(seed, Stream.ORDER, epoch))
        for rows in torch.randperm(len(data.x_train), generator=order).split(size):
            if len(rows) == size:
                yield data.x_train[rows], data.y_train[rows]


def _share(model: nn.Module, dearest: tuple[int, int], allowance: Allowance) -> float | None:
    """Of the allowance that is spent; None where a step as the dearest so far would pass it."""
    limits, shares = (allowance.rows, allowance.programmings), [0.0]
    for spent, cost, limit in zip(asked(model), dearest, limits, strict=True):
        if limit is not None:
            if spent + cost > limit:
                return None
            shares.append(spent / limit)
    return max(shares)
