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
    """Run every trial of `grid` in the run folder `path`, and return the content of its summary.json.

    - `grid`: the trials.
    - `path`: the run folder, created if missing.
    - `callback` (default: none): follows every step, evaluation and result. With several jobs, it is called when a
      trial is finished.
    - `existing` (default `Existing.REFUSE`): refuse, resume or overwrite an existing folder.
    - `jobs` (default 1): the number of parallel trials. Each has its own process, with as many threads as this one.
      Files and numbers do not depend on it.

    On resume, finished trials are not run again, and an interrupted trial continues from its last checkpoint. An error
    in a trial ends the comparison, which can be resumed.

    **Raises** `ArgumentError` if `jobs` is below 1, and `RunFolderError` if the folder cannot be used.

    ```python
    methods = OracleReference(), FrozenReference(), Default()
    grid = Grid(Digits(), methods, (Hardware.MZI_MESH,), seeds=(0, 1, 2))
    summary = compare(grid, Path("runs/digits"), existing=Existing.RESUME)
    ```
    """
    if jobs < 1:
        raise ArgumentError(f"`jobs` must be at least 1, got {jobs}")
    if jobs == 1:
        return compare_in_turn(grid, path, callback, existing)
    return compare_apart(grid, path.resolve(), callback, existing, partial(in_processes, jobs))
