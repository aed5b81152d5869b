"""The common part of methods that train by pulses."""

from __future__ import annotations

import abc
import math
import warnings
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from blackprop.core._declaration import Declaration
from blackprop.core._packing import pack, unpack
from blackprop.core._procedure import Procedure
from blackprop.core._query import Purpose, Query
from blackprop.core.capabilities._pulse import Pulse
from blackprop.errors import ArgumentError, IncompatibleError, PulseWarning
from blackprop.estimators._base import Estimator

UNHEARD = 16  # backward passes without an optimizer that pulses, or steps without pulses, before a warning


class PulsedUpdate(nn.Module, Estimator, abc.ABC):
    """Trains the cells of a pulsed device; `bp.optim.Pulsed` calls `update` once a step.

    In the backward pass the rows x and the cotangents `g = ∂L/∂y` are kept, without queries. The gradient that autograd
    receives is that of the gains θ along themselves, `θ Σ_b ⟨g_b, y_b⟩/|θ|²`; θ itself stays. The step then asks for
    the pulses, in the ledger and the budget of the layer, as `PARAMETER`.

    Holds state (digital filters, counters), which a checkpoint of the layer saves: use one for each layer.

    **Raises** `IncompatibleError` for a device that does not declare `Pulse`, is not linear, or has another number of
    tiles than the method needs.
    """

    tiles: ClassVar[int | None] = None
    """The number of tiles that the method needs; None for any."""
    roles: ClassVar[str] = ""
    """The tiles in words, for messages."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[tuple[Tensor, Tensor, Tensor]] = []  # pyright: ignore[reportIncompatibleMethodOverride]
        """Rows (B, d_in), cotangents (B, d_out) and the gradient for θ of backward passes that no step has used yet."""
        self.attached = False
        """Whether a `bp.optim.Pulsed` collects them."""
        self.waiting = False
        """Whether it has collected some that no step has sent yet."""
        self.steps = 0
        self._bound: str | None = None
        self._warned = False
        self._unheard = 0  # backward passes
        self._asked = 0.0  # pulses of the first steps

    def __getstate__(self) -> dict[str, Any]:
        """A copy has no optimizer yet."""
        return {**self.__dict__, "kept": [], "attached": False, "waiting": False}

    @property
    def bias_order(self) -> int | None:
        return None

    def check(self, spec: Declaration) -> None:
        spec.capability(Pulse)
        name = type(self).__name__
        if not spec.linear:
            raise IncompatibleError(f"`{name}` needs a linear device and {spec.name} is not declared linear")
        if self.tiles is not None and spec.theta.size != self.tiles:
            gains = "(1,)" if self.tiles == 1 else f"(γ, {'..., ' if self.tiles > 2 else ''}1)"
            raise IncompatibleError(
                f"`{name}` needs {self.tiles} tile{'s' if self.tiles > 1 else ''}{self.roles} and {spec.name} has "
                f"{spec.theta.size}: give the device `gains={gains}`"
            )

    def bind(self, spec: Declaration) -> None:
        if self._bound is not None:
            raise IncompatibleError(f"this {type(self).__name__} already serves {self._bound}; make one for each layer")
        self.check(spec)
        self._bound = spec.name
        self._allocate(spec)

    def _allocate(self, spec: Declaration) -> None:
        """Register the buffers for a device of this size."""
        del spec

    def grad_theta(
        self, x: Tensor, theta: Tensor, y: Tensor, grad_y: Tensor, spec: Declaration, generator: torch.Generator
    ) -> Procedure[Tensor]:
        del spec, generator
        along = theta * ((grad_y * y).sum() / theta.square().sum())
        if self.training and self.attached:
            self.kept.append((x.detach().flatten(1), grad_y.detach().flatten(1), along))
        elif self.training and not self._warned:
            self._unheard += 1
            if self._unheard >= UNHEARD:
                self._warned = True
                warnings.warn(
                    f"{UNHEARD} backward passes, and no optimizer sends the pulses that `{type(self).__name__}` asks "
                    "for: the cells do not move. Wrap the optimizer: `bp.optim.Pulsed(optimizer, model)`",
                    PulseWarning,
                    stacklevel=2,
                )
        return along
        yield  # a procedure without queries

    def update(
        self, x: Tensor, grad_y: Tensor, rate: float, theta: Tensor, spec: Declaration, generator: torch.Generator
    ) -> Procedure[None]:
        """Return the procedure of one step: move the cells down the gradient `Σ_b g_b x_bᵀ` at this learning rate.

        - `x` (B, d_in), `grad_y` (B, d_out): rows and cotangents of the batch.
        - `rate`: the learning rate, at least 0.
        - `theta` (N,): the gains at which the layer is read.
        """
        yield from self._update(x, grad_y, rate, theta, spec, generator)
        self.steps += 1

    @abc.abstractmethod
    def _update(
        self, x: Tensor, grad_y: Tensor, rate: float, theta: Tensor, spec: Declaration, generator: torch.Generator
    ) -> Procedure[None]: ...

    # The queries of which updates are made.

    def _descend(self, tile: int, x: Tensor, step: Tensor, theta: Tensor, spec: Declaration) -> Query:
        """Trains that move a tile by the mean `−Σ_b step_b x_bᵀ`, a step down the gradient."""
        self._watch(x, step, spec.capability(Pulse))
        return self._outer(tile, x, -step, theta, spec)

    def _outer(self, tile: int, x: Tensor, d: Tensor, theta: Tensor, spec: Declaration) -> Query:
        """Trains that move a tile by the mean `Σ_b d_b x_bᵀ`."""
        return Query(spec.capability(Pulse).trains(x, d), _only(theta, tile), Purpose.PARAMETER, Pulse)

    def _counted(self, tile: int, counts: Tensor, theta: Tensor, spec: Declaration) -> Query:
        """Trains that give each cell of a tile its whole number of pulses (d_out, d_in)."""
        return Query(spec.capability(Pulse).counted(counts), _only(theta, tile), Purpose.PARAMETER, Pulse)

    def _columns(self, tile: int, columns: Tensor, theta: Tensor, spec: Declaration) -> Query:
        """Read columns of a tile: the reading is (len(columns), d_out)."""
        return Query(
            unit_rows(columns, theta, spec.d_in).unflatten(1, spec.in_shape), _only(theta, tile), Purpose.PARAMETER
        )

    def _watch(self, x: Tensor, d: Tensor, pulse: Pulse) -> None:
        """Warn if the gradients of the first steps ask for less than one pulse a step, over all cells."""
        if self.steps >= UNHEARD or not len(x):
            return
        self._asked += float((x.abs().sum(1).double() * d.abs().sum(1).double()).sum()) / pulse.granularity
        if self.steps == UNHEARD - 1 and 0 < self._asked < UNHEARD:
            warnings.warn(
                f"`{type(self).__name__}`: the first {UNHEARD} steps ask for {self._asked:.2g} pulses in all, "
                f"at a step of {pulse.granularity:.3g}, so that most steps move no cell; a learning rate "
                f"{UNHEARD / self._asked:.2g} times as large is the smallest that moves one cell a step",
                PulseWarning,
                stacklevel=2,
            )

    # Counters are plain numbers in the extra state; filters are buffers.

    def get_extra_state(self) -> Tensor:
        return pack({"steps": self.steps, **self._counters()})

    def set_extra_state(self, state: object) -> None:
        found = unpack(state)
        self.steps: int = int(found.pop("steps"))
        self._take_counters(found)

    def _counters(self) -> dict[str, Any]:
        return {}

    def _take_counters(self, state: dict[str, Any]) -> None:
        del state

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"


class ColumnTransfer(PulsedUpdate, abc.ABC):
    """The common part of methods that read a fast tile column by column, and write to the main tile from it.

    The fast tile is tile 0, the main tile is tile 1. After every `every` steps the next `columns` columns are read, in
    turn.
    """

    every: int
    columns: int

    tiles: ClassVar[int | None] = 2
    roles = " (a fast one and the main one)"

    def __init__(self, every: int = 1, columns: int = 1) -> None:
        super().__init__()
        whole(self, every=every, columns=columns)
        self.every, self.columns = every, columns
        self.next = 0  # the column that is read next

    def _due(self, spec: Declaration) -> Tensor | None:
        """The columns that are read after this step; None for none."""
        if (self.steps + 1) % self.every:
            return None
        return (self.next + torch.arange(min(self.columns, spec.d_in))) % spec.d_in

    def _send_and_read(self, train: Query, theta: Tensor, spec: Declaration) -> Procedure[tuple[Tensor, Tensor] | None]:
        """Send the train, and read the columns of the fast tile that are due: their numbers, and the reading
        (columns, d_out). None where none are due.
        """
        columns = self._due(spec)
        if columns is None:
            yield [train]
            return None
        _, read = yield [train, self._columns(0, columns, theta, spec)]
        self.next = (self.next + len(columns)) % spec.d_in
        return columns, read.flatten(1)

    def _counters(self) -> dict[str, Any]:
        return {"next": self.next}

    def _take_counters(self, state: dict[str, Any]) -> None:
        self.next: int = int(state["next"])


def _only(theta: Tensor, tile: int) -> Tensor:
    """The setting at which one tile alone is read and pulsed."""
    one = torch.zeros_like(theta)
    one[tile] = 1
    return one


def unit_rows(columns: Tensor, like: Tensor, width: int) -> Tensor:
    rows = torch.zeros(len(columns), width).to(like)
    rows[torch.arange(len(columns)), columns] = 1
    return rows


def positive(owner: object, **values: float) -> None:
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise ArgumentError(f"`{type(owner).__name__}({name}=...)` must be positive and finite, got {value}")


def share(owner: object, **values: float) -> None:
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ArgumentError(f"`{type(owner).__name__}({name}=...)` must be from 0 to 1, got {value}")


def whole(owner: object, **values: int) -> None:
    for name, value in values.items():
        if not (isinstance(value, int) and value >= 1):
            raise ArgumentError(f"`{type(owner).__name__}({name}=...)` must be a whole number from 1, got {value!r}")
