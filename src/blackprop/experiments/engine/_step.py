"""One optimizer step: its rows, their gradients, and the comparison with the oracle's gradients."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from blackprop.errors import ArgumentError
from blackprop.experiments.engine._against_oracle import seen
from blackprop.experiments.engine._execution import Workers
from blackprop.experiments.engine._trial import Stream, Trial
from blackprop.experiments.methods._rule import Batch, GradientRule
from blackprop.experiments.tasks._task import Data
from blackprop.monitoring._health import health
from blackprop.nn._layer import PhysicalLayer


class Stepper:
    """Make optimizer steps. The rows, their augmentation and dropout depend only on the seed and the step number."""

    def __init__(
        self,
        trial: Trial,
        data: Data,
        workers: Workers,
        model: nn.Module,
        rule: GradientRule,
        optimizers: list[Optimizer],
    ) -> None:
        self._trial, self._data, self._workers, self._rule = trial, data, workers, rule
        self._check_sizes()
        self._model = model
        self._thetas = [m.theta for m in model.modules() if isinstance(m, PhysicalLayer)]
        self._prepared, self._optimizers = workers.prepare(model, optimizers)
        self._shuffled = lru_cache(maxsize=1)(self._order)

    @property
    def per_epoch(self) -> int:
        """The steps of an epoch. Rows that do not fill a batch are left out."""
        return len(self._data.x_train) // self._trial.task.batch_size

    def step(self, step: int, layers: dict[str, dict[str, float | None]] | None = None) -> float:
        """Make one step, and return the mean loss over this process's rows. If `layers` is given, a diagnosis of each
        device is added to it.
        """
        parts, rank = self._trial.execution.accumulate, self._workers.rank
        mine = self._workers.share(self._rows(step))
        torch.manual_seed(self._trial.stream(Stream.DROPOUT, step, rank))
        draws = torch.Generator().manual_seed(self._trial.stream(Stream.AUGMENT, step, rank))
        for optimizer in self._optimizers:
            optimizer.zero_grad()
        whole, total = (
            parts == self._workers.count == self._rule.passes() == 1,
            0.0,
        )  # otherwise the gradient includes other rows
        with seen(self._model) if layers is not None and whole else nullcontext({}) as watched:
            for number, part in enumerate(mine.tensor_split(parts), start=1):
                with self._workers.averaging(self._prepared, last=number == parts):
                    total += self._backward(part, len(part) / len(mine), draws)
        if layers is not None:
            layers.update(self._diagnosed(watched))
        if (norm := self._trial.execution.clip) is not None:
            self._workers.clip([p for p in self._model.parameters() if not self.is_theta(p)], norm)
        for optimizer in self._optimizers:
            optimizer.step()
        for theta in self._thetas:
            self._workers.agree(theta)
        return total

    def is_theta(self, parameter: nn.Parameter) -> bool:
        """Return whether the parameter is the setting of a device."""
        return any(parameter is theta for theta in self._thetas)

    def _rows(self, step: int) -> Tensor:
        epoch, place = divmod(step, self.per_epoch)
        size = self._trial.task.batch_size
        return self._shuffled(epoch)[place * size :][:size]

    def _order(self, epoch: int) -> Tensor:
        return torch.randperm(len(self._data.x_train), generator=self._trial.order(epoch))

    def _backward(self, rows: Tensor, weight: float, draws: torch.Generator) -> float:
        x, y = (values[rows].to(self._workers.device) for values in (self._data.x_train, self._data.y_train))
        x, y = self._trial.task.augment(x, y, draws)

        def forward(x: Tensor) -> Tensor:
            with self._workers.autocast():
                return self._prepared(x)

        def criterion(output: Tensor, y: Tensor) -> Tensor:
            with self._workers.autocast():
                return weight * self._trial.task.objective.loss(output, y)

        return self._rule.add_gradients(Batch(x, y, forward, criterion), self._workers.backward)

    def _diagnosed(self, watched: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
        unknown = {"oracle_cosine": None, "oracle_cosine_x": None}
        layers = {name: module for name, module in self._model.named_modules() if isinstance(module, PhysicalLayer)}
        return {
            name: {**found, **(watched[name].cosines() if name in watched else unknown)}
            for name, found in health(layers).items()
        }

    def _check_sizes(self) -> None:
        batch, parts = self._trial.task.batch_size, self._workers.count * self._trial.execution.accumulate
        if batch < parts:
            raise ArgumentError(
                f"a batch of {batch} rows cannot be split over {self._workers.count} processes with "
                f"{self._trial.execution.accumulate} part(s) each"
            )
        if self._workers.count > 1 and (self._rule.passes() > 1 or self._trial.allowance is not None):
            shared = "an allowance" if self._trial.allowance is not None else f"`{self._trial.method.name}`"
            raise ArgumentError(f"{shared} cannot be shared by several processes, got {self._workers.count}")
        if len(self._data.x_train) < batch:
            raise ArgumentError(f"{len(self._data.x_train)} training rows do not fill one batch of {batch}")
