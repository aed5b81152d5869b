"""Compare methods over devices and seeds, in one run folder."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from blackprop.errors import ArgumentError
from blackprop.experiments.comparison._apart import compare_apart
from blackprop.experiments.comparison._grid import Grid
from blackprop.experiments.comparison._in_turn import compare_in_turn
from blackprop.experiments.comparison._processes import in_processes
from blackprop.experiments.engine._callbacks import SILENT, Callback
from blackprop.experiments.records._run_folder import Existing


def compare(
    grid: Grid, path: Path, callback: Callback = SILENT, existing: Existing = Existing.REFUSE, *, jobs: int = 1
) -> dict[str, Any]:
    """Run every trial of `grid` in the run folder `path`; returns the content of its summary.json.

    - `callback`: told of every step, evaluation and result; with several jobs, once a trial is finished.
    - `existing`: whether a folder that exists is refused, resumed or overwritten.
    - `jobs`: trials at a time, each in a process of its own with as many threads as this one, at least 1. The files
      and figures are the same.

    Finished trials are not run again on resume, and one that was interrupted goes on from its last checkpoint. An error
    of a trial ends the comparison, which can be resumed. Raises `RunFolderError` where the folder holds something else.
    """
    if jobs < 1:
        raise ArgumentError(f"`jobs` must be at least 1, got {jobs}")
    if jobs == 1:
        return compare_in_turn(grid, path, callback, existing)
    return compare_apart(grid, path.resolve(), callback, existing, partial(in_processes, jobs))
