"""The training loop that all recipes share.

Every epoch begins from the checkpoint of the one before, with devices that hold no setting yet, whether the run was
interrupted there or not. A resumed run is therefore the uninterrupted one, bit for bit; and the programming that an
evaluation makes is never one that the next training step is spared, so evaluation can be left out of the overheads.

Each epoch ends with a diagnosis of every device: what was measured anyway, and how its last gradients compare to the
oracle's.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from blackprop.diagnostics import advise, diagnose
from blackprop.errors import CheckpointError
from blackprop.optim import SignalScaled
from blackprop.recipes.against_oracle import seen
from blackprop.recipes.bill import Bill
from blackprop.recipes.cell import Cell
from blackprop.recipes.run_folder import RunFolder
from blackprop.recipes.task import Data
from blackprop.substitute import ledger, param_groups


class Watch(Protocol):
    """Who is told how a run goes."""

    def step(self, progress: Mapping[str, Any]) -> None: ...
    def finished(self, result: Mapping[str, Any]) -> None: ...


def train(
    cell: Cell, data: Data, folder: RunFolder, watch: Watch, ends: tuple[float, float] | None = None
) -> dict[str, Any]:
    """Train `cell` to its last epoch, from the folder's checkpoint where that is of this cell; returns its result.

    `ends`: the accuracies of frozen and oracle on the same device at the same seed, where they are known.
    """
    state = folder.checkpoint()
    if state is None or state.get("cell") != cell.key:
        folder.save_checkpoint(Training(cell, data).state())
    training = Training(cell, data, folder.checkpoint())
    while training.epoch < cell.task.epochs:
        training.run_epoch(watch)
        folder.append_metrics(training.line(ends))
        folder.save_checkpoint(training.state())
        training = Training(cell, data, folder.checkpoint())
    return training.result()


class Training:
    """A cell between two epochs: its model, optimizer, schedule and data order, new or from a checkpoint's `state`."""

    def __init__(self, cell: Cell, data: Data, state: Mapping[str, Any] | None = None) -> None:
        task = cell.task
        self.cell, self.data = cell, data
        self.steps_per_epoch = len(data.x_train) // task.batch_size
        self.model = cell.model()
        adam = torch.optim.Adam(param_groups(self.model, lr=task.lr, device_lr=task.device_lr))
        self.optimizer = SignalScaled(adam, self.model) if cell.signal_scaled else adam
        total = task.epochs * self.steps_per_epoch
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, T_max=total)
        self.order = cell.order()
        self.epoch = 0
        self.loss, self.accuracy, self.seconds = float("nan"), 0.0, 0.0
        self.layers: dict[str, dict[str, float | None]] = {}
        """The diagnosis of each device at the end of the last epoch, by its name in the model."""
        if state is not None:
            self._load(state)

    @property
    def steps(self) -> int:
        return self.epoch * self.steps_per_epoch

    def run_epoch(self, watch: Watch) -> None:
        """One pass over the shuffled training rows, in whole batches, and one evaluation."""
        start = time.perf_counter()
        size, losses = self.cell.task.batch_size, 0.0
        shuffled = torch.randperm(len(self.data.x_train), generator=self.order)
        self.model.train()
        for step, batch in enumerate(shuffled.split(size)[: self.steps_per_epoch], start=1):
            last = step == self.steps_per_epoch
            losses += self._step(self.data.x_train[batch], self.data.y_train[batch], compare=last)
            watch.step(self._progress(step, losses / step))
        self.epoch += 1
        self.loss, self.accuracy = losses / self.steps_per_epoch, self._evaluate()
        self.seconds += time.perf_counter() - start
        if not self.cell.signal_scaled:
            advise(self.model)

    def _step(self, x: Tensor, y: Tensor, compare: bool) -> float:
        self.optimizer.zero_grad()
        with seen(self.model) if compare else nullcontext({}) as steps:
            loss = F.cross_entropy(self.model(x), y)
            loss.backward()
        if steps:
            found = diagnose(self.model)
            self.layers = {name: {**found[name].plain(), **step.cosines()} for name, step in steps.items()}
        self.optimizer.step()
        self.schedule.step()
        return loss.item()

    @torch.no_grad()
    def _evaluate(self) -> float:
        self.model.eval()
        right = self.model(self.data.x_test).argmax(1) == self.data.y_test
        return right.double().mean().item()

    def _progress(self, step: int, loss: float) -> dict[str, Any]:
        spent = ledger(self.model)
        done = {"epoch": self.epoch, "epochs": self.cell.task.epochs, "step": self.steps + step}
        cost = {"rows": spent.total_rows, "programmings": spent.total_programmings}
        health = {"cosine": self._lowest("oracle_cosine"), "snr": self._lowest("snr")}
        return {**self.cell.key, **done, "loss": loss, "accuracy": self.accuracy, **cost, **health}

    def _lowest(self, name: str) -> float | None:
        """Of the devices, at the end of the last epoch."""
        found = [value for layer in self.layers.values() if (value := layer[name]) is not None]
        return min(found, default=None)

    def line(self, ends: tuple[float, float] | None = None) -> dict[str, Any]:
        """The line of metrics.jsonl; counts and seconds are of the whole cell so far, the gap is that between `ends`
        (frozen, oracle), and None where they are not known.
        """
        done = {"epoch": self.epoch, "step": self.steps, "loss": self.loss, "accuracy": self.accuracy}
        low, high = ends or (0.0, 0.0)
        gap = (self.accuracy - low) / (high - low) if abs(high - low) > 1e-9 else None
        health = {"gap_closed": gap, "layers": self.layers}
        return {**self.cell.key, **done, **self._bill(), "seconds": self.seconds, **health}

    def result(self) -> dict[str, Any]:
        """The entry of summary.json, but for the gap closed, which takes the other cells."""
        found = {"accuracy": self.accuracy, "gap_closed": None}
        return {**self.cell.key, **found, **self._bill(), "seconds": self.seconds}

    def _bill(self) -> dict[str, Any]:
        return Bill.of_model(self.model, self.steps).plain()

    def state(self) -> dict[str, Any]:
        """All that the next epoch depends on."""
        return {
            "cell": self.cell.key,
            "epoch": self.epoch,
            "loss": self.loss,
            "accuracy": self.accuracy,
            "seconds": self.seconds,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "order": self.order.get_state(),
            "layers": self.layers,
        }

    def _load(self, state: Mapping[str, Any]) -> None:
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
            self.order.set_state(state["order"])
            self.layers = dict(state["layers"])
            self.epoch, self.loss = int(state["epoch"]), float(state["loss"])
            self.accuracy, self.seconds = float(state["accuracy"]), float(state["seconds"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise CheckpointError(
                f"the checkpoint does not fit this {self.cell.task.name} network: {reason}"
            ) from error
