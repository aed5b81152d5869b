"""The summary of a grid in its run folder: results, gaps closed, and where an interrupted one goes on."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from blackprop.errors import CheckpointError, RunFolderError
from blackprop.experiments.comparison._grid import Grid
from blackprop.experiments.engine._trial import Trial
from blackprop.experiments.methods._methods import FrozenReference, OracleReference
from blackprop.experiments.records._result import gap, is_number, is_trial, tag
from blackprop.experiments.records._run_folder import RunFolder


def gap_closed(results: list[dict[str, Any]], metric: str = "accuracy") -> list[float | None]:
    """`(score − mean frozen) / (mean oracle − mean frozen)` for each result, means over the seeds of its device.

    None where a reference is missing, or where the two do not differ (by 1e-9).
    """
    return [_gap(result, results, metric) for result in results]


def _gap(result: dict[str, Any], results: list[dict[str, Any]], metric: str) -> float | None:
    low, high = (
        [r[metric] for r in results if (r["method"], r["device"]) == (reference.name, result["device"])]
        for reference in (FrozenReference(), OracleReference())
    )
    return gap(result[metric], (fmean(low), fmean(high)) if low and high else None)


def summarised(grid: Grid, results: list[dict[str, Any]]) -> dict[str, Any]:
    """The content of summary.json once these trials are finished."""
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
    """The finished results. Lines of metrics are made to fit: those of a segment without a checkpoint are dropped, and
    those of the checkpoint are there.
    """
    summary, state = folder.summary(), folder.checkpoint()
    if summary is None:
        folder.save_summary(summary := summarised(grid, []))
    known, results, metric = {tag(trial.key) for trial in trials}, summary["results"], grid.task.objective.metric
    if state is not None and not (isinstance(of := state.get("trial"), dict) and tag(of) in known):
        raise CheckpointError(f"the checkpoint in {folder.path} is of none of this run's trials")
    for result in results:
        if tag(result) not in known or not is_number(result.get(metric)):
            named = " ".join(map(str, tag(result)))
            raise RunFolderError(f"{folder.path / 'summary.json'} holds a result ({named}) that is none of this run's")
    finished = {tag(result) for result in results}
    lines = folder.metrics()
    at_work = [] if state is None or tag(state["trial"]) in finished else state["lines"]
    whole = [line for line in lines if is_trial(line) and is_number(line.get(metric))]
    kept = [*(line for line in whole if tag(line) in finished), *at_work]
    if kept != lines:
        folder.replace_metrics(kept)
    return results


def reference_scores(grid: Grid, results: list[dict[str, Any]], trial: Trial) -> tuple[float, float] | None:
    """The scores of frozen and oracle on the trial's device at its seed, where both are finished."""
    metric = grid.task.objective.metric
    same = {r["method"]: r[metric] for r in results if (r["device"], r["seed"]) == (trial.hardware.value, trial.seed)}
    low, high = (same.get(reference.name) for reference in (FrozenReference(), OracleReference()))
    return None if low is None or high is None else (low, high)
