"""Run the trials of a grid one after another, in this process or in several that share each trial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from blackprop.experiments.comparison._grid import Grid
from blackprop.experiments.comparison._summary import begun, reference_scores, summarised
from blackprop.experiments.engine._callbacks import SILENT, Callback
from blackprop.experiments.engine._execution import Workers
from blackprop.experiments.engine._train import train
from blackprop.experiments.records._result import tag
from blackprop.experiments.records._run_folder import Existing, RunFolder


def compare_in_turn(grid: Grid, path: Path, callback: Callback, existing: Existing) -> dict[str, Any]:
    """Run every trial of `grid` in the run folder `path`, and return the content of summary.json.

    summary.json is written after each trial, and the trials in it are not run again on resume. The checkpoint belongs
    to the current trial, or to the last one when all are done. An interruption loses only the current segment.
    If several processes share the run, the first one writes the files and calls the callback.
    """
    grid.check()
    workers = Workers(grid.execution)
    data = workers.in_turn(grid.task.data)
    config = {**grid.config(), "processes": workers.count}
    folder = workers.once(lambda: RunFolder.open(path, config, existing))
    trials = grid.trials()
    results = workers.once(lambda: begun(grid, folder, trials))
    told = callback if workers.first else SILENT
    for trial in trials:
        if tag(trial.key) not in {tag(result) for result in results}:
            ends = reference_scores(grid, results, trial)
            results.append(train(trial, data, told, folder=folder, ends=ends, workers=workers))
            if workers.first:
                folder.save_summary(summarised(grid, results))
                told.finished(results[-1])
    workers.once(folder.complete)
    workers.meet()
    return summarised(grid, results)
