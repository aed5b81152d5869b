"""The base of all devices: two methods, `program` and `read`, and a declaration."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import index, is_
from typing import Any

from torch import Tensor

from blackprop.core._capability import Capability, Shape, declared, find
from blackprop.core._declaration import Cost, Coupling, Declaration, input_limits, limits_text
from blackprop.core._query import Count, Query, same_setting
from blackprop.core._round import Round
from blackprop.core._theta import ThetaSpec
from blackprop.errors import ArgumentError, BusyError, InDoubtError, UnreachableError


class Device(abc.ABC):
    """A black box `y = f(x; θ)`: it can be programmed and read, and nothing else.

    To bring your own, call `super().__init__` with what you know about it and write two methods, `program(theta)`,
    which writes a setting `(P,)`, and `read(x)`, which sends the rows `(rows, *in_shape)` through the device at that
    setting and returns `(rows, *out_shape)` with the rows' dtype. No autograd ever runs through either.

    **Arguments:** `in_shape`, `out_shape`, the shape of one row (a number for a vector); `theta`, a `ThetaSpec`, or the
    number P of parameters; `linear`, whether `f(x; θ) = A(θ) x`; `coupling`, which outputs a parameter can move;
    `cost`, the seconds that a programming and a row take; `noise`, the standard deviation of a reading relative to the
    root mean square of the outputs, which decides how large a step a difference takes; `x_low`, `x_high`, the least and
    the greatest value that an input takes, inclusive (None for no limit): no row outside them is ever sent;
    `capabilities`, what it can do beyond the two methods (see `Capability`). Undeclared means unknown: correct, only
    dearer.

    A device serves one thread at a time, as an instrument does.
    """

    single: bool = True  # one device stands behind it, and `program` has written to it when it returns
    rows_each: int = 1  # rows that it is driven with for one that is asked: more in a wrapper that sends several

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
        self.in_shape = _shape("in_shape", in_shape)
        self.out_shape = _shape("out_shape", out_shape)
        self.theta = theta if isinstance(theta, ThetaSpec) else ThetaSpec(theta)
        self.linear = linear
        self.coupling = coupling
        self.cost = cost if cost is not None else Cost()
        self.noise = noise
        self.x_low, self.x_high = input_limits(type(self).__name__, x_low, x_high)
        self.capabilities = declared(type(self).__name__, capabilities)
        self._programmed: Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        """Only for what is missing: of a device that was never built, that says what was forgotten."""
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
        """The setting that `measure` wrote last, None before the first and after a failure."""
        return self._programmed

    @property
    def kind(self) -> str | None:
        """The kind of device that stands here, for checkpoints, which refuse another; None where that is not known."""
        return type(self).__name__

    @property
    def declaration(self) -> Declaration:
        """All that the device says about itself; the same object as long as it says the same."""
        said = (self.in_shape, self.out_shape, self.theta, self.linear, self.coupling, self.cost, self.noise)
        said += (self.x_low, self.x_high, self.rows_each, self.capabilities)
        before, declaration = self.__dict__.get("_declared", (None, None))
        if before is not None and declaration is not None and all(map(is_, said, before)):
            return declaration
        declaration = Declaration(
            name=str(self),
            in_shape=self.in_shape,
            out_shape=self.out_shape,
            theta=self.theta,
            linear=self.linear,
            coupling=self.coupling,
            cost=self.cost,
            noise=self.noise,
            oracle=self.oracle(),
            x_low=self.x_low,
            x_high=self.x_high,
            rows_each=self.rows_each,
            capabilities=self.capabilities,
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
                    self._programmed = None  # unknown, should the next line fail
                    self.program(setting)
                    self._programmed = setting.clone()
                    begun = True
                for query in asked[run.first : run.last]:
                    y = self.perform(query)
                    begun = True
                    # A driver may hand out its acquisition buffer, and fill it again at the next read.
                    readings.append(y.clone() if isinstance(y, Tensor) else y)
        except (UnreachableError, BusyError) as error:  # not asked for this one, and asked for the ones before
            if not begun:
                raise
            raise InDoubtError(f"{self} failed after a part of the round was measured: {error}") from error
        return readings

    def perform(self, query: Query) -> Tensor:
        """Read the rows of the query at the setting that the device holds, or do what its capability names."""
        if query.capability is None:
            return self.read(query.x)
        capability = find(str(self), self.capabilities, query.capability)
        y = capability.perform(self, query.x)
        if capability.writes:
            self._programmed = None
        return y

    def repeated(self) -> Count:
        """What was asked of the device beyond the queries since this was last called: rows read again, settings
        written again. The driver books it after every round, so the ledger holds what the device has really done.
        """
        return Count()

    def forget(self) -> None:
        """Call this after programming the device by hand, or switching it off: `measure` then writes the next
        setting.
        """
        self._programmed = None

    def oracle(self) -> Callable[[Tensor, Tensor], Tensor] | None:
        """The differentiable transfer `(x, theta) -> y`, if there is one; for the `Oracle` classes alone."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """What the device's next answers depend on besides the query (noise streams, drift); saved with the layer."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Take a state over whole, or raise KeyError, TypeError or ValueError and take nothing."""
        if state:
            raise ValueError(f"{self} keeps no state, and was given {', '.join(state)}")

    def __deepcopy__(self, memo: dict[int, Any]) -> Device:
        """A copied model speaks to the same device: a device is a thing, not a value."""
        del memo
        return self

    def __repr__(self) -> str:
        sizes = f"{_plain(self.in_shape)} -> {_plain(self.out_shape)}, P = {self.theta.size}"
        limited = self.x_low is not None or self.x_high is not None
        inputs = f", inputs in {limits_text(self.x_low, self.x_high)}" if limited else ""
        return f"{type(self).__name__}({sizes}{inputs})"


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
