"""Methods × tasks × reservoirs × allowances × seeds, kept as it goes, so that what is finished is not run again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from blackprop.errors import ArgumentError, BudgetExhausted, RunFolderError
from blackprop.experiments.engine._allowance import Allowance
from blackprop.experiments.methods._methods import Method
from blackprop.experiments.records import _json_lines as json_lines
from blackprop.experiments.reservoirs._compare import Readout, run
from blackprop.experiments.reservoirs._hardware import Reservoirs
from blackprop.experiments.tasks.sequences._base import SequenceTask

_KEY = ("task", "network", "device", "method", "batches", "rate", "seed")
_LESS = ("nrmse", "ser")  # of these, less is better


@dataclass(frozen=True)
class ReservoirGrid:
    """What is compared: each cell may ask for the rows of so many training batches of its task, and as many
    programmings.

    Of several `rates`, for θ and the digital parameters alike, each method takes at each allowance the one that does
    best on the first seed, and its results are of that rate; none given, those of the task.
    """

    tasks: tuple[SequenceTask, ...]
    methods: tuple[Method, ...]
    hardware: tuple[Reservoirs, ...]
    batches: tuple[int, ...]
    seeds: tuple[int, ...] = (0,)
    rates: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name in ("tasks", "methods", "hardware", "batches", "seeds"):
            if not getattr(self, name):
                raise ArgumentError(f"`ReservoirGrid({name}=...)` takes at least one")
        if min(self.batches) < 1:
            raise ArgumentError(f"`ReservoirGrid(batches=...)` must be at least 1, got {min(self.batches)}")

    def rates_of(self, task: SequenceTask, method: Method) -> tuple[float, ...]:
        return (task.lr,) if isinstance(method, Readout) or not self.rates else self.rates


def carry_out_reservoirs(
    grid: ReservoirGrid, path: Path, told: Callable[[dict[str, Any]], None]
) -> list[dict[str, Any]]:
    """Run what results.jsonl in the folder `path` does not hold yet; returns the results of the grid, all seeds at the
    best rate.

    Where the task is a regression the readout is fitted anew in the end, whatever the method, from rows kept back for
    it. A method whose first step is beyond the allowance has no score, and `refused` says why.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        kept = _Kept(path / "results.jsonl", told)
    except OSError as error:
        raise RunFolderError(f"{path}: {error.strerror or error}") from error
    found = []
    for task, hardware, batches, method in product(grid.tasks, grid.hardware, grid.batches, grid.methods):
        first = [kept.result(task, hardware, method, batches, r, grid.seeds[0]) for r in grid.rates_of(task, method)]
        best = min(first, key=_badness)
        others = [kept.result(task, hardware, method, batches, best["rate"], seed) for seed in grid.seeds[1:]]
        found += [best, *others]
    return found


class _Kept:
    """What a file holds of results, and will hold."""

    def __init__(self, file: Path, told: Callable[[dict[str, Any]], None]) -> None:
        self._file, self._told = file, told
        self._known = {tuple(line[name] for name in _KEY): line for line in _lines(file)}

    def result(
        self, task: SequenceTask, hardware: Reservoirs, method: Method, batches: int, rate: float, seed: int
    ) -> dict[str, Any]:
        key = (task.name, task.network.value, hardware.value, method.name, batches, rate, seed)
        if key not in self._known:
            cell = {**dict(zip(_KEY, key, strict=True)), "metric": task.objective.metric}
            self._known[key] = {**cell, **_run(_at_rate(task, rate), hardware, method, seed, batches), **cell}
            try:
                json_lines.append(self._file, [self._known[key]])
            except OSError as error:
                raise RunFolderError(
                    f"{self._file}: {error.strerror or error}; what was written before is whole"
                ) from error
            self._told(self._known[key])
        return self._known[key]


def _at_rate(task: SequenceTask, rate: float) -> SequenceTask:
    """The task at one rate for all its parameters, unless that is its own."""
    return task if rate == task.lr else replace(task, lr=rate, device_lr=rate)


def _run(task: SequenceTask, hardware: Reservoirs, method: Method, seed: int, batches: int) -> dict[str, Any]:
    allowance = Allowance(batches * task.batch_size, batches)
    try:
        return run(task, hardware.make, method, seed, allowance, refit=task.objective.metric != "accuracy")
    except (BudgetExhausted, ArgumentError) as error:
        return {"refused": str(error)}


def _badness(result: dict[str, Any]) -> float:
    """Less is better; what was refused comes last."""
    score = result.get(metric := result["metric"], float("inf"))
    return score if metric in _LESS or metric not in result else -score


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    for entry in json_lines.read(file):
        known = all(isinstance(entry.get(name), str | int | float) for name in (*_KEY, "metric"))
        refused = isinstance(entry.get("refused"), str)
        if known and (refused or isinstance(entry.get(str(entry["metric"])), int | float)):
            yield entry
