"""Devices in series, of which only the last is read."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, final

import torch
from torch import Tensor

from blackprop.core._query import Count, Query
from blackprop.core._round import Round
from blackprop.core._theta import ThetaSpec
from blackprop.core.costs._cost import Cost, EnergyCost
from blackprop.devices._base import Device
from blackprop.errors import ArgumentError, LimitError, ShapeError

Map = Callable[[Tensor], Tensor]


@final
class Chain(Device):
    """`y = f_n(… σ(f_2(σ(f_1(x; θ_1)); θ_2)) …; θ_n)`, θ = (θ_1, …, θ_n): devices in series, fixed maps σ between them.

    A chain is one device: signals between its parts are internal, a row counts once whatever the depth, and writing θ
    is one programming. Any estimator can train it from its output alone; so can a model of each part (`twins.ChainTwin`
    in a `surrogates.Twin`), through which the error of the output is pulled back.

    The limits of its inputs are those of the first part. A signal inside the chain that exceeds the limits of a part
    raises `LimitError`: put a map that keeps them, such as `torch.sigmoid`, before that part.

    It declares linearity if all parts are linear, the period that all parts share, and the relative noise of the parts
    in quadrature, which is exact for linear parts. It offers a derivative to the `Oracle` classes if every part does.

    **Arguments:**

    - `parts`: devices, and functions of a tensor that keep its shape and act on each number alone, such as
      `torch.tanh`; at least one device.
    - `cost` (default: that of the slowest part, since rows stream and parts are written in parallel).
    """

    x_low: float | None
    x_high: float | None

    def __init__(self, *parts: Device | Map, cost: Cost | None = None) -> None:
        for part in parts:
            if isinstance(part, type) or not (isinstance(part, Device) or callable(part)):
                raise ArgumentError(f"`Chain(*parts)` takes devices and functions of a tensor, got {part!r}")
        self.parts = parts
        self.devices: tuple[Device, ...] = tuple(part for part in parts if isinstance(part, Device))
        if not self.devices:
            raise ArgumentError("`Chain(*parts)` takes at least one device, got none")
        for before, after in pairwise(self.devices):
            if before.out_shape != after.in_shape:
                raise ShapeError(f"`Chain(*parts)`: {before} gives rows {before.out_shape}, and {after} takes others")
        self._sizes = [device.theta.size for device in self.devices]
        self._check_maps()
        super().__init__(
            self.devices[0].in_shape,
            self.devices[-1].out_shape,
            _theta(self.devices),
            linear=len(self.devices) == len(parts) and all(device.linear for device in self.devices),
            cost=cost if cost is not None else _slowest(self.devices),
            noise=math.sqrt(sum(device.noise**2 for device in self.devices)),
        )
        if isinstance(first := parts[0], Device):  # with a map before it, the inputs are the map's
            self.x_low, self.x_high = first.x_low, first.x_high

    def program(self, theta: Tensor, /) -> None:
        self.forget()
        for device, setting in zip(self.devices, self.settings(theta), strict=True):
            device.program(setting)

    def read(self, x: Tensor, /) -> Tensor:
        for part in self.parts:
            if isinstance(part, Device):
                self._check_rows(part, x)
                x = part.read(x)
            else:
                x = part(x)
        return x

    def measure(self, queries: Sequence[Query], /) -> list[Tensor]:
        # Part by part and not query by query, so that each part serves the whole round at once.
        queries = Round.of(queries)
        held, self._programmed = self._programmed, None
        rows, number = [query.x for query in queries], 0
        settings = [self.settings(query.theta) for query in queries]
        for part in self.parts:
            if isinstance(part, Device):
                for x in rows:
                    self._check_rows(part, x)
                asked = zip(queries, rows, settings, strict=True)
                rows = part.measure([replace(q, x=x, theta=theta[number]) for q, x, theta in asked])
                number += 1
            else:
                with torch.no_grad():
                    rows = [part(x) for x in rows]
        self._programmed = queries[-1].theta.detach().clone() if queries else held
        return rows

    def settings(self, theta: Tensor) -> tuple[Tensor, ...]:
        """Return the settings of the devices, in order, for θ (..., P)."""
        return theta.split(self._sizes, -1)

    def forget(self) -> None:
        super().forget()
        for device in self.devices:
            device.forget()

    def repeated(self) -> Count:
        total = Count()
        for device in self.devices:
            total.add(device.repeated())
        return total

    def oracle(self) -> Callable[[Tensor, Tensor], Tensor] | None:
        transfers = [each for device in self.devices if (each := device.oracle()) is not None]
        if len(transfers) < len(self.devices):
            return None

        def transfer(x: Tensor, theta: Tensor) -> Tensor:
            pairs = zip(transfers, self.settings(theta), strict=True)
            for part in self.parts:
                if isinstance(part, Device):
                    of_part, setting = next(pairs)
                    x = of_part(x, setting)
                else:
                    x = part(x)
            return x

        return transfer

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [device.state_dict() for device in self.devices]}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        before = self.state_dict()["parts"]
        try:
            self._load(state["parts"])
        except Exception:
            self._load(before)
            raise

    def _load(self, states: list[Mapping[str, Any]]) -> None:
        for device, state in zip(self.devices, states, strict=True):
            device.load_state_dict(state)

    def _check_rows(self, part: Device, x: Tensor) -> None:
        try:
            part.declaration.check_rows(x)
        except LimitError as error:
            raise LimitError(f"within {self}: {error}") from None

    def _check_maps(self) -> None:
        shape = self.devices[0].in_shape
        for part in self.parts:
            if isinstance(part, Device):
                shape = part.out_shape
                continue
            with torch.no_grad():
                found = part(torch.zeros(2, *shape))
            if not isinstance(found, Tensor) or tuple(found.shape) != (2, *shape):
                raise ArgumentError(f"`Chain(*parts)`: {part!r} does not keep rows of {shape}: a map is elementwise")

    def __repr__(self) -> str:
        return f"Chain({', '.join(str(p) if isinstance(p, Device) else _name(p) for p in self.parts)})"


def _theta(devices: tuple[Device, ...]) -> ThetaSpec:
    """Join the specifications of all settings into one row."""
    specs = [device.theta for device in devices]
    period = specs[0].period if len({spec.period for spec in specs}) == 1 else None
    low, high = _limit(specs, "low", 0), _limit(specs, "high", 1)
    size = sum(spec.size for spec in specs)
    return ThetaSpec(size, lambda generator: torch.cat([s.draw(generator) for s in specs]), low, high, period)


def _limit(specs: list[ThetaSpec], name: str, end: int) -> float | Tensor | None:
    """The limit of all parameters: one number where the devices share it."""
    limits = [getattr(spec, name) for spec in specs]
    if not any(isinstance(limit, Tensor) for limit in limits) and len(set(limits)) == 1:
        return limits[0]
    return torch.cat([spec.bounds(torch.zeros(()))[end].expand(spec.size) for spec in specs])


def _slowest(devices: tuple[Device, ...]) -> Cost:
    """Return the time of the slowest part, and the energy of all of them, with the converters of each."""
    return Cost(
        max(d.cost.programming for d in devices), max(d.cost.row * d.rows_each for d in devices), energy=_sum(devices)
    )


def _sum(devices: tuple[Device, ...]) -> EnergyCost | None:
    parts = [d.cost.energy for d in devices]
    if None in parts:
        return None
    spec = [d.declaration for d in devices]
    known = [energy for energy in parts if energy is not None]
    return EnergyCost(
        sum(e.programming + e.dac * s.theta.size for e, s in zip(known, spec, strict=True)),
        sum(s.rows_each * (e.row + e.dac * s.d_in + e.adc * s.d_out) for e, s in zip(known, spec, strict=True)),
        power=sum(e.power for e in known),
    )


def _name(part: Map) -> str:
    return getattr(part, "__name__", type(part).__name__)
