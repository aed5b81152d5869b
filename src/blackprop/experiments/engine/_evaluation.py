"""The evaluation of a model on the test rows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from blackprop.experiments.engine._execution import Workers
from blackprop.experiments.engine._trial import Trial
from blackprop.experiments.tasks._task import Data

EVALUATED = 256  # rows at once, or a process's share of a batch if larger


@torch.no_grad()
def evaluate(trial: Trial, model: nn.Module, data: Data, workers: Workers) -> Tensor:
    """Return the objective's tally over all test rows and processes. The model stays in `eval()`."""
    model.eval()
    rows = workers.share(torch.arange(len(data.x_test)))
    size = max(EVALUATED, trial.task.batch_size // workers.count // trial.execution.accumulate)
    tallies = []
    for part in rows.split(size):
        x, y = (values[part].to(workers.device) for values in (data.x_test, data.y_test))
        with workers.autocast():
            output = model(x)
        tallies.append(trial.task.objective.tally(output, y))
    return workers.sum(torch.stack(tallies).sum(0)).cpu()
