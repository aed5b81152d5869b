"""Compare methods at equal allowances, each at its best learning rate. results.jsonl holds the finished trials."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from itertools import product
from pathlib import Path
from typing import Any

from blackprop.errors import ArgumentError, BudgetExhausted, IncompatibleError, RunFolderError
from blackprop.experiments.engine._allowance import Allowance
from blackprop.experiments.engine._callbacks import SILENT, Callback
from blackprop.experiments.engine._hardware import Hardware, Kind
from blackprop.experiments.engine._standing import names
from blackprop.experiments.engine._train import train
from blackprop.experiments.engine._trial import Trial
from blackprop.experiments.methods._methods import TrainingMethod
from blackprop.experiments.records import _json_lines as json_lines
from blackprop.experiments.records._result import RESULT_FORMAT, is_result, is_trial
from blackprop.experiments.tasks._task import Data, Task

_REFUSALS = (ArgumentError, BudgetExhausted, IncompatibleError)


@dataclass(frozen=True)
class AllowanceGrid:
    """Methods × devices × allowances × seeds on one task, for `compare_within`.

    - `task`: its settings `lr` and `device_lr` are the learning rates.
    - `methods`, `hardware`: at least one of each.
    - `batches`: the allowances, at least one, each at least 1. An allowance of n covers n training batches of the task
      through every device of its network, with one programming per batch. Programmings of devices that are moved by
      pulses are not limited: they switch tiles.
    - `seeds` (default 0): at least one.
    - `rates` (default: the task's own): the learning rates to try. At each allowance, each method uses the rate with
      the best score on the first seed.
    - `searched` (default `lr` and `device_lr`): the settings of the task that `rates` replaces. A method that uses none
      of them keeps the task's rates.

    **Raises** `ArgumentError` for empty values, or for a setting that the task does not have.

    >>> from blackprop.experiments import AllowanceGrid, Default, Digits, Hardware
    >>> grid = AllowanceGrid(Digits(), (Default(),), (Hardware.MZI_MESH,), batches=(100, 1000), rates=(1e-3, 1e-2))
    >>> grid.trial(Default(), Hardware.MZI_MESH, batches=100, rate=1e-3, seed=0).allowance
    Allowance(rows=12800, programmings=200)
    """

    task: Task
    methods: tuple[TrainingMethod, ...]
    hardware: tuple[Kind, ...]
    batches: tuple[int, ...]
    seeds: tuple[int, ...] = (0,)
    rates: tuple[float, ...] = ()
    searched: tuple[str, ...] = ("lr", "device_lr")

    def __post_init__(self) -> None:
        for name in ("methods", "hardware", "batches", "seeds"):
            if not getattr(self, name):
                raise ArgumentError(f"`AllowanceGrid({name}=...)` needs at least one value")
        if min(self.batches) < 1:
            raise ArgumentError(f"`AllowanceGrid(batches=...)` must be at least 1, got {min(self.batches)}")
        has = {field.name for field in fields(self.task)} if self.searched else set()  # pyright: ignore[reportArgumentType]
        for name in self.searched:
            if name not in has:
                raise ArgumentError(f"`AllowanceGrid(searched=...)`: the task {self.task.name} has no setting {name!r}")

    def rates_of(self, method: TrainingMethod) -> tuple[float, ...]:
        """Return the rates to try with this method."""
        if self.rates and set(method.rates) & set(self.searched):
            return self.rates
        return (getattr(self.task, self.searched[-1]),)

    def trial(self, method: TrainingMethod, hardware: Kind, batches: int, rate: float, seed: int) -> Trial:
        """Return one trial of the grid."""
        at_rate: Any = self.task  # a dataclass by protocol
        if any(getattr(at_rate, name) != rate for name in self.searched) and self.rates_of(method) is self.rates:
            at_rate = replace(at_rate, **dict.fromkeys(self.searched, rate))
        pulsed = isinstance(hardware, Hardware) and hardware.pulsed
        allowance = Allowance.of_batches(self.task, batches, programmings=not pulsed)
        return Trial(at_rate, method, hardware, seed, allowance=allowance)


def compare_within(grid: AllowanceGrid, path: Path, callback: Callback = SILENT) -> list[dict[str, Any]]:
    """Run the trials that are not yet in results.jsonl of the folder `path`, and return the results of the grid: all
    seeds at the best rate.

    - `grid`: the trials.
    - `path`: the folder, created if missing. Grids of any task may share it.
    - `callback` (default: none): follows every step, evaluation and new result.

    If the device or the allowance does not suit a method, the result has no score, and `refused` gives the reason. Then
    no other rate or seed is tried.

    **Raises** `RunFolderError` if the file is of another version or cannot be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        results = _Results(path / "results.jsonl", grid.task, callback)
    except OSError as error:
        raise RunFolderError(f"{path}: {error.strerror or error}") from error
    return [
        result
        for batches, hardware, method in product(grid.batches, grid.hardware, grid.methods)
        for result in _at_best_rate(grid, results, method, hardware, batches)
    ]


def stored(path: Path) -> list[dict[str, Any]]:
    """Return all results in results.jsonl of the folder `path`, including those of unfinished grids."""
    return list(_lines(path / "results.jsonl"))


def _at_best_rate(
    grid: AllowanceGrid, results: _Results, method: TrainingMethod, hardware: Kind, batches: int
) -> list[dict[str, Any]]:
    def result(rate: float, seed: int) -> dict[str, Any]:
        return results.get(grid.trial(method, hardware, batches, rate, seed), batches=batches, rate=rate)

    first: list[dict[str, Any]] = []
    for rate in grid.rates_of(method):
        first.append(result(rate, grid.seeds[0]))
        if "refused" in first[0]:
            return first
    objective = grid.task.objective
    sign = 1 if objective.higher_is_better else -1
    best = max(first, key=lambda found: sign * found.get(objective.metric, -sign * float("inf")))
    return [best, *(result(best["rate"], seed) for seed in grid.seeds[1:])]


class _Results:
    """The results of a file, identified by the configuration of their trials."""

    def __init__(self, file: Path, task: Task, callback: Callback) -> None:
        self._file, self._task, self._callback = file, task, callback
        self._known = {_identity(line["trial"]): line for line in _lines(file)}
        self._data: Data | None = None

    def get(self, trial: Trial, **labels: Any) -> dict[str, Any]:
        """Return the result of `trial`, and run it if its result is unknown."""
        config = json.loads(json.dumps(trial.config()))
        if (key := _identity(config)) not in self._known:
            self._known[key] = {"format": RESULT_FORMAT, **labels, **self._run(trial), "trial": config}
            self._keep(self._known[key])
            self._callback.finished(self._known[key])
        return self._known[key]

    def _run(self, trial: Trial) -> dict[str, Any]:
        self._data = self._data if self._data is not None else self._task.data()
        try:
            return train(trial, self._data, self._callback)
        except _REFUSALS as error:
            allowance = None if trial.allowance is None else asdict(trial.allowance)
            planned = trial.task.steps(len(self._data.x_train))
            return {**names(trial), "allowance": allowance, "planned_steps": planned, "refused": str(error)}

    def _keep(self, result: Mapping[str, Any]) -> None:
        try:
            json_lines.append(self._file, [result])
        except OSError as error:
            raise RunFolderError(
                f"{self._file}: {error.strerror or error}; results written earlier are complete"
            ) from error


def _identity(config: Mapping[str, Any]) -> str:
    """Return the configuration of a trial as one text."""
    return json.dumps(config, sort_keys=True)


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the results in the file. Damaged lines are skipped; a result of another version raises an error."""
    for entry in json_lines.read(file):
        version = entry.get("format")
        if is_trial(entry) and version != RESULT_FORMAT:
            raise RunFolderError(
                f"{file} holds results of another version ({version or 'an early one'}); this version reads and writes "
                f"{RESULT_FORMAT!r}. Choose another folder"
            )
        config = entry.get("trial")
        if isinstance(config, dict) and (
            isinstance(entry.get("refused"), str) or is_result(entry, str(entry.get("metric")))
        ):
            yield entry
