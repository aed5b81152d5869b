"""The number of steps of a trial and its learning rates: from its task, or from an allowance."""

from __future__ import annotations

import abc
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import count
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from blackprop.experiments.engine._allowance import Allowance, asked
from blackprop.optim import DriftFloor


class Pace(abc.ABC):
    """Yield the steps of each segment, and set the learning rates before, between and after them."""

    total: int
    """The steps of the whole trial; an estimate within an allowance."""

    @abc.abstractmethod
    def steps(self, began: int) -> Iterator[int]:
        """Yield the step numbers of a segment that begins with step `began`."""

    @abc.abstractmethod
    def is_last(self, step: int) -> bool:
        """Return whether `step` is known to end its segment."""

    @abc.abstractmethod
    def is_done(self, steps: int) -> bool:
        """Return whether the trial ends after `steps` steps."""

    @abc.abstractmethod
    def limits(self) -> AbstractContextManager[None]:
        """Return the context of the steps of a segment, which enforces limits."""

    @abc.abstractmethod
    def stepped(self) -> None:
        """Update the schedules after an optimizer step."""

    @abc.abstractmethod
    def evaluated(self, score: float) -> None:
        """Update the schedules after an evaluation."""

    @abc.abstractmethod
    def state(self) -> list[dict[str, Any]]:
        """Return the state of the schedules for a checkpoint."""

    @abc.abstractmethod
    def load(self, state: Sequence[dict[str, Any]]) -> None:
        """Restore the state returned by `state`."""


class TaskPace(Pace):
    """The task's own number of steps, segments and schedules."""

    def __init__(self, schedules: Sequence[LRScheduler], total: int, segment: int) -> None:
        self.total, self._segment, self._schedules = total, segment, tuple(schedules)

    def steps(self, began: int) -> Iterator[int]:
        yield from range(began, min(began + self._segment, self.total))

    def is_last(self, step: int) -> bool:
        return step + 1 == self.total or (step + 1) % self._segment == 0

    def is_done(self, steps: int) -> bool:
        return steps >= self.total

    def limits(self) -> AbstractContextManager[None]:
        return nullcontext()

    def stepped(self) -> None:
        for schedule in self._schedules:
            if not isinstance(schedule, ReduceLROnPlateau):
                schedule.step()

    def evaluated(self, score: float) -> None:
        for schedule in self._schedules:
            if isinstance(schedule, ReduceLROnPlateau):
                schedule.step(score)

    def state(self) -> list[dict[str, Any]]:
        return [schedule.state_dict() for schedule in self._schedules]

    def load(self, state: Sequence[dict[str, Any]]) -> None:
        for mine, kept in zip(self._schedules, state, strict=True):
            mine.load_state_dict(kept)


class AllowancePace(Pace):
    """Make steps until the next one would exceed the allowance, in one segment.

    `rate = initial rate · (1 + cos(π · share spent)) / 2`, so the rate of every method falls to 0 at the end, or to the
    floors of a `DriftFloor` among the task's schedules, which otherwise are not used. The cost of the next step is
    assumed to be the highest cost so far. The first step is not counted for this, because it may include calibration.
    """

    def __init__(
        self,
        allowance: Allowance,
        model: nn.Module,
        optimizers: Sequence[Optimizer],
        schedules: Sequence[LRScheduler] = (),
    ) -> None:
        self.allowance, self.total, self._model = allowance, 0, model
        self._optimizers = optimizers
        self._floors = [schedule for schedule in schedules if isinstance(schedule, DriftFloor)]

    def steps(self, began: int) -> Iterator[int]:
        if began:  # resumed after the only segment
            return
        groups = [
            group for optimizer in self._optimizers for group in optimizer.param_groups
        ]  # `load` replaces the groups
        rates = [(group, group.get("initial_lr", group["lr"])) for group in groups]
        dearest = (0, 0)
        for step in count():
            if (share := self.allowance.share(self._model, dearest)) is None:
                return
            self.total = round(step / share) if share else 0
            for group, rate in rates:
                group["lr"] = rate * (1 + math.cos(math.pi * share)) / 2
            for floor in self._floors:
                floor.hold()
            before = asked(self._model)
            yield step
            if step:
                rows, programmings = (now - then for now, then in zip(asked(self._model), before, strict=True))
                dearest = max(dearest[0], rows), max(dearest[1], programmings)

    def is_last(self, step: int) -> bool:
        del step
        return False

    def is_done(self, steps: int) -> bool:
        return steps > 0

    def limits(self) -> AbstractContextManager[None]:
        return self.allowance.enforced(self._model)

    def stepped(self) -> None:
        """Measure the drift where it is due. The rates are set before each step."""
        for floor in self._floors:
            floor.watch()

    def evaluated(self, score: float) -> None:
        del score

    def state(self) -> list[dict[str, Any]]:
        return []

    def load(self, state: Sequence[dict[str, Any]]) -> None:
        del state
