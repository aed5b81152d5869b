"""Several methods on one task, over devices and seeds, and the gap that each closes between frozen and oracle."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from blackprop.errors import ArgumentError, CheckpointError, RunFolderError
from blackprop.experiments.engine._callbacks import Watch, Watches
from blackprop.experiments.engine._execution import ORDINARY, Execution, Workers
from blackprop.experiments.engine._hardware import FLAWLESS, Imperfections, Kind
from blackprop.experiments.engine._loop import train
from blackprop.experiments.engine._trial import Cell, plain
from blackprop.experiments.methods._methods import Frozen, Method, Oracle
from blackprop.experiments.records import _json_lines as json_lines
from blackprop.experiments.records._run_folder import Existing, RunFolder
from blackprop.experiments.tasks._task import Task


@dataclass(frozen=True)
class Grid:
    """Methods × devices × seeds on one task: what a run folder is the run of. Training once is a grid of one cell."""

    task: Task
    methods: tuple[Method, ...]
    hardware: tuple[Kind, ...]
    seeds: tuple[int, ...] = (0,)
    imperfections: Imperfections = FLAWLESS
    execution: Execution = ORDINARY

    def __post_init__(self) -> None:
        names = [method.name for method in self.methods]
        for what, values in (("methods", names), ("hardware", self.hardware), ("seeds", self.seeds)):
            if not values or len(set(values)) != len(values):
                raise ArgumentError(f"`Grid({what}=...)` takes at least one, each once, got {values}")
        if min(self.seeds) < 0:
            raise ArgumentError(f"`Grid(seeds=...)` must not be negative, got {self.seeds}")

    def cells(self) -> list[Cell]:
        """In the order they are run: a device's seeds together, and in each seed the methods in turn."""
        return [
            Cell(self.task, method, hardware, seed, self.imperfections, self.execution)
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
        }

    def check(self) -> None:
        """Build each method on each device once, so that parts that do not fit are refused before anything is spent."""
        for hardware in self.hardware:
            for method in self.methods:
                Cell(self.task, method, hardware, self.seeds[0], self.imperfections).model()


def with_references(methods: Iterable[Method]) -> tuple[Method, ...]:
    """`methods` with oracle and frozen in front, where they are not among them."""
    methods = tuple(methods)
    kinds = {type(method) for method in methods}
    return tuple(reference() for reference in (Oracle, Frozen) if reference not in kinds) + methods


def carry_out(grid: Grid, path: Path, watch: Watch, existing: Existing = Existing.REFUSE) -> dict[str, Any]:
    """Run every cell of `grid` in the run folder `path`; returns what summary.json then holds.

    A finished cell is in summary.json, written anew after each, and is not run again on resume. The checkpoint is that
    of the cell at work, or of the last one when all are done. An interruption costs the leg at work, nothing else.
    Of several processes the first writes and watches.
    """
    grid.check()
    workers = Workers(grid.execution)
    data = workers.in_turn(grid.task.data)
    config = {**grid.config(), "processes": workers.count}
    folder = workers.once(lambda: RunFolder.open(path, config, existing))
    cells = grid.cells()
    results = workers.once(lambda: begun(grid, folder, cells))
    told = watch if workers.first else Watches()
    for cell in cells:
        if _find(results, cell) is None:
            results.append(train(cell, data, folder, told, reference_scores(grid, results, cell), workers))
            if workers.first:
                folder.save_summary(summarised(grid, results))
                told.finished(results[-1])
    workers.once(folder.complete)
    workers.meet()
    return summarised(grid, results)


def gap_closed(results: list[dict[str, Any]], metric: str = "accuracy") -> list[float | None]:
    """`(score − mean frozen) / (mean oracle − mean frozen)` for each result, means over the seeds of its device.

    None where a reference is missing, or where the two do not differ (by 1e-9).
    """
    return [_gap(result, results, metric) for result in results]


def _gap(result: dict[str, Any], results: list[dict[str, Any]], metric: str) -> float | None:
    ends = []
    for reference in (Frozen().name, Oracle().name):
        same = [r[metric] for r in results if (r["method"], r["device"]) == (reference, result["device"])]
        if not same:
            return None
        ends.append(fmean(same))
    low, high = ends
    return None if abs(high - low) < 1e-9 else (result[metric] - low) / (high - low)


def summarised(grid: Grid, results: list[dict[str, Any]]) -> dict[str, Any]:
    """What summary.json holds once these cells are finished."""
    settings, objective = plain(grid.task), grid.task.objective
    gaps = gap_closed(results, objective.metric)
    return {
        "task": grid.task.name,
        "network": settings.get("network"),
        "metric": objective.metric,
        "higher_is_better": objective.higher_is_better,
        "results": [{**result, "gap_closed": gap} for result, gap in zip(results, gaps, strict=True)],
    }


def begun(grid: Grid, folder: RunFolder, cells: list[Cell]) -> list[dict[str, Any]]:
    """What is finished; the metrics of a leg that was never checkpointed are dropped, and those that were are there."""
    summary, state = folder.summary(), folder.checkpoint()
    if summary is None:
        folder.save_summary(summary := summarised(grid, []))
    known, results, metric = {tag(cell.key) for cell in cells}, summary["results"], grid.task.objective.metric
    if state is not None and not (isinstance(of := state.get("cell"), dict) and tag(of) in known):
        raise CheckpointError(f"the checkpoint in {folder.path} is of none of this run's cells")
    for result in results:
        if tag(result) not in known or not _is_number(result.get(metric)):
            named = " ".join(map(str, tag(result)))
            raise RunFolderError(f"{folder.path / 'summary.json'} holds a result ({named}) that is none of this run's")
    finished = {tag(result) for result in results}
    lines = folder.metrics()
    at_work = [] if state is None or tag(state["cell"]) in finished else state["lines"]
    whole = [line for line in lines if json_lines.is_cell(line) and _is_number(line.get(metric))]
    kept = [*(line for line in whole if tag(line) in finished), *at_work]
    if kept != lines:
        folder.replace_metrics(kept)
    return results


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _find(results: list[dict[str, Any]], cell: Cell) -> dict[str, Any] | None:
    return next((result for result in results if tag(result) == tag(cell.key)), None)


def reference_scores(grid: Grid, results: list[dict[str, Any]], cell: Cell) -> tuple[float, float] | None:
    """The scores of frozen and oracle on the cell's device at its seed, where both are finished."""
    metric = grid.task.objective.metric
    same = {r["method"]: r[metric] for r in results if (r["device"], r["seed"]) == (cell.hardware.value, cell.seed)}
    low, high = (same.get(reference.name) for reference in (Frozen(), Oracle()))
    return None if low is None or high is None else (low, high)


def tag(entry: Any) -> tuple[Any, ...]:
    """Which cell a result, a line or a key is of."""
    return tuple(entry.get(name) for name in ("method", "device", "seed"))
