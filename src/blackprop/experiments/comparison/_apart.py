"""Trials run separately, in any order. The run folder is the same as of trials run one after another."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from blackprop.experiments.comparison._grid import Grid
from blackprop.experiments.comparison._in_turn import compare_in_turn
from blackprop.experiments.comparison._summary import begun, reference_scores, summarised
from blackprop.experiments.engine._callbacks import Callback
from blackprop.experiments.engine._live import LiveCallback
from blackprop.experiments.engine._trial import Trial
from blackprop.experiments.records._result import gap, tag
from blackprop.experiments.records._run_folder import Existing, RunFolder, encoded

AT_WORK = "trials"  # subfolder of the run folder for unfinished trials
Job = tuple[Grid, Path]  # a grid of one trial, and the folder of its run
Apart = Callable[[Sequence[Job]], Generator[int]]
"""Runs the jobs by `run_alone`, in any order and place, and yields the number of each job when it is done."""


def compare_apart(grid: Grid, path: Path, callback: Callback, existing: Existing, apart: Apart) -> dict[str, Any]:
    """Run every trial of `grid` in the run folder `path` by `apart`, and return the content of summary.json.

    An unfinished trial has its own run in the folder `trials`, from which it resumes. When it is done, its files are
    merged into the files of the run. The result is the same as of `compare_in_turn`, and each of the two functions can
    resume a run of the other.
    """
    grid.check()
    grid.task.data()  # download once, for all jobs
    folder = RunFolder.open(path, {**grid.config(), "processes": 1}, existing)
    if existing is Existing.OVERWRITE:
        shutil.rmtree(path / AT_WORK, ignore_errors=True)
    trials = grid.trials()
    results = begun(grid, folder, trials)
    finished = {tag(result) for result in results}
    lines = [line for line in folder.metrics() if tag(line) in finished]
    jobs = [(_alone(trial), path / AT_WORK / _name(trial)) for trial in trials if tag(trial.key) not in finished]
    _hand_over(folder, jobs)
    with closing(apart(jobs)) as done:
        for number in done:
            one = RunFolder(jobs[number][1])
            (result,), more = (one.summary() or {})["results"], one.metrics()
            results, lines = _in_order(trials, [*results, result]), _in_order(trials, [*lines, *more])
            _take_over(folder, one, grid, results, lines)
            for line in more:
                callback.evaluated(line)
            callback.finished(result)
    _tell_gaps(folder, grid, results)
    folder.complete()
    shutil.rmtree(path / AT_WORK, ignore_errors=True)
    return summarised(grid, results)


def run_alone(grid: Grid, path: Path) -> None:
    """Run or resume a grid of one trial in the folder `path`. No other process may use the folder."""
    existing = Existing.RESUME if (path / "config.json").exists() else Existing.REFUSE
    if existing is Existing.REFUSE:  # it was killed before it wrote its configuration
        shutil.rmtree(path, ignore_errors=True)
    with LiveCallback(path, grid.allowance, go_on=existing is Existing.RESUME) as live:
        compare_in_turn(grid, path, live, existing)


def _alone(trial: Trial) -> Grid:
    """Return a grid with this trial only."""
    return Grid(
        trial.task,
        (trial.method,),
        (trial.hardware,),
        (trial.seed,),
        trial.imperfections,
        trial.execution,
        trial.allowance,
    )


def _name(trial: Trial) -> str:
    return ".".join(str(part) for part in tag(trial.key))


def _in_order(trials: list[Trial], entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sort results or lines in the order in which `compare_in_turn` runs their trials."""
    places = {tag(trial.key): place for place, trial in enumerate(trials)}
    return sorted(entries, key=lambda entry: places[tag(entry)])


def _hand_over(folder: RunFolder, jobs: Sequence[Job]) -> None:
    """Give the checkpoint of a trial that `compare_in_turn` has started to the job of this trial."""
    state = folder.checkpoint()
    for grid, path in jobs:
        (trial,) = grid.trials()
        if state is not None and tag(trial.key) == tag(state["trial"]) and not path.exists():
            RunFolder.open(path, {**grid.config(), "processes": 1}).save_checkpoint(encoded(state))


def _take_over(
    folder: RunFolder, one: RunFolder, grid: Grid, results: list[dict[str, Any]], lines: list[dict[str, Any]]
) -> None:
    """Merge the files of a finished trial into the run: summary.json last, because it marks the trial as finished."""
    trials = grid.trials()
    for portrait in (one.path / "portraits").glob("*.npz"):
        (folder.path / "portraits").mkdir(exist_ok=True)
        shutil.move(portrait, folder.path / "portraits" / portrait.name)
    if one.path.name == _name(trials[-1]) and (state := one.checkpoint()) is not None:
        folder.save_checkpoint(encoded(state))
    folder.replace_metrics([_with_gap(grid, results, line) for line in lines])
    folder.save_summary(summarised(grid, results))


def _tell_gaps(folder: RunFolder, grid: Grid, results: list[dict[str, Any]]) -> None:
    """Add the gaps closed to the lines of the checkpoint: its trial, run alone, did not know the references."""
    state = folder.checkpoint()
    lines = [_with_gap(grid, results, line) for line in state["lines"]] if state is not None else []
    if state is not None and lines != state["lines"]:
        folder.save_checkpoint(encoded({**state, "lines": lines}))


def _with_gap(grid: Grid, results: list[dict[str, Any]], line: dict[str, Any]) -> dict[str, Any]:
    """Add the gap closed to a line, from the references that `compare_in_turn` runs before its trial."""
    trials = {tag(trial.key): trial for trial in grid.trials()}
    order, score = list(trials), line[grid.task.objective.metric]
    before = [result for result in results if order.index(tag(result)) < order.index(tag(line))]
    return {**line, "gap_closed": gap(score, reference_scores(grid, before, trials[tag(line)]))}
