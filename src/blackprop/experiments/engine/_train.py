"""Train one trial, with or without a run folder."""

from __future__ import annotations

from typing import Any

from blackprop.experiments.engine._callbacks import SILENT, Callback
from blackprop.experiments.engine._execution import Workers, lent_generators
from blackprop.experiments.engine._training import Training
from blackprop.experiments.engine._trial import Trial
from blackprop.experiments.methods._methods import SelfContained
from blackprop.experiments.records._portrait import snapshot
from blackprop.experiments.records._run_folder import RunFolder, decoded, encoded
from blackprop.experiments.tasks._task import Data


def train(
    trial: Trial,
    data: Data | None = None,
    callback: Callback = SILENT,
    *,
    folder: RunFolder | None = None,
    ends: tuple[float, float] | None = None,
    workers: Workers | None = None,
) -> dict[str, Any]:
    """Train `trial` to its end, and return its result: its names, scores and costs (the schema is in `records`).

    - `trial`: the task, method, device and seed.
    - `data` (default: loaded): the rows of the task.
    - `callback` (default: none): follows every step and evaluation.
    - `folder` (default None, no files): where checkpoints, metrics and the portrait are kept. If it holds a checkpoint
      of this trial, training resumes from it.
    - `ends` (default None): the scores of frozen and oracle on the same device at the same seed, for the gap closed in
      the metrics.
    - `workers` (default: those launched): the processes that share the trial.

    **Raises** `BudgetExhausted` if the allowance does not cover the first step.
    """
    workers = workers or Workers(trial.execution)
    data = data if data is not None else workers.in_turn(trial.task.data)
    state = workers.once(folder.checkpoint) if folder is not None else None
    known = state is not None and state.get("trial") == trial.key
    content = encoded(state if state is not None and known else Training(trial, data, workers).state())
    with lent_generators():
        training = Training(trial, data, workers, decoded(content))
        while not training.done:
            training.run_segment(callback)
            content = _end_segment(training, callback, folder, ends)
            if not training.done:
                training = Training(trial, data, workers, decoded(content))
    if workers.first and folder is not None:
        folder.save_portrait(trial.key, training.before, snapshot(training.model), training.tally, data.classes)
    return training.result()


def _end_segment(
    training: Training, callback: Callback, folder: RunFolder | None, ends: tuple[float, float] | None
) -> bytes:
    """Save and report the line of metrics, and return the checkpoint."""
    line = training.line(ends)
    training.lines.append(line)
    content = encoded(training.state())
    if training.workers.first:
        if folder is not None:
            if not isinstance(
                training.trial.method, SelfContained
            ):  # these have one segment, and another network than the task
                folder.save_checkpoint(content)
            folder.append_metrics(line)
        callback.evaluated(line)
    return content
