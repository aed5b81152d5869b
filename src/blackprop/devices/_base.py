"""What a device is: two verbs for hardware, one pure function for a simulator, three hooks for what wraps a device."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import groupby
from operator import index
from typing import Any

import torch
from torch import Tensor

from blackprop.core._declaration import Cost, Coupling, Declaration, Shape, ThetaSpec, input_limits, limits_text
from blackprop.core._query import Count, Purpose, Query, same_setting
from blackprop.errors import ArgumentError, BusyError, InDoubtError, UnreachableError

# What one batched call of a simulator may hold: settings and rows beyond it are served in several calls.
BATCH_BYTES = 64 * 2**20


class Device(abc.ABC):
    """A black box `y = f(x; θ)`: it can be programmed and read, and nothing else.

    To bring your own, call `super().__init__` with what you know about it and write two methods, `program(theta)`,
    which writes a setting `(P,)`, and `read(x)`, which sends the rows `(rows, *in_shape)` through the device at that
    setting and returns `(rows, *out_shape)` with the rows' dtype. No autograd ever runs through either.

    **Arguments:** `in_shape`, `out_shape`, the shape of one row (a number for a vector); `theta`, a `ThetaSpec`, or the
    number P of parameters; `linear`, whether `f(x; θ) = A(θ) x`; `coupling`, which outputs a parameter can move;
    `cost`, the seconds that a programming and a row take; `noise`, the standard deviation of a reading relative to the
    root mean square of the outputs, which decides how large a step a difference takes; `x_low`, `x_high`, the least and
    the greatest value that an input takes, inclusive (None for no limit): no row outside them is ever sent. Undeclared
    means unknown: correct, only dearer.

    A device serves one thread at a time, as an instrument does.
    """

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
        return Declaration(
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
        )

    def measure(self, queries: list[Query], /) -> list[Tensor]:
        """Serve one round, in order; a setting that the device holds already is not written again."""
        readings, begun = [], False
        try:
            for query in queries:
                if not same_setting(self._programmed, query.theta):
                    self._programmed = None  # unknown, should the next line fail
                    self.program(query.theta)
                    self._programmed = query.theta.detach().clone()
                    begun = True
                y = self.read(query.x)
                begun = True
                # A driver may hand out its acquisition buffer, and fill it again at the next read.
                readings.append(y.clone() if isinstance(y, Tensor) else y)
        except (UnreachableError, BusyError) as error:  # not asked for this one, and asked for the ones before
            if not begun:
                raise
            raise InDoubtError(f"{self} failed after a part of the round was measured: {error}") from error
        return readings

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


class Simulator(Device):
    """A device that is a pure function: subclasses write `transfer(x, theta)` in PyTorch, and nothing else.

    Settings are stacked: a round of queries is served in as few calls as memory allows. By default they are stacked by
    `torch.vmap`. A subclass whose `transfer` takes leading settings dimensions, x `(rows, *in_shape)` or
    `(S, rows, *in_shape)` with theta `(S, P)`, says so with `stacks = True` and saves that overhead.
    """

    stacks: bool = False

    @abc.abstractmethod
    def transfer(self, x: Tensor, theta: Tensor, /) -> Tensor:
        """The rows (rows, *in_shape) at the setting theta (P,): (rows, *out_shape). Pure, differentiable."""

    def program(self, theta: Tensor, /) -> None:
        self.theta.check(theta)
        self._programmed = theta.detach().clone()

    def read(self, x: Tensor, /) -> Tensor:
        if self._programmed is None:
            raise ArgumentError(f"{self} must be programmed before it is read")
        with torch.no_grad():
            return self.transfer(x, self._programmed)

    def measure(self, queries: list[Query], /) -> list[Tensor]:
        with torch.no_grad():
            runs = _runs(queries)
            outputs: list[Tensor] = []
            for stack in self._stacks(runs):
                outputs += self._serve([(x, theta) for x, theta, _ in stack])
        self._programmed = queries[-1].theta.detach().clone() if queries else self._programmed
        # Undo the joining of rows: every run gives its output back in the sizes of its queries.
        pairs = zip(runs, outputs, strict=True)
        return [y for (_, _, sizes), out in pairs for y in ([out] if len(sizes) == 1 else out.split(sizes))]

    def oracle(self) -> Callable[[Tensor, Tensor], Tensor] | None:
        return self.transfer

    def setting_bytes(self, rows: int) -> int:
        """About what one setting of a batched call holds in memory; bounds how many are served together."""
        return 4 * (2 * self.theta.size + rows * (self.declaration.d_in + self.declaration.d_out))

    def _stacks(self, runs: list[_Run]) -> list[list[_Run]]:
        """Consecutive runs that fit into one batched call: equally many rows, within the memory bound."""
        stacks: list[list[_Run]] = []
        for _, same in groupby(runs, key=lambda run: len(run[0])):
            members = list(same)
            size = max(1, BATCH_BYTES // self.setting_bytes(max(1, len(members[0][0]))))
            stacks += [members[i : i + size] for i in range(0, len(members), size)]
        return stacks

    def _serve(self, pairs: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
        first, setting = pairs[0]
        if len(pairs) == 1:
            return [self.transfer(first, setting)]
        thetas = torch.stack([theta for _, theta in pairs])
        shared = all(x is first for x, _ in pairs)
        x = first if shared else torch.stack([x for x, _ in pairs])
        if self.stacks:
            return list(self.transfer(x, thetas))
        return list(torch.vmap(self.transfer, in_dims=(None if shared else 0, 0))(x, thetas))


class Wrapper(Device):
    """A device around a device: changes what is written, sent or read, on every query alike, whoever asks.

    Subclasses replace what they need of three hooks: `_setting(theta, fresh)`, what is written in place of θ (`fresh`
    when this is a programming, False while the device holds θ already), `_drive(x)`, what is sent in place of the rows,
    and `_sense(y, purpose)`, what is read in place of the outputs.
    """

    def __init__(self, device: Device) -> None:
        if not isinstance(device, Device):
            raise ArgumentError(f"`{type(self).__name__}(device)` wraps a Device, got {device!r}")
        super().__init__(
            device.in_shape,
            device.out_shape,
            device.theta,
            linear=device.linear,
            coupling=device.coupling,
            cost=device.cost,
            noise=device.noise,
            x_low=device.x_low,
            x_high=device.x_high,
        )
        self.device = device
        self.rows_each = device.rows_each

    @property
    def kind(self) -> str | None:
        return self.device.kind

    def _setting(self, theta: Tensor, fresh: bool) -> Tensor:
        del fresh
        return theta

    def _drive(self, x: Tensor) -> Tensor:
        return x

    def _sense(self, y: Tensor, purpose: Purpose) -> Tensor:
        del purpose
        return y

    def forget(self) -> None:
        super().forget()
        self.device.forget()  # each keeps its own note of the setting, and would skip a write by it

    def program(self, theta: Tensor, /) -> None:
        self.forget()
        self.device.program(self._setting(theta, fresh=True))

    def read(self, x: Tensor, /) -> Tensor:
        return self._sense(self.device.read(self._drive(x)), Purpose.FORWARD)

    def measure(self, queries: list[Query], /) -> list[Tensor]:
        sent: list[Query] = []
        driven: dict[int, Tensor] = {}  # rows shared by many queries are driven once, and stay shared
        held, written = self._programmed, None
        self._programmed = None
        for query in queries:
            fresh = not same_setting(held, query.theta)
            if fresh or written is None:
                written = self._setting(query.theta, fresh)
            if id(query.x) not in driven:
                driven[id(query.x)] = self._drive(query.x)
            sent.append(replace(query, x=driven[id(query.x)], theta=written))
            held = query.theta
        read = self.device.measure(sent)
        readings = [self._sense(y, query.purpose) for y, query in zip(read, queries, strict=True)]
        self._programmed = held.detach().clone() if held is not None else None
        return readings

    def repeated(self) -> Count:
        return self.device.repeated()

    def oracle(self) -> Callable[[Tensor, Tensor], Tensor] | None:
        return self.device.oracle()

    def state_dict(self) -> dict[str, Any]:
        return {"device": self.device.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        self.device.load_state_dict(state["device"])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.device})"


_Run = tuple[Tensor, Tensor, list[int]]  # rows joined, their setting, how many rows each query had


def _runs(queries: list[Query]) -> list[_Run]:
    """Consecutive queries at one setting, joined."""
    groups: list[list[Query]] = []
    for query in queries:
        if groups and same_setting(groups[-1][-1].theta, query.theta):
            groups[-1].append(query)
        else:
            groups.append([query])
    return [
        (
            group[0].x if len(group) == 1 else torch.cat([query.x for query in group]),
            group[0].theta,
            [len(query.x) for query in group],
        )
        for group in groups
    ]


def apply_matrix(matrix: Tensor, x: Tensor) -> Tensor:
    """`y = A x` for the rows of x `(..., rows, d_in)` and matrices `(..., d_out, d_in)`, settings stacked in front."""
    if matrix.dim() == 3 and x.dim() == 2:  # rows shared by all settings: one product in place of S
        return (matrix.flatten(0, 1) @ x.mT).unflatten(0, matrix.shape[:2]).mT
    return x @ matrix.mT


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
