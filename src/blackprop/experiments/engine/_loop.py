"""The training loop that all recipes share.

A run of one cell is made of legs: so many optimizer steps, an evaluation, a line of metrics, a checkpoint. Every leg
begins from the checkpoint of the one before, with devices that hold no setting yet, whether the run was interrupted
there or not; which rows a step sees, how they are augmented and what dropout drops follow from the seed and the step
alone. A run that was killed at any step and resumed is therefore the uninterrupted one, bit for bit; and the
programming that an evaluation makes is never one that the next training step is spared, so evaluation can be left out
of the overheads.

Each leg ends with a diagnosis of every device: what was measured anyway, and how its last gradients compare to the
oracle's.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from blackprop.core._ledger import Ledger
from blackprop.errors import ArgumentError, CheckpointError
from blackprop.experiments.engine._against_oracle import seen
from blackprop.experiments.engine._bill import Bill
from blackprop.experiments.engine._callbacks import Watch
from blackprop.experiments.engine._execution import Workers, lent_generators
from blackprop.experiments.engine._trial import Cell, Stream
from blackprop.experiments.methods._rule import Batch
from blackprop.experiments.records._portrait import snapshot
from blackprop.experiments.records._run_folder import RunFolder, decoded, encoded
from blackprop.experiments.tasks._task import Data
from blackprop.nn._diagnostics import advise, diagnose
from blackprop.nn._layer import PhysicalLayer
from blackprop.nn._substitute import ledger
from blackprop.optim import SignalScaled

EVALUATED = 256  # rows at once, or a process's share of a batch where that is more


def train(
    cell: Cell,
    data: Data,
    folder: RunFolder,
    watch: Watch,
    ends: tuple[float, float] | None = None,
    workers: Workers | None = None,
) -> dict[str, Any]:
    """Train `cell` to its last step, from the folder's checkpoint where that is of this cell; returns its result.

    `ends`: the scores of frozen and oracle on the same device at the same seed, where they are known.
    """
    workers = workers or Workers()
    state = workers.once(folder.checkpoint)
    if state is None or state.get("cell") != cell.key:
        content = encoded(Training(cell, data, workers).state())
    else:
        content = encoded(state)
    with lent_generators():
        while True:
            training = Training(cell, data, workers, decoded(content))
            if training.done:
                break
            training.run_leg(watch)
            line = training.line(ends)
            training.lines.append(line)
            content = encoded(training.state())
            if workers.first:
                folder.save_checkpoint(content)
                folder.append_metrics(line)
                watch.evaluated(line)
    if workers.first:
        folder.save_portrait(cell.key, training.before, snapshot(training.model), training.tally, data.classes)
    return training.result()


class Training:
    """A cell between two legs: its model, optimizers and schedules, new or from a checkpoint's `state`."""

    def __init__(
        self, cell: Cell, data: Data, workers: Workers | None = None, state: Mapping[str, Any] | None = None
    ) -> None:
        task = cell.task
        self.cell, self.data, self.workers = cell, data, workers or Workers()
        rows = len(data.x_train)
        self.total_steps, self.leg = task.steps(rows), task.leg(rows)
        self.steps_per_epoch = rows // task.batch_size
        self.model = cell.model(self.workers.rank)
        self.devices = {n: m for n, m in self.model.named_modules() if isinstance(m, PhysicalLayer)}
        pairs = task.optimizers(self.model, self.total_steps)
        self.optimizers = [scaled(one, self.model) if cell.method.signal_scaled else one for one, _ in pairs]
        self.schedules = [schedule for _, schedule in pairs]
        place = cell.stream(Stream.LAYER, len(self.devices), self.workers.rank)  # after those of the devices
        self.rule = cell.method.rule(self.model, torch.Generator().manual_seed(place))
        self._check_sizes()
        self.before: dict[str, np.ndarray] = {}
        """The devices as they were drawn."""
        self.steps = 0
        self.loss, self.seconds = float("nan"), 0.0
        self.scores: dict[str, float] = {}
        self.tally = torch.zeros(0)
        self.lines: list[dict[str, Any]] = []
        self.layers: dict[str, dict[str, float | None]] = {}
        """The diagnosis of each device at the end of the last leg, by its name in the model."""
        if state is None:
            self.before = snapshot(self.model)
        else:
            self._load(state)
        self._prepared, self._steppers = self.workers.prepare(self.model, self.optimizers)
        self._shuffled = lru_cache(maxsize=1)(self._order)

    @property
    def done(self) -> bool:
        return self.steps >= self.total_steps or self._stale()

    @property
    def score(self) -> float:
        """What methods are compared by; not a number before the first evaluation."""
        return self.scores.get(self.cell.task.objective.metric, float("nan"))

    def run_leg(self, watch: Watch) -> None:
        """So many steps, and one evaluation."""
        start, began, losses = time.perf_counter(), self.steps, 0.0
        end = min(began + self.leg, self.total_steps)
        self.model.train()
        for step in range(began, end):
            losses += self._step(step, compare=step == end - 1)
            self.steps = step + 1
            watch.step(self._progress(losses / (self.steps - began)))
        self.loss = sum(self.workers.gather(losses)) / self.workers.count / (end - began)
        self._evaluate()
        for schedule in self.schedules:
            if isinstance(schedule, ReduceLROnPlateau):
                schedule.step(self.score)
        self.seconds += time.perf_counter() - start
        if not self.cell.method.signal_scaled:
            advise(self.model)

    def _step(self, step: int, compare: bool) -> float:
        """One optimizer step; the mean loss over this process's rows."""
        task, parts = self.cell.task, self.cell.execution.accumulate
        epoch, place = divmod(step, self.steps_per_epoch)
        mine = self.workers.share(self._shuffled(epoch)[place * task.batch_size :][: task.batch_size])
        torch.manual_seed(self.cell.stream(Stream.DROPOUT, step, self.workers.rank))
        draws = torch.Generator().manual_seed(self.cell.stream(Stream.AUGMENT, step, self.workers.rank))
        for optimizer in self._steppers:
            optimizer.zero_grad()
        whole, total = parts == self.workers.count == self.rule.passes() == 1, 0.0  # else of other rows too
        with seen(self.model) if compare and whole else nullcontext({}) as watched:
            for number, part in enumerate(mine.tensor_split(parts), start=1):
                with self.workers.averaging(self._prepared, last=number == parts):
                    total += self._backward(part, len(part) / len(mine), draws)
        if compare:
            self._compare(watched)
        if (norm := self.cell.execution.clip) is not None:
            self.workers.clip(self._digital(), norm)
        for optimizer, schedule in zip(self._steppers, self.schedules, strict=True):
            optimizer.step()
            if not isinstance(schedule, ReduceLROnPlateau):
                schedule.step()
        for layer in self.devices.values():
            self.workers.agree(layer.theta)
        return total

    def _backward(self, rows: Tensor, weight: float, draws: torch.Generator) -> float:
        x, y = (values[rows].to(self.workers.device) for values in (self.data.x_train, self.data.y_train))
        x, y = self.cell.task.augment(x, y, draws)

        def forward(x: Tensor) -> Tensor:
            with self.workers.autocast():
                return self._prepared(x)

        def criterion(output: Tensor, y: Tensor) -> Tensor:
            with self.workers.autocast():
                return weight * self.cell.task.objective.loss(output, y)

        return self.rule.add_gradients(Batch(x, y, forward, criterion), self.workers.backward)

    def _compare(self, watched: Mapping[str, Any]) -> None:
        for name, found in diagnose(self.model).items():
            cosines = watched[name].cosines() if name in watched else {"oracle_cosine": None, "oracle_cosine_x": None}
            self.layers[name] = {**found.plain(), **cosines}

    @torch.no_grad()
    def _evaluate(self) -> None:
        self.model.eval()
        objective, rows = self.cell.task.objective, self.workers.share(torch.arange(len(self.data.x_test)))
        size = max(EVALUATED, self.cell.task.batch_size // self.workers.count // self.cell.execution.accumulate)
        tallies = []
        for part in rows.split(size):
            x, y = (values[part].to(self.workers.device) for values in (self.data.x_test, self.data.y_test))
            with self.workers.autocast():
                output = self.model(x)
            tallies.append(objective.tally(output, y))
        self.tally = self.workers.sum(torch.stack(tallies).sum(0)).cpu()
        self.scores = objective.scores(self.tally)

    def _stale(self) -> bool:
        """Whether the last `patience` evaluations have brought no better score."""
        patience, objective = self.cell.execution.patience, self.cell.task.objective
        if patience is None or len(self.lines) <= patience:
            return False
        sign = 1 if objective.higher_is_better else -1
        scores = [sign * line[objective.metric] for line in self.lines]
        return max(scores[-patience:]) <= max(scores[:-patience])

    def _digital(self) -> list[torch.nn.Parameter]:
        return [p for p in self.model.parameters() if not self._is_theta(p)]

    def _is_theta(self, parameter: torch.nn.Parameter) -> bool:
        return any(parameter is layer.theta for layer in self.devices.values())

    def _order(self, epoch: int) -> Tensor:
        return torch.randperm(len(self.data.x_train), generator=self.cell.order(epoch))

    def _check_sizes(self) -> None:
        batch, parts = self.cell.task.batch_size, self.workers.count * self.cell.execution.accumulate
        if batch < parts:
            raise ArgumentError(
                f"a batch of {batch} rows cannot be shared by {self.workers.count} processes that take theirs in "
                f"{self.cell.execution.accumulate} part(s) each"
            )
        if self.workers.count > 1 and self.rule.passes() > 1:
            raise ArgumentError(
                f"`{self.cell.method.name}` is not shared by several processes, got {self.workers.count}"
            )
        if len(self.data.x_train) < batch:
            raise ArgumentError(f"{len(self.data.x_train)} training rows do not fill one batch of {batch}")

    def _progress(self, loss: float) -> dict[str, Any]:
        spent = ledger(self.model)
        at = {"step": self.steps, "steps": self.total_steps}
        cost = {"rows": spent.total_rows, "programmings": spent.total_programmings}
        health = {"cosine": self._lowest("oracle_cosine"), "snr": self._lowest("snr")}
        return {**self.cell.key, **at, "loss": loss, "scores": self.scores, **cost, **health}

    def _lowest(self, name: str) -> float | None:
        """Of the devices, at the end of the last leg."""
        found = [value for layer in self.layers.values() if (value := layer.get(name)) is not None]
        return min(found, default=None)

    def line(self, ends: tuple[float, float] | None = None) -> dict[str, Any]:
        """The line of metrics.jsonl; counts and seconds are of the whole cell so far, the gap is that between `ends`
        (frozen, oracle), and None where they are not known.
        """
        done = {"epoch": self.steps / self.steps_per_epoch, "step": self.steps, "loss": self.loss, **self.scores}
        low, high = ends or (0.0, 0.0)
        gap = (self.score - low) / (high - low) if abs(high - low) > 1e-9 else None
        health = {"gap_closed": gap, "rates": self._rates(), "layers": self.layers}
        return {**self.cell.key, **done, **self._bill(), "seconds": self.seconds, **health}

    def result(self) -> dict[str, Any]:
        """The entry of summary.json, but for the gap closed, which takes the other cells."""
        return {**self.cell.key, **self.scores, "gap_closed": None, "steps": self.steps, **self._bill()}

    def _rates(self) -> dict[str, float]:
        """The learning rates as they stand, of the digital parameters (the first group) and of θ."""
        found: dict[str, float] = {}
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            found.setdefault("theta" if any(map(self._is_theta, group["params"])) else "digital", group["lr"])
        return found

    def _bill(self) -> dict[str, Any]:
        """Of all processes."""
        own = [(layer.ledger.state_dict(), layer.theta.requires_grad) for layer in self.devices.values()]
        everyone = [entry for process in self.workers.gather(own) for entry in process]
        return Bill.of([(_ledger(state), trained) for state, trained in everyone], self.steps).plain()

    def state(self) -> dict[str, Any]:
        """All that the next leg depends on. Other processes' devices, ledgers and memories are beside the model."""
        own = {name: layer.state_dict() for name, layer in self.devices.items()} if self.workers.rank else {}
        return {
            "cell": self.cell.key,
            "step": self.steps,
            "loss": self.loss,
            "scores": self.scores,
            "seconds": self.seconds,
            "model": self.model.state_dict(),
            "processes": self.workers.gather(own),
            "rule": self.rule.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "schedules": [schedule.state_dict() for schedule in self.schedules],
            "tally": self.tally,
            "before": {name: torch.from_numpy(array) for name, array in self.before.items()},
            "lines": self.lines,
            "layers": self.layers,
        }

    def _load(self, state: Mapping[str, Any]) -> None:
        try:
            self.model.load_state_dict(state["model"])
            for name, layer in state["processes"][self.workers.rank].items():
                self.model.get_submodule(name).load_state_dict(layer)
            self.rule.load_state_dict(state.get("rule", {}))
            for mine, kept in zip(self.optimizers, state["optimizers"], strict=True):
                mine.load_state_dict(kept)
            for mine, kept in zip(self.schedules, state["schedules"], strict=True):
                mine.load_state_dict(kept)
            self.before = {name: tensor.numpy() for name, tensor in state["before"].items()}
            self.lines, self.layers, self.scores = list(state["lines"]), dict(state["layers"]), dict(state["scores"])
            self.steps, self.loss = int(state["step"]), float(state["loss"])
            self.tally, self.seconds = state["tally"], float(state["seconds"])
        except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
            reason = (str(error) or repr(error)).splitlines()[0]
            raise CheckpointError(
                f"the checkpoint does not fit this {self.cell.task.name} network: {reason}"
            ) from error


def scaled(optimizer: torch.optim.Optimizer, model: torch.nn.Module) -> torch.optim.Optimizer:
    """The optimizer, its steps of θ as long as they are trustworthy, where it holds any of `model`."""
    thetas = {id(m.theta) for m in model.modules() if isinstance(m, PhysicalLayer) and m.theta.requires_grad}
    held = any(id(p) in thetas for group in optimizer.param_groups for p in group["params"])
    return SignalScaled(optimizer, model) if held else optimizer


def _ledger(state: Mapping[str, Any]) -> Ledger:
    found = Ledger()
    found.load_state_dict(state)
    return found
