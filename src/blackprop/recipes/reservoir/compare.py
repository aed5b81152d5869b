"""Methods compared on sequences at an equal allowance of rows and programmings."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from blackprop.devices import Device
from blackprop.errors import ArgumentError, BudgetExhausted
from blackprop.layer import PhysicalLayer
from blackprop.ledger import Budget
from blackprop.optim import SignalScaled
from blackprop.query import Purpose
from blackprop.recipes.cell import Stream, stream_seed
from blackprop.recipes.methods import Method
from blackprop.recipes.reservoir import ridge
from blackprop.recipes.reservoir.base import SequenceTask
from blackprop.recipes.reservoir.networks import Network
from blackprop.recipes.task import Data
from blackprop.substitute import ledger, param_groups

# ((time, drives), (time, nodes), the seed of its hidden errors and fixed weights) -> the device
MakeDevice = Callable[[tuple[int, int], tuple[int, int], int], Device]
EVALUATED = 256  # sequences at once


@dataclass(frozen=True)
class Readout(Method):
    """Classical reservoir computing: reservoir and drive stay as they were drawn, the readout is ridge regression on
    one pass over the sequences. No gradient, one programming.
    """

    name: str = "ridge"

    def layer(self, device: Device, generator: torch.Generator) -> PhysicalLayer:
        layer = PhysicalLayer(device, generator=generator)
        layer.theta.requires_grad_(False)
        return layer


@dataclass(frozen=True)
class Allowance:
    """What training may ask of the device; evaluation is not counted."""

    rows: int
    programmings: int | None = None

    def __post_init__(self) -> None:
        for name, limit in (("rows", self.rows), ("programmings", self.programmings)):
            if limit is not None and limit < 1:
                raise ArgumentError(f"`Allowance({name}=...)` must be at least 1, got {limit}")

    def less(self, rows: int) -> Allowance:
        """What is left beside one reading of so many rows."""
        return Allowance(self.rows - rows, None if self.programmings is None else self.programmings - 1)


def run(
    task: SequenceTask, make: MakeDevice, method: Method, seed: int, allowance: Allowance, *, refit: bool = False
) -> dict[str, Any]:
    """Train the task's network by `method` until the next step would pass the allowance; its scores, what it spent.

    With `refit`, the readout is fitted anew by ridge regression in the end, from rows that are kept back for it: what
    the reservoir has become is then told from how well a readout is trained step by step.

    At one seed all methods start from the same θ and weights and see the sequences in the same order. Rates fall as a
    cosine of the share of the allowance that is spent, so every method has come to rest when it ends.
    """
    data, places = task.data(), count()

    def layer(in_shape: tuple[int, int], out_shape: tuple[int, int]) -> PhysicalLayer:
        index = next(places)
        device = make(in_shape, out_shape, stream_seed(seed, Stream.IMPERFECTIONS, index))
        return method.layer(device, torch.Generator().manual_seed(stream_seed(seed, Stream.LAYER, index)))

    model, start = task.build(layer, stream_seed(seed, Stream.WEIGHTS)), time.perf_counter()
    assert isinstance(model, Network)
    refit = refit or isinstance(method, Readout)
    steps = 0
    if not isinstance(method, Readout):
        steps = _train(task, model, method, data, seed, allowance.less(len(data.x_train)) if refit else allowance)
    if refit:
        _fit(model, data, allowance)
    rows, programmings = _spent(model)
    return {
        "task": task.name,
        "method": method.name,
        "seed": seed,
        **evaluate(task, model, data),
        "steps": steps,
        "rows": rows,
        "programmings": programmings,
        "seconds": time.perf_counter() - start,
    }


@torch.no_grad()
def evaluate(task: SequenceTask, model: nn.Module, data: Data) -> dict[str, float]:
    """The scores on the sequences to test on."""
    model.eval()
    pairs = zip(data.x_test.split(EVALUATED), data.y_test.split(EVALUATED), strict=True)
    return task.objective.scores(torch.stack([task.objective.tally(model(x), y) for x, y in pairs]).sum(0))


@torch.no_grad()
def _fit(model: Network, data: Data, allowance: Allowance) -> None:
    """The readout by ridge regression, on as many sequences as may be sent."""
    model.eval()
    for layer in _layers(model):
        layer.train()  # so that its rows are booked as those of training
    x, y = data.x_train[: allowance.rows], data.y_train[: allowance.rows]
    targets = y if y.is_floating_point() else F.one_hot(y, model.sizes.outputs)
    features = torch.cat([model.features(part) for part in x.split(EVALUATED)])
    ridge.fit(features, targets).write(model.readout)


def _train(task: SequenceTask, model: Network, method: Method, data: Data, seed: int, allowance: Allowance) -> int:
    """Steps that were made."""
    optimizer, place = _optimizer(task, model, method), stream_seed(seed, Stream.LAYER, len(_layers(model)))
    rule = method.rule(model, torch.Generator().manual_seed(place))
    full = [group["lr"] for group in optimizer.param_groups]
    batches, dearest, steps = _batches(data, task.batch_size, seed), (0, 0), 0
    model.train()
    with _budgeted(model, allowance):
        while (share := _share(model, dearest, allowance)) is not None:
            for group, rate in zip(optimizer.param_groups, full, strict=True):
                group["lr"] = rate * (1 + math.cos(math.pi * share)) / 2
            before, (x, y) = _spent(model), next(batches)
            try:
                optimizer.zero_grad()
                rule.add_gradients(lambda x=x, y=y: task.objective.loss(model(x), y), Tensor.backward)
                optimizer.step()
            except BudgetExhausted:
                if not steps:  # a result of no training would mislead
                    raise
                break
            if steps:  # the first one may calibrate, which no other will
                cost = tuple(now - then for now, then in zip(_spent(model), before, strict=True))
                dearest = (max(dearest[0], cost[0]), max(dearest[1], cost[1]))
            steps += 1
    return steps


@contextmanager
def _budgeted(model: nn.Module, allowance: Allowance) -> Iterator[None]:
    """Within, the devices refuse what would pass the allowance."""
    budget = Budget(allowance.rows, allowance.programmings)
    for layer in _layers(model):
        layer.budget = budget
    try:
        yield
    finally:
        for layer in _layers(model):
            layer.budget = None


def _optimizer(task: SequenceTask, model: Network, method: Method) -> Optimizer:
    adam = Adam(param_groups(model, lr=task.lr, device_lr=task.device_lr))
    return SignalScaled(adam, model) if method.signal_scaled else adam


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
    for spent, cost, limit in zip(_spent(model), dearest, limits, strict=True):
        if limit is not None:
            if spent + cost > limit:
                return None
            shares.append(spent / limit)
    return max(shares)


def _spent(model: nn.Module) -> tuple[int, int]:
    """Rows and programmings of training."""
    total = ledger(model)
    return (
        total.total_rows - total.rows[Purpose.EVALUATE],
        total.total_programmings - total.programmings[Purpose.EVALUATE],
    )


def _layers(model: nn.Module) -> list[PhysicalLayer]:
    return [module for module in model.modules() if isinstance(module, PhysicalLayer)]
