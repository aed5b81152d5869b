"""The base of all devices: two methods, `program` and `read`, and a declaration."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter, index, is_
from typing import Any

from torch import Tensor

from blackprop.core._declaration import PROPERTIES, Cost, Coupling, Declaration, input_limits, limits_text
from blackprop.core._query import Count, Query, same_setting
from blackprop.core._round import Round
from blackprop.core._theta import ThetaSpec
from blackprop.core.capabilities._capability import Capability, Shape, declared, find
from blackprop.errors import ArgumentError, BusyError, InDoubtError, UnreachableError

_SAID = ("in_shape", "out_shape", "theta", "rows_each", *PROPERTIES)
_said_by = attrgetter(*_SAID)


class Device(abc.ABC):
    """A black box `y = f(x; θ)` that can only be programmed and read.

    To connect your own, call `super().__init__` with its known properties and write two methods. `program(theta)`
    writes a setting `(P,)`. `read(x)` sends the rows `(rows, *in_shape)` through the device at that setting and returns
    `(rows, *out_shape)` with the dtype of the rows. Autograd never runs through either.

    **Arguments:**

    - `in_shape`, `out_shape`: the shape of one row; a number for a vector.
    - `theta`: a `ThetaSpec`, or the number P of parameters.
    - `linear` (default False): whether `f(x; θ) = A(θ) x`.
    - `coupling` (default `NONE`): the outputs that a parameter can move.
    - `cost` (default none): the seconds of a programming and of a row. Without it, time is measured by the clock.
    - `noise` (default 0): the standard deviation of a reading relative to the root mean square of the outputs; sets the
      size of the steps of finite differences.
    - `x_low`, `x_high` (default None, no limit): the least and the greatest value of an input, inclusive. Rows outside
      them are refused.
    - `capabilities` (default none): actions beyond the two methods, see `Capability`.

    An undeclared property counts as unknown: methods remain correct and use more queries.

    **Raises** `ArgumentError` for arguments outside these ranges.

    A device serves one thread at a time, as an instrument does.
    """

    x_low: float | None
    x_high: float | None

    single: bool = True  # one device stands behind it, and `program` has written to it when it returns
    rows_each: int = 1  # rows with which it is driven for one row of a query: more in a wrapper that sends several

    def __init__(
        self,
        in_shape: int | Shape,
        out_shape: int | Shape,
        theta: int | ThetaSpec,
        *,
        linear: bool = False,
        coupling: Coupling = Coupling.NONE,
        cost: Cost | None = None,
        noise: float = 0.0,
        x_low: float | None = None,
        x_high: float | None = None,
        capabilities: Iterable[Capability] = (),
    ) -> None:
        if not 0 <= noise < math.inf:
            raise ArgumentError(f"`{type(self).__name__}(noise=...)` must be finite and not negative, got {noise}")
        self.in_shape: Shape = _shape("in_shape", in_shape)
        self.out_shape: Shape = _shape("out_shape", out_shape)
        self.theta: ThetaSpec = theta if isinstance(theta, ThetaSpec) else ThetaSpec(theta)
        self.linear = linear
        self.coupling = coupling
        self.cost: Cost = cost if cost is not None else Cost()
        self.noise = noise
        self.x_low, self.x_high = input_limits(type(self).__name__, x_low, x_high)
        self.capabilities: tuple[Capability, ...] = declared(type(self).__name__, capabilities)
        self._programmed: Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        """Raise for a missing attribute; name the cause if `super().__init__` was not called."""
        built = "_programmed" in self.__dict__
        raise AttributeError(
            f"{type(self).__name__!r} has no attribute {name!r}"
            if built or name.startswith("__")
            else f"{type(self).__name__} has no `{name}` yet: its `__init__` must call `super().__init__(in_shape, "
            "out_shape, theta, ...)` before the device is used"
        )

    @abc.abstractmethod
    def program(self, theta: Tensor, /) -> None:
        """Write the setting `theta` (P,)."""

    @abc.abstractmethod
    def read(self, x: Tensor, /) -> Tensor:
        """Send the rows `x` (rows, *in_shape) through the device; returns (rows, *out_shape)."""

    @property
    def programmed(self) -> Tensor | None:
        """The setting that `measure` wrote last; None before the first and after a failure."""
        return self._programmed

    @property
    def kind(self) -> str | None:
        """The kind of the device, for checkpoints, which refuse another kind; None if unknown."""
        return type(self).__name__

    @property
    def declaration(self) -> Declaration:
        """The declared properties; the same object as long as they stay the same."""
        said = _said_by(self)
        before, declaration = self.__dict__.get("_declared", (None, None))
        if before is not None and declaration is not None and all(map(is_, said, before)):
            return declaration
        declaration = Declaration(
            name=str(self), oracle=self.oracle(), drawing=self.drawing(), **dict(zip(_SAID, said, strict=True))
        )
        self._declared = (said, declaration)
        return declaration

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_declared"}

    def measure(self, queries: Sequence[Query], /) -> list[Tensor]:
        """Serve one round, in order; a setting that the device holds already is not written again."""
        asked = Round.of(queries)
        readings, begun = [], False
        try:
            for run in asked.runs:
                setting = asked.settings[run.setting]
                if not same_setting(self._programmed, setting):
                    self._programmed = None  # unknown if the next line fails
                    self.program(setting)
                    self._programmed = setting.clone()
                    begun = True
                for query in asked[run.first : run.last]:
                    y = self.perform(query)
                    begun = True
                    # A driver may hand out its acquisition buffer, and fill it again at the next read.
                    readings.append(y.clone() if isinstance(y, Tensor) else y)
        except (UnreachableError, BusyError) as error:  # this query was not measured, and earlier ones were
            if not begun:
                raise
            raise InDoubtError(f"{self} failed after a part of the round was measured: {error}") from error
        return readings

    def perform(self, query: Query) -> Tensor:
        """Read the rows of the query at the setting that the device holds, or perform its capability."""
        if query.capability is None:
            return self.read(query.x)
        capability = find(str(self), self.capabilities, query.capability)
        y = capability.perform(self, query.x)
        if capability.writes:
            self._programmed = None
        return y

    def repeated(self) -> Count:
        """Return the rows and programmings beyond the queries since the last call: rows read again, settings written
        again. The driver books them after every round, so that the ledger agrees with the device.
        """
        return Count()

    def forget(self) -> None:
        """Call this after programming the device by hand, or switching it off: `measure` then writes the next
        setting.
        """
        self._programmed = None

    def oracle(self) -> Callable[[Tensor, Tensor], Tensor] | None:
        """Return the differentiable transfer `(x, theta) -> y`, if there is one; for the `Oracle` classes alone."""
        return None

    def drawing(self) -> Device | None:
        """Return the device as designed, without the errors of its build, where the design is declared."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """Return the state besides the query on which the next readings depend (noise, drift); saved with the layer."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Load a whole state, or raise KeyError, TypeError or ValueError and leave the device unchanged."""
        if state:
            raise ValueError(f"{self} keeps no state, and was given {', '.join(state)}")

    def __deepcopy__(self, memo: dict[int, Any]) -> Device:
        """Return the device itself: a copied model uses the same device."""
        del memo
        return self

    def __repr__(self) -> str:
        sizes = f"{_plain(self.in_shape)} -> {_plain(self.out_shape)}, P = {self.theta.size}"
        limited = self.x_low is not None or self.x_high is not None
        inputs = f", inputs in {limits_text(self.x_low, self.x_high)}" if limited else ""
        return f"{type(self).__name__.lstrip('_')}({sizes}{inputs})"


def _shape(name: str, shape: int | Shape) -> Shape:
    given = shape
    try:
        shape = tuple(map(index, shape)) if isinstance(shape, (tuple, list)) else (index(shape),)
    except TypeError:
        shape = ()
    if not shape or min(shape) < 1:
        raise ArgumentError(f"`{name}` must be a positive number or a tuple of them, got {given!r}")
    return shape


def _plain(shape: Shape) -> str:
    return str(shape[0]) if len(shape) == 1 else str(shape)
