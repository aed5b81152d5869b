"""Allowances: the rows and programmings that training may use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn

from blackprop.core._budget import Budget
from blackprop.core._query import Purpose
from blackprop.errors import ArgumentError
from blackprop.experiments.tasks._task import Task
from blackprop.nn._layer import PhysicalLayer
from blackprop.nn._substitute import ledger
from blackprop.planning.asking._asked import tell_allowance

BATCH = 64  # rows of a training batch, by default


@dataclass(frozen=True)
class Allowance:
    """The rows and programmings that training may use, over all devices together. Evaluation is not counted.

    - `rows`: the largest number of rows, at least 1.
    - `programmings` (default None, no limit): the largest number of programmings, at least 1.

    **Raises** `ArgumentError` for a limit below 1.

    >>> from blackprop.experiments import Allowance
    >>> Allowance(rows=64_000, programmings=1000).less(4000)
    Allowance(rows=60000, programmings=999)
    """

    rows: int
    programmings: int | None = None

    def __post_init__(self) -> None:
        for name, limit in (("rows", self.rows), ("programmings", self.programmings)):
            if limit is not None and limit < 1:
                raise ArgumentError(f"`Allowance({name}=...)` must be at least 1, got {limit}")

    @classmethod
    def of_batches(cls, task: Task, batches: int, *, programmings: bool = True) -> Allowance:
        """Allow `batches` training batches of `task` through each of its devices, with one programming per batch or, if
        not `programmings`, any number of them.
        """
        places = count_devices(task)
        return cls(batches * task.batch_size * places, batches * places if programmings else None)

    def less(self, rows: int) -> Allowance:
        """Return the allowance minus one reading of `rows` rows."""
        return Allowance(self.rows - rows, None if self.programmings is None else self.programmings - 1)

    def share(self, model: nn.Module, step: tuple[int, int] = (0, 0)) -> float | None:
        """Return the share spent, in [0, 1]; None if a further `step` (rows, programmings) would exceed a limit."""
        limits, shares = (self.rows, self.programmings), [0.0]
        for spent, cost, limit in zip(asked(model), step, limits, strict=True):
            if limit is not None:
                if spent + cost > limit:
                    return None
                shares.append(spent / limit)
        return max(shares)

    @contextmanager
    def enforced(self, model: nn.Module, batch_size: int = BATCH) -> Iterator[None]:
        """Make the layers of `model` raise `BudgetExhausted` before they exceed the allowance. Layers that choose their
        method by a trial measurement are given their share of it and the batch size.
        """
        budget, layers = Budget(self.rows, self.programmings), physical_layers(model)
        number, most = max(1, len(layers)), self.programmings
        share = Budget(self.rows // number, None if most is None else most // number)
        for layer in layers:
            layer.budget = budget
            tell_allowance(layer.surrogate, batch_size, share)
        try:
            yield
        finally:
            for layer in layers:
                layer.budget = None


def asked(model: nn.Module) -> tuple[int, int]:
    """Return the rows and programmings used by training."""
    total = ledger(model)
    return (
        total.total_rows - total.rows[Purpose.EVALUATE],
        total.total_programmings - total.programmings[Purpose.EVALUATE],
    )


def physical_layers(model: nn.Module) -> list[PhysicalLayer]:
    """Return the physical layers of `model`, in its order."""
    return [module for module in model.modules() if isinstance(module, PhysicalLayer)]


def count_devices(task: Task) -> int:
    """Return the number of devices in the network of `task`."""
    places = 0

    def place(*_: object) -> nn.Module:
        nonlocal places
        places += 1
        return nn.Identity()

    task.build(place, seed=0)
    return places
