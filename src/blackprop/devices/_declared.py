"""A device with another declaration than its own: the result of a characterisation, including a hidden wiring."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from blackprop.core._declaration import Cost, Coupling, input_limits
from blackprop.core._theta import ThetaSpec
from blackprop.core.capabilities._capability import ALL, Capability, Survives, declared
from blackprop.devices._base import Device
from blackprop.devices._wrapper import Wrapper
from blackprop.errors import ArgumentError


class Declared(Wrapper):
    """The same device with another declaration; readings and costs are unchanged.

    **Arguments:**

    - `device`: the device.
    - `linear`, `coupling`, `noise`, `period`, `harmonics` (defaults: unknown): replace the device's own declarations.
    - `cost`, `x_low`, `x_high` (default None, the device's own): replace them if given.
    - `capabilities` (default none): descriptions in place of the device's own ones of the same types.
    - `without` (default none): types of capabilities that the device declares and does not have.
    - `drawing` (default False): keep the design that the device declares, in its own order of parameters.
    - `order` (P,) (default None): a permutation that renumbers the parameters. Parameter k is the device's own
      `order[k]`, so `θ_device[order] = θ`. A device whose parameter p moves the matrix element π(p) alone has ordinary
      row-major `Coupling.ELEMENT` in the order π⁻¹. Initial values and limits are renumbered too.

    >>> import torch, blackprop as bp
    >>> device = bp.devices.Declared(bp.devices.LightModulator(2, 2), order=torch.tensor([3, 2, 1, 0]))
    >>> device.device is not None and device.coupling
    <Coupling.NONE: 'none'>
    """

    linear: bool
    coupling: Coupling
    noise: float
    x_low: float | None
    x_high: float | None
    order: Tensor | None

    survives: ClassVar[Survives] = ALL

    def __init__(
        self,
        device: Device,
        *,
        linear: bool = False,
        coupling: Coupling = Coupling.NONE,
        noise: float = 0.0,
        period: float | None = None,
        harmonics: int | None = None,
        cost: Cost | None = None,
        order: Tensor | None = None,
        x_low: float | None = None,
        x_high: float | None = None,
        drawing: bool = False,
        without: Iterable[type[Capability]] = (),
        capabilities: Iterable[Capability] = (),
    ) -> None:
        super().__init__(device)
        instead = {type(each): each for each in declared("Declared", capabilities)}
        if missing := [each.name for kind, each in instead.items() if not device.declaration.has(kind)]:
            raise ArgumentError(f"`Declared(capabilities=...)`: {device} does not have the capability {missing[0]!r}")
        lasting = tuple(
            instead.get(type(each), each) for each in self.capabilities if not isinstance(each, tuple(without))
        )
        self.capabilities: tuple[Capability, ...] = lasting
        self.cost: Cost = cost if cost is not None else device.cost
        self.linear, self.coupling, self.noise = linear, coupling, noise
        given = (new if new is not None else old for new, old in ((x_low, device.x_low), (x_high, device.x_high)))
        self.x_low, self.x_high = input_limits("Declared", *given)
        self.order, self._keeps_drawing = order, drawing and order is None
        self._place: Tensor | None = None  # the place in θ of the device's parameter p
        spec = replace(device.theta, period=period, harmonics=harmonics)
        if order is not None:
            size = device.theta.size
            if order.shape != (size,) or not torch.equal(order.sort().values.cpu(), torch.arange(size)):
                raise ArgumentError(f"`Declared(order=...)` must be a permutation of 0 to {size - 1}")
            self._place = order.argsort()
            if not torch.equal(order.cpu(), torch.arange(size)):
                kept = tuple(each for each in self.capabilities if not each.per_parameter)
                self.capabilities = kept
            spec = replace(spec, low=_permuted(spec.low, order), high=_permuted(spec.high, order))
            spec = replace(spec, initial=_initial(device.theta, order))
        self.theta: ThetaSpec = spec

    def _setting(self, theta: Tensor, fresh: bool) -> Tensor:
        del fresh
        return theta if self._place is None else theta[..., self._place.to(theta.device)]

    def drawing(self) -> Device | None:
        return super().drawing() if self._keeps_drawing else None

    def oracle(self) -> Callable[[Tensor, Tensor], Tensor] | None:
        inner = super().oracle()
        return None if inner is None else lambda x, theta: inner(x, self._setting(theta, fresh=False))


def _permuted(limit: float | Tensor | None, order: Tensor) -> float | Tensor | None:
    return limit[order.to(limit.device)] if isinstance(limit, Tensor) else limit


def _initial(spec: ThetaSpec, order: Tensor) -> Callable[[torch.Generator], Tensor]:
    def draw(generator: torch.Generator) -> Tensor:
        theta = spec.draw(generator)
        return theta[order.to(theta.device)]

    return draw
