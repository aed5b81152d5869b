"""The summary of a grid in its run folder: results, gaps closed, and the state of an interrupted run."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from blackprop.errors import CheckpointError, RunFolderError
from blackprop.experiments.comparison._grid import Grid
from blackprop.experiments.engine._trial import Trial
from blackprop.experiments.methods._references import FrozenReference, OracleReference
from blackprop.experiments.records._result import gap, is_number, is_trial, tag
from blackprop.experiments.records._run_folder import RunFolder


def gap_closed(results: list[dict[str, Any]], metric: str = "accuracy") -> list[float | None]:
    """Return `(score − mean frozen) / (mean oracle − mean frozen)` for each result, with means over the seeds of its
    device. None if a reference is missing, or if the two references differ by less than 1e-9.
    """
    return [_gap(result, results, metric) for result in results]


def _gap(result: dict[str, Any], results: list[dict[str, Any]], metric: str) -> float | None:
    low, high = (
        [r[metric] for r in results if (r["method"], r["device"]) == (reference.name, result["device"])]
        for reference in (FrozenReference(), OracleReference())
    )
    return gap(result[metric], (fmean(low), fmean(high)) if low and high else None)


def summarised(grid: Grid, results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the content of summary.json for these results."""
    objective = grid.task.objective
    gaps = gap_closed(results, objective.metric)
    network = grid.config()["settings"].get("network")
    return {
        "task": grid.task.name,
        "network": network,
        "metric": objective.metric,
        "higher_is_better": objective.higher_is_better,
        "results": [{**result, "gap_closed": gap} for result, gap in zip(results, gaps, strict=True)],
    }


def begun(grid: Grid, folder: RunFolder, trials: list[Trial]) -> list[dict[str, Any]]:
    """Return the finished results, and make the lines of metrics consistent: drop lines of a segment without a
    checkpoint, and restore the lines of the checkpoint.
    """
    summary, state = folder.summary(), folder.checkpoint()
    if summary is None:
        folder.save_summary(summary := summarised(grid, []))
    known, results, metric = {tag(trial.key) for trial in trials}, summary["results"], grid.task.objective.metric
    if state is not None and not (isinstance(of := state.get("trial"), dict) and tag(of) in known):
        raise CheckpointError(f"the checkpoint in {folder.path} does not belong to a trial of this run")
    for result in results:
        if tag(result) not in known or not is_number(result.get(metric)):
            named = " ".join(map(str, tag(result)))
            raise RunFolderError(f"{folder.path / 'summary.json'} holds a result ({named}) of another run")
    finished = {tag(result) for result in results}
    lines = folder.metrics()
    at_work = [] if state is None or tag(state["trial"]) in finished else state["lines"]
    whole = [line for line in lines if is_trial(line) and is_number(line.get(metric))]
    kept = [*(line for line in whole if tag(line) in finished), *at_work]
    if kept != lines:
        folder.replace_metrics(kept)
    return results


def reference_scores(grid: Grid, results: list[dict[str, Any]], trial: Trial) -> tuple[float, float] | None:
    """Return the scores of frozen and oracle on the trial's device at its seed, or None if one is not finished."""
    metric = grid.task.objective.metric
    same = {r["method"]: r[metric] for r in results if (r["device"], r["seed"]) == (trial.hardware.value, trial.seed)}
    low, high = (same.get(reference.name) for reference in (FrozenReference(), OracleReference()))
    return None if low is None or high is None else (low, high)
