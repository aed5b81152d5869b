"""The training that a plan is made for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from blackprop.core._budget import Budget, undeclared
from blackprop.core._declaration import UNITS, Declaration
from blackprop.errors import ArgumentError, IncompatibleError

BASIC = ("rows", "programmings", *UNITS)  # of every device; others are the uses of a capability
BATCH, STEPS = 64, 1000  # of a training that is not described


@dataclass(frozen=True)
class Workload:
    """How long a training is, and how much of a device's time it may use.

    **Arguments:**

    - `batch_size`: rows of a training step; 64 by default.
    - `steps`: number of training steps; None (the default) where it is not known.
    - `rows`, `programmings`, `seconds`, `joules`: the most that may be spent, of each; None (the default) for no limit.
    - `actions`: the most uses of capabilities, by name; none by default.
    - `beside_exact`: whether another layer of the same budget has a gradient of θ without queries, so that each query
      of this one costs that layer a part of its steps; False by default.

    Raises `ArgumentError` for a batch or a number of steps under 1.
    """

    batch_size: int = BATCH
    steps: int | None = None
    rows: float | None = None
    programmings: float | None = None
    seconds: float | None = None
    joules: float | None = None
    actions: Mapping[str, float] = field(default_factory=dict)
    beside_exact: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ArgumentError(f"`plan(batch_size=...)` must be at least 1, got {self.batch_size}")
        if self.steps is not None and self.steps < 1:
            raise ArgumentError(f"`plan(steps=...)` must be at least 1, got {self.steps}")

    @classmethod
    def within(
        cls,
        budget: Budget | Mapping[str, float] | None,
        batch_size: int = BATCH,
        steps: int | None = None,
        spec: Declaration | None = None,
    ) -> Workload:
        """The workload whose limits are those that are left of `budget`, for a device that declares `spec`."""
        limits = left(budget, spec)
        basic = [limits.pop(name, None) for name in BASIC]
        return cls(batch_size, steps, *basic, actions=limits)

    @property
    def limits(self) -> dict[str, float]:
        """The limits that there are, by name."""
        named: dict[str, float | None] = {name: getattr(self, name) for name in BASIC}
        return {**self.actions, **{name: limit for name, limit in named.items() if limit is not None}}

    def after(self, **spent: float) -> Workload:
        """The same training, once so many rows, programmings, seconds and joules have been spent."""
        basic = {name: limit for name, limit in self.limits.items() if name in BASIC}
        return replace(self, **{name: max(0, limit - spent.get(name, 0)) for name, limit in basic.items()})

    def steps_of(self, rows: int, programmings: int) -> int:
        """How many steps there are of so many rows and programmings each, those of the forward pass included; without
        limits, the steps that are known.
        """
        wanted = {"rows": rows, "programmings": programmings}
        counts = [self.limits[name] / each for name, each in wanted.items() if name in self.limits]
        known = [float(self.steps)] if self.steps is not None else [] if counts else [float(STEPS)]
        return max(1, int(min(counts + known)))


def left(budget: Budget | Mapping[str, float] | None, spec: Declaration | None = None) -> dict[str, float]:
    """Return the remainder of each limit of a budget, by name; a mapping may have any limit that `spec` knows."""
    if budget is None:
        return {}
    if not isinstance(budget, Budget):
        capabilities = spec.capabilities if spec is not None else ()
        known = {*BASIC, *(capability.name for capability in capabilities)}
        if not isinstance(budget, Mapping) or not known.issuperset(budget):
            raise ArgumentError(
                "`plan(budget=...)` takes a Budget, or limits named rows, programmings, seconds and joules, or as a "
                f"capability of {spec.name if spec is not None else 'the device'}, got {budget!r}"
            )
        budget = Budget(**budget)  # pyright: ignore[reportArgumentType]
    if budget.limits["joules"] is not None and spec is not None and spec.cost.energy is None:
        raise IncompatibleError(undeclared("joules", spec.name))
    return {name: max(0, limit - budget.spent[name]) for name, limit in budget.limits.items() if limit is not None}
