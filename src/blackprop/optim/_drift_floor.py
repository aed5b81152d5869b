"""Learning rates that do not fall to zero while a device drifts."""

from __future__ import annotations

import math
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from blackprop.errors import ArgumentError, BudgetExhausted
from blackprop.nn._drift_watch import ReferenceReading
from blackprop.nn._layer import PhysicalLayer

FOLLOW = 3.0  # rates for a drift by one unit a step


class DriftFloor(LRScheduler):
    """Wraps a learning-rate scheduler and holds the rate of θ at a multiple of the measured drift:

    `rate = max(scheduled, follow · v)`, v the drift of the device a step (root mean square, units of θ).

    A schedule that ends at zero freezes θ, and a device that drifts then loses its training. Adam moves θ by
    at most its rate in a step, and by far less where gradients of batches disagree, so the rate must exceed the drift
    by a factor. On a device that stays, the schedule is unchanged.

    Every `every` steps up to 4 rows of an earlier batch are read again at their setting of then, and at a setting
    beside it, by which the change of the readings is converted to one of θ. The largest of the last three measurements
    counts.

    **Costs** each time 12 rows and 2 programmings of each device whose θ is trained, booked as `SURROGATE`. Where the
    budget excludes them, the rate keeps the floor that was found last.

    **Arguments:**

    - `scheduler`: of the optimizer that holds θ. Call `step` of this object in its place.
    - `model`: its physical layers are watched.
    - `every` (default 20): steps.
    - `follow` (default 3): by measurements on a mesh whose phases drift steadily (decision 43).

    **Raises** `ArgumentError` for numbers out of range, or an optimizer that has the θ of none of the layers.
    """

    inner: LRScheduler
    every: int
    follow: float
    steps: int

    def __init__(self, scheduler: LRScheduler, model: nn.Module, *, every: int = 20, follow: float = FOLLOW) -> None:
        if not isinstance(scheduler, LRScheduler):
            raise ArgumentError(f"`DriftFloor(scheduler=...)` takes a learning-rate scheduler, got {scheduler!r}")
        if not isinstance(every, int) or every < 1:
            raise ArgumentError(f"`DriftFloor(every=...)` must be a whole number from 1, got {every!r}")
        if not 0 < follow < math.inf:
            raise ArgumentError(f"`DriftFloor(follow=...)` must be positive and finite, got {follow}")
        self.inner, self.every, self.follow = scheduler, every, follow
        self.optimizer: Optimizer = scheduler.optimizer
        groups = self.optimizer.param_groups
        layers = [module for module in model.modules() if isinstance(module, PhysicalLayer)]
        self.watched: list[tuple[PhysicalLayer, int]] = [
            (layer, index)
            for layer in layers
            for index, group in enumerate(groups)
            if any(parameter is layer.theta for parameter in group["params"])
        ]
        if not self.watched:
            raise ArgumentError("`DriftFloor(model=...)`: the optimizer holds the theta of none of its layers")
        self.references: list[ReferenceReading | None] = [None] * len(self.watched)
        self.drifts: list[list[float]] = [[] for _ in self.watched]
        """The last three drifts a step of each watched layer, in units of θ."""
        self.steps = 0
        self.scheduled: list[Any] = [group["lr"] for group in groups]
        """The rates that the wrapped scheduler asks for."""
        self._raise()

    @property
    def floors(self) -> list[float]:
        """The least rate of each parameter group; 0 where none is held."""
        floors = [0.0] * len(self.scheduled)
        for (_, index), drifts in zip(self.watched, self.drifts, strict=True):
            floors[index] = max(floors[index], self.follow * max(drifts, default=0.0))
        return floors

    def step(self, epoch: int | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Step the wrapped scheduler, and measure the drift every `every` steps."""
        for group, rate in zip(self.optimizer.param_groups, self.scheduled, strict=True):
            group["lr"] = rate  # schedulers compute the next rate from the present one
        self.inner.step() if epoch is None else self.inner.step(epoch)
        self.watch()
        self.hold()

    def watch(self) -> None:
        """Count a step, and measure the drift if that is due; for loops that set their rates themselves."""
        self.steps += 1
        if self.steps % self.every == 0:
            self._measure()

    def hold(self) -> None:
        """Take the present rates of the optimizer as scheduled, and raise them to the floors."""
        self.scheduled = [group["lr"] for group in self.optimizer.param_groups]
        self._raise()

    def get_last_lr(self) -> list[float]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return [float(rate) for rate in self._last_lr]

    def state_dict(self) -> dict[str, Any]:
        """Return the state, with the rows that are to be read again."""
        rows = [None if each is None else dict(vars(each)) for each in self.references]
        own = {"scheduled": self.scheduled, "drifts": self.drifts, "steps": self.steps, "references": rows}
        return {"inner": self.inner.state_dict(), **own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.inner.load_state_dict(state_dict["inner"])
        self.scheduled, self.steps = list(state_dict["scheduled"]), int(state_dict["steps"])
        self.drifts = [list(each) for each in state_dict["drifts"]]
        rows = state_dict["references"]
        self.references = [None if each is None else ReferenceReading(**each) for each in rows]
        self._raise()

    def _measure(self) -> None:
        for number, (layer, _) in enumerate(self.watched):
            reference = self.references[number]
            if reference is not None and layer.theta.requires_grad:
                try:
                    found = layer.displacement(reference) / self.every
                except BudgetExhausted:
                    continue
                self.drifts[number] = [*self.drifts[number][-2:], found]
            self.references[number] = layer.reference()

    def _raise(self) -> None:
        for group, rate, floor in zip(self.optimizer.param_groups, self.scheduled, self.floors, strict=True):
            group["lr"] = max(rate, floor)
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]
