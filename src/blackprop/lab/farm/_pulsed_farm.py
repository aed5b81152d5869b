"""Several pulsed crossbars as one of finer steps: all are read, and each train goes to one of them."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from blackprop.core._declaration import Cost, Declaration
from blackprop.core._query import Count, Purpose, Query
from blackprop.core._round import Round
from blackprop.core.capabilities._pulse import Pulse
from blackprop.core.capabilities._read_back import ReadBack
from blackprop.devices._base import Device
from blackprop.devices._imperfections import restored
from blackprop.errors import ArgumentError, DeviceError, IncompatibleError, InDoubtError
from blackprop.lab.farm._alike import check_alike
from blackprop.lab.farm._member import Health, Member, told
from blackprop.lab.farm._members import MemberPool, outcomes_of

NEVER = math.inf  # s, until a member is tried again: none is left out


class PulsedFarm(Device):
    """M pulsed devices as one, `y = (1/M) Σ_m f_m(x; θ)`, whose step is g/M: it has M times as many states.

    Each weight is the mean of M cells. Every row is sent to all members, at once, and the readings are averaged. Each
    train is sent to one member, drawn at random, so that it moves the mean by 1/M of a member's step. The pulses are
    thus divided among the members, and the rows are not. The noise of an update, of the readings and of the cells'
    differences falls as 1/√M. The largest mean step of a train falls too, to `longest · g/M`.

    `Farm` refuses such devices: it divides the rows, and members that keep different weights give different readings.
    If all members received the same trains, their weights would drift apart: the gradient corrects their mean, and not
    their differences.

    **No member is left out**, since the mean would jump. A round in which one fails raises a `DeviceError`; if it has
    sent pulses, an `InDoubtError`.

    **Costs** of a round are the sum over the members: M times the rows and the programmings of one device. Pulses are
    counted once.

    **Arguments:**

    - `devices`: linear, alike in shapes, θ and `Pulse`; they may differ in their weights and cells.
    - `seed` (default 0): draws the member of each train.

    **Raises** `ArgumentError` for devices that differ, and `IncompatibleError` for devices without pulses or not
    linear.

    Source: Boybat et al., Nat. Commun. 9, 2514 (2018).

    >>> import blackprop as bp
    >>> from blackprop.core import Pulse
    >>> with PulsedFarm([bp.devices.PulsedCrossbar(4, 3, seed=seed) for seed in range(4)]) as farm:
    ...     farm.declaration.capability(Pulse).granularity
    0.00025
    """

    single = False

    def __init__(self, devices: Sequence[Device], *, seed: int = 0) -> None:
        devices = list(devices)
        check_alike("PulsedFarm", devices)
        first = devices[0]
        for device in devices:
            if not device.linear:
                raise IncompatibleError(f"`PulsedFarm` averages the readings of linear devices, and {device} is not")
        pulses = [_pulse(device.declaration) for device in devices]
        for at, pulse in enumerate(pulses):
            if pulse != pulses[0]:
                raise ArgumentError(
                    f"`PulsedFarm(devices)` takes alike ones: pulse of device 0 is {pulses[0]}, of device {at} {pulse}"
                )
        backwards = [each for each in first.capabilities if isinstance(each, ReadBack)]
        shared = [each for each in backwards if all(each in device.capabilities for device in devices)]
        super().__init__(
            first.in_shape,
            first.out_shape,
            first.theta,
            linear=True,
            cost=Cost.dearest([device.cost for device in devices]),
            noise=max(device.noise for device in devices),
            x_low=first.x_low,
            x_high=first.x_high,
            capabilities=(*shared, replace(pulses[0], granularity=pulses[0].granularity / len(devices))),
        )
        self.rows_each: int = len(devices) * first.rows_each
        members = [Member(device, math.inf, NEVER, time.monotonic) for device in devices]
        self._pool = MemberPool(f"PulsedFarm({len(devices)} × {first})", members)
        self._generator = torch.Generator().manual_seed(seed)
        self._booked = Count()  # counted by the driver, or reported to it
        self._written: Tensor | None = None  # by `program`

    @property
    def members(self) -> tuple[Health, ...]:
        return tuple(member.health() for member in self._pool.members)

    def measure(self, queries: Sequence[Query], /) -> list[Tensor]:
        if self._pool.closed:
            raise self._pool.nobody()
        asked = Round.of(queries)
        self._booked.add(asked.spending(self._programmed, self.rows_each, self.declaration))
        self._programmed = None
        each = self._divided(asked)
        served = outcomes_of([m.serve(own) for m, own in zip(self._pool.members, each, strict=True)])
        readings = [self._answered(at, found, asked) for at, found in enumerate(served)]
        self._programmed = asked.last_setting.clone() if len(asked) else None
        return [torch.stack(ys).mean(0) for ys in zip(*readings, strict=True)]

    def _divided(self, asked: Sequence[Query]) -> list[list[Query]]:
        """The queries of each member: all rows, and its part of the trains, in their order."""
        count = len(self._pool.members)
        found: list[list[Query]] = [[] for _ in range(count)]
        for query in asked:
            if query.capability is not Pulse:
                for own in found:
                    own.append(query)
                continue
            drawn = torch.randint(count, (len(query.x),), generator=self._generator).to(query.x.device)
            for at, own in enumerate(found):
                own.append(replace(query, x=query.x[drawn == at]))
        return found

    def _answered(self, at: int, found: list[Tensor] | BaseException, asked: Sequence[Query]) -> list[Tensor]:
        """The readings of a member, with an empty one for each train of the farm; raises its failure."""
        if isinstance(found, BaseException):
            sent = any(query.capability is Pulse for query in asked)
            raise (InDoubtError if sent else DeviceError)(
                f"member {at} of {self} failed, and none can be left out, since each weight is a mean over all"
                + (", and it is unknown which pulses of this round were sent" if sent else "")
                + f": {told(found)}"
            ) from found
        pairs = zip(asked, found, strict=True)
        return [q.x.new_zeros(len(q.x), 0) if q.capability is Pulse else y for q, y in pairs]

    def program(self, theta: Tensor, /) -> None:
        """The setting of the next `read`, `read_back` or `pulse`, written to the members then."""
        self.theta.check(theta)
        self.forget()
        self._written = theta.detach().clone()

    def read(self, x: Tensor, /) -> Tensor:
        return self.measure([Query(x, self._held(), Purpose.EVALUATE)])[0]

    def read_back(self, g: Tensor, /) -> Tensor:
        return self.measure([Query(g, self._held(), Purpose.EVALUATE, ReadBack)])[0]

    def pulse(self, trains: Tensor, /) -> None:
        self.measure([Query(trains, self._held(), Purpose.EVALUATE, Pulse)])

    def _held(self) -> Tensor:
        if self._written is None:
            raise ArgumentError(f"{self} must be programmed before it is used")
        return self._written

    def repeated(self) -> Count:
        asked, again = self._pool.asked(), Count()
        again.add(asked)
        again.subtract(self._booked)
        self._booked = asked
        return again.entries()

    def forget(self) -> None:
        super().forget()
        for member in self._pool.members:
            member.stale = True

    def state_dict(self) -> dict[str, Any]:
        states = [member.state() for member in self._pool.members]
        return {"members": states, "generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        states, generator = state["members"], restored(state["generator"])
        members = self._pool.members
        if len(states) != len(members):
            raise ValueError(f"this is the state of {len(states)} members, and here are {len(members)}")
        before = [member.state() for member in members]
        try:
            _load(members, states)
        except BaseException:
            _load(members, before)
            raise
        self._generator = generator

    def close(self) -> None:
        """End the threads and close the members that can be closed; raises for those that could not be."""
        self._pool.close()

    def __enter__(self) -> PulsedFarm:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return self._pool.name


def _pulse(spec: Declaration) -> Pulse:
    return spec.capability(Pulse)


def _load(members: Sequence[Member], states: Sequence[Any]) -> None:
    for member, state in zip(members, states, strict=True):
        member.do(partial(member.device.load_state_dict, state)).result()
