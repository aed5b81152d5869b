"""Wrappers: devices around a device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor

from blackprop.core._declaration import properties
from blackprop.core._query import Count, Purpose, Query, same_setting
from blackprop.core._round import Round
from blackprop.core.capabilities._capability import Survives, find, surviving
from blackprop.devices._base import Device
from blackprop.errors import ArgumentError


class Wrapper(Device):
    """A device around a device: changes the settings, rows or readings of every query alike.

    Subclasses override three hooks as needed:

    - `_setting(theta, fresh)`: the setting to write in place of θ; `fresh` is True for a programming, False while the
      device holds θ already.
    - `_drive(x)`: the rows to send.
    - `_sense(y, purpose)`: the readings to return.
    """

    rows_each: int
    single: bool

    survives: ClassVar[Survives] = ()
    """The capabilities of the device inside that the wrapper hands on: their types, or `ALL`."""

    def __init__(self, device: Device) -> None:
        if not isinstance(device, Device):
            raise ArgumentError(f"`{type(self).__name__}(device)` wraps a Device, got {device!r}")
        kept = {**properties(device), "capabilities": surviving(device.capabilities, self.survives)}
        super().__init__(device.in_shape, device.out_shape, device.theta, **kept)
        self.device = device
        self.rows_each, self.single = device.rows_each, device.single

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

    def measure(self, queries: Sequence[Query], /) -> list[Tensor]:
        asked = Round.of(queries)
        for kind in asked.kinds:
            if kind is not None:
                find(
                    str(self), self.capabilities, kind
                )  # capabilities that do not survive the wrapper are refused here
        held, self._programmed = self._programmed, None
        readings = self.device.measure(self._sent(asked, held))
        sensed = [
            self._sense(y, query.purpose) if query.capability is None else self._sense_action(y, query)
            for y, query in zip(readings, asked, strict=True)
        ]
        self._programmed = asked.last_setting.clone() if len(asked) else held
        return sensed

    def _sent(self, asked: Round, held: Tensor | None) -> Round:
        """Return the round for the inner device: every setting and every distinct block of rows changed once."""
        driven: dict[int, Tensor] = {}  # rows shared by many queries are driven once, and stay shared
        sent: Sequence[Query] = []
        written: Tensor | None = None
        changed = False
        for run in asked.runs:
            theta = asked.settings[run.setting]
            fresh = not same_setting(held, theta)
            if fresh or written is None:
                written = self._setting(theta, fresh)
            held = theta
            for query in asked[run.first : run.last]:
                if id(query.x) not in driven:
                    driven[id(query.x)] = self._drive(query.x) if query.capability is None else query.x
                x = driven[id(query.x)]
                changed |= x is not query.x or written is not theta
                sent.append(replace(query, x=x, theta=written))
        return Round.of(sent) if changed else asked

    def _sense_action(self, y: Tensor, query: Query) -> Tensor:
        """Return the readings of a capability; by default as other readings."""
        return self._sense(y, query.purpose)

    def repeated(self) -> Count:
        return self.device.repeated()

    def oracle(self) -> Callable[[Tensor, Tensor], Tensor] | None:
        return self.device.oracle()

    def drawing(self) -> Device | None:
        return self.device.drawing()

    def state_dict(self) -> dict[str, Any]:
        return {"device": self.device.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        self.device.load_state_dict(state["device"])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.device})"


def unwrapped(device: Device, *, but: type[Wrapper] | tuple[type[Wrapper], ...] = ()) -> Device:
    """The device inside all wrappers; wrappers of the types `but` are kept, with those inside them."""
    while isinstance(device, Wrapper) and not isinstance(device, but):
        device = device.device
    return device
