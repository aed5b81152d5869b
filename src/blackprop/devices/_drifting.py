"""A device whose settings walk."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from blackprop.core.capabilities._capability import ALL, Survives
from blackprop.devices._base import Device
from blackprop.devices._imperfections import restored
from blackprop.devices._wrapper import Wrapper
from blackprop.errors import ArgumentError

Range = tuple[float, float]


class Drifting(Wrapper):
    """Writes `θ + o` with a random walk of the offset o: `o += σ_p n` at every programming, `o += σ_t √Δt n` over time.

    Within limits, the written setting stays within them.

    **Arguments:**

    - `device`: the device.
    - `per_programming` (units of θ, default 0): σ_p.
    - `per_root_second` (units of θ / √s, default 0): σ_t.
    - `initial` (units of θ, default 0): standard deviation of the offset at the start, for a device that was never
      aligned.
    - `seed` (default 0).
    - `clock` (s, default `time.monotonic`): read once a round.
    """

    offset: Tensor

    survives: ClassVar[Survives] = ALL

    def __init__(
        self,
        device: Device,
        *,
        per_programming: float = 0.0,
        per_root_second: float = 0.0,
        initial: float = 0.0,
        seed: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(device)
        rates = {"per_programming": per_programming, "per_root_second": per_root_second, "initial": initial}
        for name, value in rates.items():
            if not value >= 0:
                raise ArgumentError(f"`Drifting({name}=...)` must not be negative, got {value}")
        self._rates = rates
        self._clock = clock
        self._generator = torch.Generator().manual_seed(seed)
        self._last = clock()
        self.offset = torch.zeros(self.theta.size)
        self._walk(initial)

    def _walk(self, std: float) -> None:
        if std:
            self.offset = self.offset + std * torch.randn(self.theta.size, generator=self._generator)

    def _setting(self, theta: Tensor, fresh: bool) -> Tensor:
        if fresh:
            self._walk(self._rates["per_programming"])
        if self._rates["per_root_second"]:
            now = self._clock()
            self._walk(self._rates["per_root_second"] * math.sqrt(max(0.0, now - self._last)))
            self._last = now
        return self.theta.clamp(theta + self.offset.to(theta))

    def oracle(self) -> Callable[[Tensor, Tensor], Tensor] | None:
        inner = super().oracle()
        return None if inner is None else partial(self._displaced, inner)

    def _displaced(self, inner: Callable[[Tensor, Tensor], Tensor], x: Tensor, theta: Tensor) -> Tensor:
        return inner(x, self.theta.clamp(theta + self.offset.to(theta)))

    def state_dict(self) -> dict[str, Any]:
        state = {"offset": self.offset, "generator": self._generator.get_state()}
        return {**super().state_dict(), **state}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        generator, offset = restored(state["generator"]), state["offset"]
        if offset.shape != self.offset.shape:
            raise ValueError(f"an offset of {tuple(offset.shape)} for {self.theta.size} parameters")
        super().load_state_dict(state)
        self._generator, self.offset = generator, offset.clone()
        self._last = self._clock()
