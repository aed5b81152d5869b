"""The base of instruments: a row at a time, with time to settle, within the limits."""

from __future__ import annotations

import abc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypedDict

import torch
from torch import Tensor

from blackprop.core._declaration import Cost, Coupling
from blackprop.core._query import Query
from blackprop.core._theta import ThetaSpec
from blackprop.core.capabilities._capability import Shape
from blackprop.devices import Device
from blackprop.errors import (
    ArgumentError,
    BlackpropError,
    BusyError,
    DeviceError,
    InDoubtError,
    LimitError,
    ReadingError,
    ShapeError,
    UnreachableError,
)

Numbers = float | Sequence[float]


class InstrumentOptions(TypedDict, total=False):
    """Keywords that all instruments take besides their own arguments; see `Instrument`."""

    settle: float  # s
    settle_row: float  # s
    linear: bool
    coupling: Coupling
    cost: Cost
    noise: float
    sleep: Callable[[float], None]


class Instrument(Device):
    """A device that is served a row at a time: set θ, wait; then for every row drive, wait, sense.

    Subclasses write `_set(values)` (P numbers), `_drive(values)` (d_in numbers), `_sense()`, which returns d_out
    numbers, and, where the instrument can tell, `_verify()`, which raises if it reports an error, and `_connect()`,
    which raises if it cannot be reached. Their exceptions are raised as `DeviceError`. An exception that means that the
    instrument did not answer (`away`) becomes an `InDoubtError` once the first command of `_set` or `_drive` has been
    begun, for that row or setting may have taken effect, and an `UnreachableError` before that. After any of them θ
    counts as unknown, and is written again before the next row.

    **Arguments:**

    - `low`, `high`: the limits of a row's entries, inclusive, one number or one an input. The device declares the
      range that all inputs share, from the greatest `low` to the least `high`, as `x_low` and `x_high`: probes keep to
      it. Inputs of unlike ranges need a scale each, in `_drive` or in a wrapper, to be used whole.
    - `settle`, `settle_row` (s): the waits after a programming and after each row is driven.
    - `linear`, `coupling`, `noise`: as in `Device`.
    - `cost`: as in `Device`; by default the two waits.
    - `sleep`: waits for seconds.

    Settings and rows are checked, all those of a round, before any of them is written.
    """

    settle: float
    settle_row: float

    away: tuple[type[Exception], ...] = (TimeoutError, ConnectionError, EOFError, UnreachableError, BusyError)

    def __init__(
        self,
        in_shape: int | Shape,
        out_shape: int | Shape,
        theta: ThetaSpec,
        *,
        low: Numbers = -math.inf,
        high: Numbers = math.inf,
        settle: float = 0.0,
        settle_row: float = 0.0,
        linear: bool = False,
        coupling: Coupling = Coupling.NONE,
        cost: Cost | None = None,
        noise: float = 0.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        for name, seconds in (("settle", settle), ("settle_row", settle_row)):
            if not 0 <= seconds < math.inf:
                raise ArgumentError(f"`{type(self).__name__}({name}=...)` takes seconds, got {seconds}")
        cost = cost if cost is not None else Cost(programming=settle, row=settle_row)
        declared = {"linear": linear, "coupling": coupling, "cost": cost, "noise": noise}
        ends = _shared(low, high)
        super().__init__(in_shape, out_shape, theta, x_low=ends[0], x_high=ends[1], **declared)
        self.settle, self.settle_row, self._sleep = settle, settle_row, sleep
        size = math.prod(self.in_shape)
        self._low, self._high = (torch.as_tensor(n, dtype=torch.float64).expand(size) for n in (low, high))
        self._written = False  # whether anything has been, since the verb began

    @abc.abstractmethod
    def _set(self, values: list[float], /) -> None:
        """Write the setting (P)."""

    @abc.abstractmethod
    def _drive(self, values: list[float], /) -> None:
        """Apply one row (d_in)."""

    @abc.abstractmethod
    def _sense(self) -> list[float]:
        """Read the outputs (d_out)."""

    def _connect(self) -> None:
        """Raise if the instrument cannot be asked; called before anything of a setting or of rows is written."""

    def _verify(self) -> None:
        """Raise if the instrument reports an error; asked after a programming and after the last row of a query."""

    def close(self) -> None:
        """Close the connections that this device opened itself."""

    def program(self, theta: Tensor, /) -> None:
        self.theta.check(theta)
        exact = theta.detach().double()  # the nearest float32 of a limit may be beyond it
        with self._reported("programming"):
            self._connect()
            self._written = True
            self._set(exact.clamp(*self.theta.bounds(exact)).tolist())
            self._wait(self.settle)
            self._verify()

    def read(self, x: Tensor, /) -> Tensor:
        self._check_rows(x)
        rows = x.detach().flatten(1).double().cpu().clamp(self._low, self._high)
        with self._reported("reading"):
            self._connect()
            y = [self._row(row) for row in rows.tolist()]
            if y:
                self._verify()
        return torch.tensor(y, dtype=x.dtype, device=x.device).reshape(len(x), *self.out_shape)

    def measure(self, queries: Sequence[Query], /) -> list[Tensor]:
        for query in queries:
            self.theta.check(query.theta)
        for x in {id(query.x): query.x for query in queries}.values():  # many settings share their rows
            self._check_rows(x)
        return super().measure(queries)

    def _row(self, values: list[float]) -> list[float]:
        self._written = True
        self._drive(values)
        self._wait(self.settle_row)
        y = self._sense()
        if len(y) != math.prod(self.out_shape):
            raise ReadingError(f"{self} returned {len(y)} numbers, expected {math.prod(self.out_shape)}")
        return y

    def _wait(self, seconds: float) -> None:
        if seconds:
            self._sleep(seconds)

    def _check_rows(self, x: Tensor) -> None:
        if x.dim() == 0 or tuple(x.shape[1:]) != self.in_shape:
            raise ShapeError(f"{self} takes rows of shape {self.in_shape}, got {tuple(x.shape)}")
        rows = x.detach().flatten(1)
        low, high = self._low.to(rows), self._high.to(rows)
        inside = rows.isfinite() & (rows >= low) & (rows <= high)
        if not bool(inside.all()):
            row, channel = (int(i) for i in (~inside).nonzero()[0])
            raise LimitError(
                f"entry {channel} of row {row} is {float(rows[row, channel]):g}, outside the limits of {self}'s inputs "
                f"[{float(low[channel]):g}, {float(high[channel]):g}]; the row was not sent"
            )

    @contextmanager
    def _reported(self, what: str) -> Iterator[None]:
        self._written = False
        try:
            yield
        except Exception as error:
            self.forget()  # it may have been switched off meanwhile
            doubt = self._written and isinstance(error, self.away)
            if isinstance(error, BlackpropError) and not doubt:
                raise
            kind = InDoubtError if doubt else UnreachableError if isinstance(error, self.away) else DeviceError
            raise kind(f"{self}: {what} failed: {type(error).__name__}: {error}") from error


def _shared(low: Numbers, high: Numbers) -> tuple[float | None, float | None]:
    """The range that all inputs share; None for no limit, and where they share none."""
    least = float(torch.as_tensor(low, dtype=torch.float64).max())
    most = float(torch.as_tensor(high, dtype=torch.float64).min())
    if not least < most:
        return None, None
    return (least if math.isfinite(least) else None), (most if math.isfinite(most) else None)
