"""A grid of trials: methods, devices and seeds on one task."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from blackprop.errors import ArgumentError
from blackprop.experiments.engine._allowance import Allowance
from blackprop.experiments.engine._execution import ORDINARY, Execution
from blackprop.experiments.engine._hardware import FLAWLESS, Imperfections, Kind
from blackprop.experiments.engine._trial import Trial, plain
from blackprop.experiments.methods._methods import TrainingMethod
from blackprop.experiments.methods._references import FrozenReference, OracleReference
from blackprop.experiments.tasks._task import Task


@dataclass(frozen=True)
class Grid:
    """Methods × devices × seeds on one task, for `compare`.

    - `task`: the data, the network and how it is trained.
    - `methods`, `hardware`: at least one of each, without repetition.
    - `seeds` (default 0): at least one, without repetition, not negative.
    - `imperfections` (default: none): noise, resolution and drift of every device.
    - `execution`: precision, gradient accumulation, clipping, early stopping.
    - `allowance` (default None): the rows and programmings that each trial may use. None: as many as the steps of the
      task take.

    **Raises** `ArgumentError` for empty or repeated values.

    >>> from blackprop.experiments import Default, Digits, FrozenReference, Grid, Hardware
    >>> grid = Grid(Digits(), (FrozenReference(), Default()), (Hardware.MATRIX, Hardware.MZI_MESH), seeds=(0, 1))
    >>> len(grid.trials())
    8
    """

    task: Task
    methods: tuple[TrainingMethod, ...]
    hardware: tuple[Kind, ...]
    seeds: tuple[int, ...] = (0,)
    imperfections: Imperfections = FLAWLESS
    execution: Execution = ORDINARY
    allowance: Allowance | None = None

    def __post_init__(self) -> None:
        names = [method.name for method in self.methods]
        for name, values in (("methods", names), ("hardware", self.hardware), ("seeds", self.seeds)):
            if not values or len(set(values)) != len(values):
                raise ArgumentError(f"`Grid({name}=...)` needs at least one value, without repetition, got {values}")
        if min(self.seeds) < 0:
            raise ArgumentError(f"`Grid(seeds=...)` must not be negative, got {self.seeds}")

    def trials(self) -> list[Trial]:
        """Return the trials in the order in which they run: by device, then by seed, then by method."""
        return [
            Trial(self.task, method, hardware, seed, self.imperfections, self.execution, self.allowance)
            for hardware in self.hardware
            for seed in self.seeds
            for method in self.methods
        ]

    def config(self) -> dict[str, Any]:
        """Return everything that determines the results, as JSON-compatible values."""
        return {
            "task": self.task.name,
            "settings": plain(self.task),
            "methods": {method.name: {"class": type(method).__name__, **plain(method)} for method in self.methods},
            "devices": [hardware.value for hardware in self.hardware],
            "seeds": list(self.seeds),
            "imperfections": plain(self.imperfections),
            "execution": plain(self.execution),
            "allowance": None if self.allowance is None else plain(self.allowance),
        }

    def check(self) -> None:
        """Build each method on each device once, so that incompatible parts raise an error before any query."""
        for hardware in self.hardware:
            for method in self.methods:
                Trial(self.task, method, hardware, self.seeds[0], self.imperfections).model()


def with_references(methods: Iterable[TrainingMethod]) -> tuple[TrainingMethod, ...]:
    """Return `methods` with the references oracle and frozen in front, if they are missing."""
    methods = tuple(methods)
    kinds = {type(method) for method in methods}
    return tuple(reference() for reference in (OracleReference, FrozenReference) if reference not in kinds) + methods
