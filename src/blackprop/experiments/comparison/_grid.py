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
from blackprop.experiments.methods._methods import FrozenReference, OracleReference, TrainingMethod
from blackprop.experiments.tasks._task import Task


@dataclass(frozen=True)
class Grid:
    """Methods × devices × seeds on one task, which a run folder keeps. A single training is a grid of one trial.

    - `task`: the data, the network and how it is trained.
    - `methods`, `hardware`, `seeds`: at least one of each, each once.
    - `imperfections`: noise, resolution and drift of every device; none by default.
    - `execution`: precision, parts of a batch, clipping, early end.
    - `allowance`: the rows and programmings that each trial may ask; by default, as many as the task's steps take.
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
                raise ArgumentError(f"`Grid({name}=...)` takes at least one, each once, got {values}")
        if min(self.seeds) < 0:
            raise ArgumentError(f"`Grid(seeds=...)` must not be negative, got {self.seeds}")

    def trials(self) -> list[Trial]:
        """In the order they are run: a device's seeds together, and in each seed the methods in turn."""
        return [
            Trial(self.task, method, hardware, seed, self.imperfections, self.execution, self.allowance)
            for hardware in self.hardware
            for seed in self.seeds
            for method in self.methods
        ]

    def config(self) -> dict[str, Any]:
        """All that decides the results."""
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
        """Build each method on each device once, so that parts that do not fit are refused before anything is spent."""
        for hardware in self.hardware:
            for method in self.methods:
                Trial(self.task, method, hardware, self.seeds[0], self.imperfections).model()


def with_references(methods: Iterable[TrainingMethod]) -> tuple[TrainingMethod, ...]:
    """`methods` with oracle and frozen in front, where they are not among them."""
    methods = tuple(methods)
    kinds = {type(method) for method in methods}
    return tuple(reference() for reference in (OracleReference, FrozenReference) if reference not in kinds) + methods
