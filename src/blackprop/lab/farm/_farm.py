"""One logical device of several alike ones: a round of queries is spread over them, and the unwell are left out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from blackprop.core._budget import Budget
from blackprop.core._declaration import Cost, properties
from blackprop.core._ledger import Ledger
from blackprop.core._query import Count, Purpose, Query
from blackprop.core._round import Round
from blackprop.core.capabilities._capability import Capability
from blackprop.devices import Device
from blackprop.errors import ArgumentError, IncompatibleError
from blackprop.lab.farm._alike import check_alike
from blackprop.lab.farm._cross_calibration import Agreement, reference
from blackprop.lab.farm._member import Health, Member
from blackprop.lab.farm._members import MemberPool


class Farm(Device):
    """Several alike devices as one, each asked in a thread of its own; remote ones are devices like others.

    Each setting of a round goes to the member that would finish it first by the declared costs. If programming is cheap
    compared with the rows of a setting, these are divided as well. The distribution does not depend on the clock: equal
    rounds with equal seeds are distributed equally. Without declared costs a setting weighs one and its rows stay
    together; `clock_members` measures the costs, once.

    A member that raises a `DeviceError`, a `ReadingError` or an `OSError`, or returns a value that is not finite, is
    taken out of service, and the others serve its share. It is tried again with an earlier query, after `backoff`
    seconds and twice as long each time, and returns to service when its answer agrees with the earlier one. Members
    that disagree (`calibrate`) are also out of service. The round fails, with the reasons of all, when the last member
    is out. A member that may hang for ever needs its own deadline.

    **Differences between members look like noise** to an estimator, which may measure one half of a difference here and
    the other there. `calibrate` corrects gains and offsets of the outputs and declares the remaining differences as
    noise. Outputs cannot correct errors within θ (phase offsets): wrap such members in a device that corrects them.

    **Costs** of a round are counted as those of one device. `repeated()` returns the difference to the sum over the
    members, which may be negative, because a member can hold a setting already. The ledger thus holds this sum. Lab
    time is the sum over the members, at the cost of the slowest.

    **Arguments:**

    - `devices`: alike in shapes, θ, linearity and coupling; none keeps a state that queries move, as pulses do: see
      `PulsedFarm`.
    - `tolerance` (default 0.05): allowed difference of two answers to one query, relative to their size; twice the
      declared noise is allowed in addition.
    - `backoff` (s, default 1): wait before a member is tried again.
    - `clock` (default `time.monotonic`): returns the time in s.

    **Raises** `ArgumentError` for devices that differ, and `IncompatibleError` for devices that keep a state.

    >>> import blackprop as bp
    >>> with Farm([bp.devices.LightModulator(4, 3) for _ in range(2)]) as farm:
    ...     layer = bp.PhysicalLayer(farm)
    ...     [member.in_service for member in farm.members]
    [True, True]
    """

    single = False

    def __init__(
        self,
        devices: Sequence[Device],
        *,
        tolerance: float = 0.05,
        backoff: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        devices = list(devices)
        check_alike("Farm", devices)
        _check_stateless(devices)
        if not 0 < tolerance < math.inf:
            raise ArgumentError(f"`Farm(tolerance=...)` must be positive and finite, got {tolerance}")
        if not 0 < backoff < math.inf:
            raise ArgumentError(f"`Farm(backoff=...)` takes seconds, positive and finite, got {backoff}")
        first, costs = devices[0], [device.cost for device in devices]
        together = {
            "cost": Cost.dearest(costs),
            "noise": max(device.noise for device in devices),
            "capabilities": shared_by(devices),
        }
        super().__init__(first.in_shape, first.out_shape, first.theta, **{**properties(first), **together})
        self.rows_each: int = first.rows_each
        members = [Member(device, tolerance, backoff, clock) for device in devices]
        self._pool = MemberPool(f"Farm({len(devices)} × {first})", members)
        self._booked = Count()  # counted by the driver, or reported to it
        self._written: Tensor | None = None  # by `program`

    @property
    def members(self) -> tuple[Health, ...]:
        return tuple(member.health() for member in self._pool.members)

    def measure(self, queries: Sequence[Query], /) -> list[Tensor]:
        self._pool.take_back()
        asked = Round.of(queries)
        self._booked.add(asked.spending(self._programmed, self.rows_each, self.declaration))
        self._programmed = None
        readings = self._pool.serve(asked)
        self._programmed = asked.last_setting.clone() if len(asked) else None
        return readings

    def program(self, theta: Tensor, /) -> None:
        """The setting of the next `read`, written to the members that serve it."""
        self.theta.check(theta)
        self.forget()
        self._written = theta.detach().clone()

    def read(self, x: Tensor, /) -> Tensor:
        if self._written is None:
            raise ArgumentError(f"{self} must be programmed before it is read")
        return self.measure([Query(x, self._written, Purpose.EVALUATE)])[0]

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

    def calibrate(self, x: Tensor, theta: Tensor, budget: Budget | None = None) -> Agreement:
        """Make the members' outputs alike, each by a gain and an offset of its own for every output.

        All that are not out of order read the rows `x` (rows, *in_shape) at the settings `theta` (S, P), S ≥ 2. The
        even settings give the corrections, towards the member that the others agree with best, and the odd ones tell
        the remaining disagreement. A member is corrected where that helps, and is taken out where it still disagrees by
        more than `tolerance` and twice the declared noise; one that was taken out so comes back. The largest
        disagreement among the others, over √2, is from now on declared as noise where that is more: calibrate before
        the farm is given to a layer. **Costs** S programmings and S · rows rows a member, booked as `CALIBRATE`.
        """
        if theta.dim() != 2 or len(theta) < 2 or not len(x):
            raise ArgumentError(
                f"`calibrate(x, theta)` takes rows, and two settings (S, P) at least, got {tuple(x.shape)} and "
                f"{tuple(theta.shape)}"
            )
        members = self._pool.members
        who = [at for at, member in enumerate(members) if member.in_service or member.disagrees]
        queries = [Query(x, one, Purpose.CALIBRATE) for one in theta.unbind()]
        found, ledger = self._pool.asked_apart(who, queries, budget)
        if not found:
            raise self._pool.nobody()
        best, fits = reference({at: torch.stack(ys).flatten(2) for at, (ys, _) in found.items()})
        for at, fit in fits.items():
            if fit.after <= (allowed := members[at].allowed()):
                members[at].accept(fit.correction)
            else:
                members[at].refuse(f"disagrees with member {best} by {fit.after:.2g} (allowed {allowed:.2g})")
        kept = [fit.after for at, fit in fits.items() if members[at].in_service]
        self.noise = max(max(kept) / math.sqrt(2), *(member.device.noise for member in members))
        every = range(len(members))
        return Agreement(
            best,
            tuple(fits[at].before if at in fits else math.nan for at in every),
            tuple(fits[at].after if at in fits else math.nan for at in every),
            tuple(at for at in every if not members[at].in_service),
            ledger,
        )

    def clock_members(self, x: Tensor, theta: Tensor, budget: Budget | None = None) -> tuple[tuple[Cost, ...], Ledger]:
        """Measure the seconds that a programming and a row take each member, and spread the rounds by them from now on.

        Call it once, not in every run: the distribution depends on its result, which is saved with the farm's state.
        **Costs** for settings (S, P) and rows (rows, *in_shape) S programmings and S + rows rows a member in service,
        booked as `CALIBRATE`.
        """
        settings = [Query(x[:1], one, Purpose.CALIBRATE) for one in theta.unbind()]
        writing, first = self._pool.asked_apart(self._pool.in_service, settings, budget)
        sending, second = self._pool.asked_apart(list(writing), [Query(x, theta[-1], Purpose.CALIBRATE)], budget)
        for at, (_, seconds) in sending.items():
            row = seconds / len(x)
            member = self._pool.members[at]
            member.cost = replace(member.cost, programming=max(0.0, writing[at][1] / len(theta) - row), row=row)
        return tuple(member.cost for member in self._pool.members), Ledger.sum([first, second])

    def state_dict(self) -> dict[str, Any]:
        costs = [member.cost for member in self._pool.members]
        return {
            "members": [self._pool.state_of(member) for member in self._pool.members],
            "corrections": [member.correction for member in self._pool.members],
            "refused": [member.reason if member.disagrees else "" for member in self._pool.members],
            "costs": [(cost.programming, cost.row, dict(cost.actions)) for cost in costs],
            "noise": self.noise,
        }

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Members that are out, or were when it was saved, keep the state that they have."""
        kept = [state[name] for name in ("members", "corrections", "refused", "costs")]
        if any(len(each) != len(self._pool.members) for each in kept):
            raise ValueError(f"this is the state of {len(kept[0])} members, and here are {len(self._pool.members)}")
        noise, costs = float(state["noise"]), [Cost(*cost) for cost in kept[3]]
        self._pool.load(kept[0])
        self.noise: float = noise
        for member, correction, refused, cost in zip(self._pool.members, *kept[1:3], costs, strict=True):
            member.cost, member.correction = replace(cost, energy=member.cost.energy), correction
            if refused:
                member.refuse(refused)
            elif member.disagrees:
                member.accept(correction)

    def close(self) -> None:
        """End the threads and close the members that can be closed; raises for those that could not be."""
        self._pool.close()

    def __enter__(self) -> Farm:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    @property
    def kind(self) -> str | None:
        return None

    def __repr__(self) -> str:
        return self._pool.name


def shared_by(devices: Sequence[Device]) -> tuple[Capability, ...]:
    """The capabilities that all members declare alike, without those that write: each holds its own setting."""
    first, *others = (device.capabilities for device in devices)
    return tuple(each for each in first if not each.writes and all(each in other for other in others))


def _check_stateless(devices: Sequence[Device]) -> None:
    for at, device in enumerate(devices):
        for each in device.capabilities:
            if each.lasting:
                raise IncompatibleError(
                    f"`Farm` divides rows among its members, and device {at}, {device}, keeps a state that "
                    f"`{each.name}` moves: members of different states give different readings. `lab.PulsedFarm` reads "
                    "pulsed devices together. Members that hold the same state, and keep it, can be given as "
                    f"`devices.Declared(device, without=[core.{type(each).__name__}])`"
                )
