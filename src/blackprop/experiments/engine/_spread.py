"""A comparison whose cells are run apart, in whatever order; its run folder comes out as that of `carry_out`."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from blackprop.experiments.engine._callbacks import Watch, Watches
from blackprop.experiments.engine._compare import Grid, begun, carry_out, reference_scores, summarised, tag
from blackprop.experiments.engine._trial import Cell
from blackprop.experiments.records._run_folder import Existing, RunFolder, encoded

CELLS = "cells"  # the folder, in the run folder, of those that are at work
Job = tuple[Grid, Path]  # a grid of one cell, and the folder of its run
Apart = Callable[[Sequence[Job]], Generator[int]]
"""Has `carry_out_one` carry the jobs out, in any order and place, and yields the number of each as it is done."""


def carry_out_apart(grid: Grid, path: Path, watch: Watch, existing: Existing, apart: Apart) -> dict[str, Any]:
    """Run every cell of `grid` in the run folder `path` as `apart` has it; returns what summary.json then holds.

    A cell at work is a run of its own in the folder `cells`, and goes on from there on resume, as does one that
    `carry_out` was at; when it is done it is taken over into the files of the run. Those come out as `carry_out` writes
    them, and either goes on with what the other began.
    """
    grid.check()
    grid.task.data()  # what is downloaded once is there for all
    folder = RunFolder.open(path, {**grid.config(), "processes": 1}, existing)
    if existing is Existing.OVERWRITE:
        shutil.rmtree(path / CELLS, ignore_errors=True)
    cells = grid.cells()
    results = begun(grid, folder, cells)
    finished = {tag(result) for result in results}
    lines = [line for line in folder.metrics() if tag(line) in finished]
    jobs = [(_alone(cell), path / CELLS / _name(cell)) for cell in cells if tag(cell.key) not in finished]
    _hand_over(folder, jobs)
    with closing(apart(jobs)) as done:
        for number in done:
            one = RunFolder(jobs[number][1])
            (result,), more = (one.summary() or {})["results"], one.metrics()
            results, lines = _in_order(cells, [*results, result]), _in_order(cells, [*lines, *more])
            _take_over(folder, one, grid, results, lines)
            for line in more:
                watch.evaluated(line)
            watch.finished(result)
    _tell_gaps(folder, grid, results)
    folder.complete()
    shutil.rmtree(path / CELLS, ignore_errors=True)
    return summarised(grid, results)


def carry_out_one(grid: Grid, path: Path) -> None:
    """A grid of one cell, from where it stands in the folder `path`; nobody else may be at it."""
    existing = Existing.RESUME if (path / "config.json").exists() else Existing.REFUSE
    if existing is Existing.REFUSE:  # killed at its very beginning
        shutil.rmtree(path, ignore_errors=True)
    carry_out(grid, path, Watches(), existing)


def _alone(cell: Cell) -> Grid:
    """The grid of one cell that is this one."""
    return Grid(cell.task, (cell.method,), (cell.hardware,), (cell.seed,), cell.imperfections, cell.execution)


def _name(cell: Cell) -> str:
    return ".".join(str(part) for part in tag(cell.key))


def _in_order(cells: list[Cell], entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Results or lines in the order in which `carry_out` runs their cells."""
    places = {tag(cell.key): place for place, cell in enumerate(cells)}
    return sorted(entries, key=lambda entry: places[tag(entry)])


def _hand_over(folder: RunFolder, jobs: Sequence[Job]) -> None:
    """The checkpoint of the cell that `carry_out` was at becomes that of its job."""
    state = folder.checkpoint()
    for grid, path in jobs:
        (cell,) = grid.cells()
        if state is not None and tag(cell.key) == tag(state["cell"]) and not path.exists():
            RunFolder.open(path, {**grid.config(), "processes": 1}).save_checkpoint(encoded(state))


def _take_over(
    folder: RunFolder, one: RunFolder, grid: Grid, results: list[dict[str, Any]], lines: list[dict[str, Any]]
) -> None:
    """The files of a finished cell into those of the run; summary.json last, since it says that the cell is there."""
    cells = grid.cells()
    for portrait in (one.path / "portraits").glob("*.npz"):
        (folder.path / "portraits").mkdir(exist_ok=True)
        shutil.move(portrait, folder.path / "portraits" / portrait.name)
    if one.path.name == _name(cells[-1]) and (state := one.checkpoint()) is not None:
        folder.save_checkpoint(encoded(state))
    folder.replace_metrics([_with_gap(grid, results, line) for line in lines])
    folder.save_summary(summarised(grid, results))


def _tell_gaps(folder: RunFolder, grid: Grid, results: list[dict[str, Any]]) -> None:
    """Enter into the checkpoint the gaps that its lines close: its cell, run alone, did not know the references."""
    state = folder.checkpoint()
    lines = [_with_gap(grid, results, line) for line in state["lines"]] if state is not None else []
    if state is not None and lines != state["lines"]:
        folder.save_checkpoint(encoded({**state, "lines": lines}))


def _with_gap(grid: Grid, results: list[dict[str, Any]], line: dict[str, Any]) -> dict[str, Any]:
    """The gap that a line closes between the references that `carry_out` runs before its cell."""
    cells = {tag(cell.key): cell for cell in grid.cells()}
    order, score = list(cells), line[grid.task.objective.metric]
    before = [result for result in results if order.index(tag(result)) < order.index(tag(line))]
    low, high = reference_scores(grid, before, cells[tag(line)]) or (0.0, 0.0)
    return {**line, "gap_closed": (score - low) / (high - low) if abs(high - low) > 1e-9 else None}
