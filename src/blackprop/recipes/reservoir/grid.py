"""Methods × tasks × reservoirs × allowances × seeds, kept as it goes, so that what is finished is not run again."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blackprop.errors import ArgumentError, BudgetExhausted, RunFolderError
from blackprop.recipes.methods import Method
from blackprop.recipes.reservoir.base import SequenceTask
from blackprop.recipes.reservoir.compare import Allowance, run
from blackprop.recipes.reservoir.hardware import Reservoirs

_KEY = ("task", "device", "method", "seed", "batches")


@dataclass(frozen=True)
class ReservoirGrid:
    """What is compared: each cell may ask for the rows of so many training batches of its task."""

    tasks: tuple[SequenceTask, ...]
    methods: tuple[Method, ...]
    hardware: tuple[Reservoirs, ...]
    batches: tuple[int, ...]
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        for name in ("tasks", "methods", "hardware", "batches", "seeds"):
            if not getattr(self, name):
                raise ArgumentError(f"`ReservoirGrid({name}=...)` takes at least one")
        if min(self.batches) < 1:
            raise ArgumentError(f"`ReservoirGrid(batches=...)` must be at least 1, got {min(self.batches)}")

    def cells(self) -> Iterator[tuple[SequenceTask, Reservoirs, Method, int, int]]:
        for task in self.tasks:
            for hardware in self.hardware:
                for batches in self.batches:
                    for seed in self.seeds:
                        for method in self.methods:
                            yield task, hardware, method, seed, batches


def carry_out_reservoirs(
    grid: ReservoirGrid, path: Path, told: Callable[[dict[str, Any]], None]
) -> list[dict[str, Any]]:
    """Run what results.jsonl in the folder `path` does not hold yet; returns all results of the grid.

    Where the task is a regression the readout is fitted anew in the end, whatever the method, from rows kept back for
    it. A method whose first step is beyond the allowance has no score, and `refused` says why.
    """
    file = path / "results.jsonl"
    try:
        path.mkdir(parents=True, exist_ok=True)
        known = {tuple(line[name] for name in _KEY): line for line in _lines(file)}
    except OSError as error:
        raise RunFolderError(f"{path}: {error.strerror or error}") from error
    found = []
    for task, hardware, method, seed, batches in grid.cells():
        key = (task.name, hardware.value, method.name, seed, batches)
        if key not in known:
            cell = dict(zip(_KEY, key, strict=True))
            allowance = Allowance(batches * task.batch_size)
            try:
                result = run(task, hardware.make, method, seed, allowance, refit=task.objective.metric != "accuracy")
                known[key] = {**cell, "metric": task.objective.metric, **result, **cell}
            except (BudgetExhausted, ArgumentError) as error:
                known[key] = {**cell, "metric": task.objective.metric, "refused": str(error)}
            with file.open("a") as out:
                out.write(json.dumps(known[key]) + "\n")
            told(known[key])
        found.append(known[key])
    return found


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    for line in file.read_text().splitlines() if file.exists() else ():
        with contextlib.suppress(ValueError):  # cut short by a kill
            entry = json.loads(line)
            if isinstance(entry, dict) and all(name in entry for name in _KEY):
                yield entry
