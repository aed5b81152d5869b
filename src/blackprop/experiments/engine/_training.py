"""The training of one trial, the same for every method, task and allowance.

Training consists of segments. A segment is a number of optimizer steps, an evaluation, a line of metrics and a
checkpoint. Every segment starts from the checkpoint of the previous one, with devices that are not programmed yet, even
if the run was not interrupted. A run that is killed at any step and resumed therefore gives bit-identical results. The
programming of an evaluation also never saves the next training step a programming, so overheads can exclude evaluation.
Within an allowance the whole trial is one segment.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from blackprop.errors import BudgetExhausted, CheckpointError
from blackprop.estimators.pulsed._base import PulsedUpdate
from blackprop.experiments.engine._allowance import Allowance, asked, physical_layers
from blackprop.experiments.engine._callbacks import Callback
from blackprop.experiments.engine._evaluation import evaluate
from blackprop.experiments.engine._execution import Workers
from blackprop.experiments.engine._pace import AllowancePace, Pace, TaskPace
from blackprop.experiments.engine._standing import Standing
from blackprop.experiments.engine._step import Stepper
from blackprop.experiments.engine._trial import Stream, Trial
from blackprop.experiments.methods._methods import SelfContained
from blackprop.experiments.records._portrait import snapshot
from blackprop.experiments.tasks._task import Data, Task
from blackprop.nn._diagnostics import advise
from blackprop.nn._layer import PhysicalLayer
from blackprop.optim import Pulsed, SignalScaled


class Training:
    """A trial between two segments: its model, optimizers and schedules, new or from a checkpoint's `state`."""

    def __init__(
        self, trial: Trial, data: Data, workers: Workers | None = None, state: Mapping[str, Any] | None = None
    ) -> None:
        task, rows = trial.task, len(data.x_train)
        self.trial, self.data, self.workers = trial, data, workers or Workers()
        self.model = trial.model(self.workers.rank)
        total, segment = task.steps(rows), task.segment(rows)
        pairs = with_pulse_rate(trial, self.model).optimizers(self.model, total)
        self.optimizers = [stepping(one, self.model, trial.method.signal_scaled) for one, _ in pairs]
        schedules = [schedule for _, schedule in pairs]
        self.pace: Pace = (
            TaskPace(schedules, total, segment)
            if trial.allowance is None
            else AllowancePace(self._for_steps(trial.allowance), self.model, self.optimizers, schedules)
        )
        place = trial.stream(Stream.LAYER, len(self.devices), self.workers.rank)  # after the streams of the devices
        self.rule = trial.method.rule(self.model, torch.Generator().manual_seed(place))
        self.before: dict[str, np.ndarray] = {}
        """Thumbnails of the devices before training."""
        self.standing = Standing(trial, total)
        self.tally = torch.zeros(0)
        self.lines: list[dict[str, Any]] = []
        self.ended = False
        if state is None:
            self.before = snapshot(self.model)
        else:
            self._load(state)
        self.stepper = Stepper(trial, data, self.workers, self.model, self.rule, self.optimizers)

    @property
    def devices(self) -> dict[str, PhysicalLayer]:
        """The physical layers by their names in the model."""
        return {name: module for name, module in self.model.named_modules() if isinstance(module, PhysicalLayer)}

    @property
    def steps(self) -> int:
        """The number of optimizer steps made."""
        return self.standing.steps

    @property
    def loss(self) -> float | None:
        """The mean loss of the last segment."""
        return self.standing.loss

    @property
    def done(self) -> bool:
        """Whether training has ended."""
        return self.ended or self.pace.is_done(self.steps) or self._is_stale()

    @property
    def score(self) -> float:
        """The score by which methods are compared; NaN before the first evaluation."""
        return self.standing.score

    def run_segment(self, callback: Callback) -> None:
        """Train for one segment, and evaluate once."""
        start = time.perf_counter()
        if isinstance(self.trial.method, SelfContained):
            self._fit(self.trial.method)
        else:
            self._step(callback)
        if self.ended or self.pace.is_done(self.steps):
            self.trial.method.finish(self.model, self.data.x_train, self.data.y_train)
        self.tally = evaluate(self.trial, self.model, self.data, self.workers)
        self.standing.scores = self.trial.task.objective.scores(self.tally)
        self.pace.evaluated(self.score)
        self.standing.seconds += time.perf_counter() - start
        if not self.trial.method.signal_scaled:
            advise(self.model)

    def _step(self, callback: Callback) -> None:
        began, losses, standing = self.steps, 0.0, self.standing
        self.model.train()
        with self.pace.limits():
            for step in self.pace.steps(began):
                try:
                    losses += self.stepper.step(step, standing.layers if self.pace.is_last(step) else None)
                except BudgetExhausted:
                    if not self.steps:  # a score without any training would mislead
                        raise
                    break
                self.pace.stepped()
                standing.steps = step + 1
                callback.step(standing.progress(self.model, losses / (self.steps - began), self.pace.total))
        if self.steps == began:
            rows, programmings = asked(self.model)
            raise BudgetExhausted(
                f"{rows} rows and {programmings} programmings were used before the first step, beyond "
                f"{self.trial.allowance}"
            )
        standing.loss = sum(self.workers.gather(losses)) / self.workers.count / (self.steps - began)

    def _fit(self, method: SelfContained) -> None:
        rows = len(self.data.x_train) if self.trial.allowance is None else self.trial.allowance.rows
        x, y = self.data.x_train, self.data.y_train
        model, self.standing.steps = method.fit(self.trial, self.model, x, y, rows)
        self.model, self.ended = model.to(self.workers.device), True

    def _for_steps(self, allowance: Allowance) -> Allowance:
        """Return the allowance minus the rows that the method reserves for its end."""
        kept_back = self.trial.method.rows_kept_back(len(self.data.x_train))
        return allowance.less(kept_back) if kept_back else allowance

    def _is_stale(self) -> bool:
        """Return whether the score has not improved in the last `patience` evaluations."""
        patience, objective = self.trial.execution.patience, self.trial.task.objective
        if patience is None or len(self.lines) <= patience:
            return False
        sign = 1 if objective.higher_is_better else -1
        scores = [sign * line[objective.metric] for line in self.lines]
        return max(scores[-patience:]) <= max(scores[:-patience])

    def line(self, ends: tuple[float, float] | None = None) -> dict[str, Any]:
        """Return the line of metrics.jsonl. Its gap closed refers to `ends`, the scores of frozen and oracle."""
        return self.standing.line(self.devices, self.workers, self._rates(), self.stepper.per_epoch, ends)

    def result(self) -> dict[str, Any]:
        """Return the result (see `records._result`), without the gap closed, which needs the other trials."""
        return self.standing.result(self.devices, self.workers)

    def _rates(self) -> dict[str, float]:
        """Return the current learning rates of the digital parameters (first group) and of θ."""
        found: dict[str, float] = {}
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            is_theta = any(map(self.stepper.is_theta, group["params"]))
            found.setdefault("theta" if is_theta else "digital", group["lr"])
        return found

    def state(self) -> dict[str, Any]:
        """Return all state that the next segment needs; the layers of the other processes are beside the model."""
        own = {name: layer.state_dict() for name, layer in self.devices.items()} if self.workers.rank else {}
        return {
            "trial": self.trial.key,
            **self.standing.state(),
            "model": self.model.state_dict(),
            "processes": self.workers.gather(own),
            "rule": self.rule.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "schedules": self.pace.state(),
            "tally": self.tally,
            "before": {name: torch.from_numpy(array) for name, array in self.before.items()},
            "lines": self.lines,
        }

    def _load(self, state: Mapping[str, Any]) -> None:
        try:
            self.model.load_state_dict(state["model"])
            for name, layer in state["processes"][self.workers.rank].items():
                self.model.get_submodule(name).load_state_dict(layer)
            self.rule.load_state_dict(state["rule"])
            for mine, kept in zip(self.optimizers, state["optimizers"], strict=True):
                mine.load_state_dict(kept)
            self.pace.load(state["schedules"])
            self.before = {name: tensor.numpy() for name, tensor in state["before"].items()}
            self.standing.load(state)
            self.lines, self.tally = list(state["lines"]), _tensor(state["tally"])
        except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
            reason = (str(error) or repr(error)).splitlines()[0]
            raise CheckpointError(
                f"the checkpoint does not fit this {self.trial.task.name} network: {reason}"
            ) from error


def stepping(optimizer: torch.optim.Optimizer, model: torch.nn.Module, scaled: bool) -> torch.optim.Optimizer:
    """Return the optimizer as it steps θ of `model`, if it holds any: by pulses, or, if `scaled`, by the signal."""
    layers = [m for m in physical_layers(model) if m.theta.requires_grad]
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not any(id(layer.theta) in held for layer in layers):
        return optimizer
    if any(isinstance(layer.estimator, PulsedUpdate) for layer in layers):
        return Pulsed(optimizer, model)
    return SignalScaled(optimizer, model) if scaled else optimizer


def with_pulse_rate(trial: Trial, model: torch.nn.Module) -> Task:
    """Return the task of the trial, with the learning rate of pulses if they train the model."""
    task: Any = trial.task  # a dataclass by protocol
    if not any(isinstance(layer.estimator, PulsedUpdate) for layer in physical_layers(model)):
        return task
    return replace(task, device_lr=trial.method.pulse_rate * task.device_lr)


def _tensor(value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(f"a tally must be a tensor, got {type(value).__name__}")
    return value
