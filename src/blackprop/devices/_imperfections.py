"""Imperfections of a real device, on every query: noise, coarse converters, drift."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from blackprop.core._query import Purpose, Query
from blackprop.core.capabilities._capability import ALL, Capability, Survives
from blackprop.devices._base import Device
from blackprop.devices._wrapper import Wrapper
from blackprop.errors import ArgumentError

Range = tuple[float, float]


def _usable(size: Tensor) -> float | None:
    """Return the size of a signal as a scale, None if there was no signal."""
    value = float(size) if size.numel() else 0.0
    return value if 0 < value < math.inf else None


def restored(state: Tensor) -> torch.Generator:
    generator = torch.Generator()
    generator.set_state(state.cpu())
    return generator


def _normal(y: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(y.shape, generator=generator, dtype=y.dtype).to(y.device)


class Noisy(Wrapper):
    """Reads `y + read·s·n₁ + proportional·y·n₂ + shot·√(s|y|)·n₃` with n₁, n₂, n₃ ~ N(0, 1), new at every reading.

    Evaluations draw from a stream of their own, which restarts after every other reading. The number of evaluations
    therefore does not affect the training.

    The readings of a capability have the same relative noise, relative to their own root mean square.

    **Arguments:**

    - `device`: the device.
    - `read` (default 0): noise relative to the output scale s, a property of the detector and not of the query: weak
      probes vanish in it.
    - `proportional` (default 0): the multiplicative noise of arXiv 2509.15113, there on the training forward pass alone
      and here on every query.
    - `shot` (default 0): noise of counted photons, relative to an output as large as s.
    - `scale` (units of y, default None): s; None takes the root mean square of the first outputs that are not all zero.
    - `seed` (default 0).
    """

    survives: ClassVar[Survives] = ALL

    def __init__(
        self,
        device: Device,
        *,
        read: float = 0.0,
        proportional: float = 0.0,
        shot: float = 0.0,
        scale: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(device)
        for name, value in (("read", read), ("proportional", proportional), ("shot", shot), ("scale", scale)):
            if value is not None and not 0 <= value < math.inf:
                raise ArgumentError(f"`Noisy({name}=...)` must be finite and not negative, got {value}")
        self.noise: float = math.hypot(device.noise, read, proportional, shot)
        self._read_noise = read
        self.proportional = proportional
        self.shot = shot
        self.scale: float | None = scale
        self._generator = torch.Generator().manual_seed(seed)
        self._evaluating: torch.Generator | None = None

    def _sense(self, y: Tensor, purpose: Purpose) -> Tensor:
        if self.scale is None:
            self.scale = _usable(y.square().mean().sqrt())
        stream, light = self._stream(purpose), y
        if self.proportional:
            y = y + self.proportional * y * _normal(y, stream)
        if self.shot and self.scale is not None:
            y = y + self.shot * (self.scale * light.abs()).sqrt() * _normal(y, stream)
        if self._read_noise and self.scale is not None:
            y = y + self._read_noise * self.scale * _normal(y, stream)
        return y

    def _sense_action(self, y: Tensor, query: Query) -> Tensor:
        if not y.numel():
            return y
        stream = self._stream(query.purpose)
        y = y + self.proportional * y * _normal(y, stream) if self.proportional else y
        return y + self._read_noise * y.square().mean().sqrt() * _normal(y, stream) if self._read_noise else y

    def _stream(self, purpose: Purpose) -> torch.Generator:
        if purpose is not Purpose.EVALUATE:
            self._evaluating = None
            return self._generator
        if self._evaluating is None:
            seed = hashlib.sha256(self._generator.get_state().numpy().tobytes()).digest()
            self._evaluating = torch.Generator().manual_seed(int.from_bytes(seed[:7]))
        return self._evaluating

    def state_dict(self) -> dict[str, Any]:
        evaluating = None if self._evaluating is None else self._evaluating.get_state()
        state = {"generator": self._generator.get_state(), "evaluating": evaluating, "scale": self.scale}
        return {**super().state_dict(), **state}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        generator, scale, evaluating = restored(state["generator"]), state["scale"], state.get("evaluating")
        evaluating = None if evaluating is None else restored(evaluating)
        super().load_state_dict(state)
        self._generator, self._evaluating, self.scale = generator, evaluating, scale


class Quantised(Wrapper):
    """Converters of finite resolution: inputs, settings and outputs are clipped to a range and rounded to 2^bits
    levels.

    Signed converters, with a range `(−r, r)`, have a level at zero, as dark inputs need, and so one level fewer (except
    for 1 bit). Settings and inputs never leave the device's limits. The oracle of a quantised simulator passes
    gradients straight through the rounding.

    **Arguments:**

    - `device`: the device.
    - `input_bits`, `theta_bits`, `output_bits` (1 to 24, default None, no converter).
    - `input_range`, `theta_range`, `output_range` (default None): (low, high). None takes the device's own for θ (its
      limits, or one period, in which case levels wrap around) and for inputs with two limits. For other inputs and for
      outputs it takes `±max|·|` of all values so far, as an auto-ranging instrument does.

    **Raises** `ArgumentError` for `theta_bits` without a range, on a device with neither limits nor a period.
    """

    def __init__(
        self,
        device: Device,
        *,
        input_bits: int | None = None,
        theta_bits: int | None = None,
        output_bits: int | None = None,
        input_range: Range | None = None,
        theta_range: Range | None = None,
        output_range: Range | None = None,
    ) -> None:
        super().__init__(device)
        self._bits = {"input": input_bits, "theta": theta_bits, "output": output_bits}
        self._ranges = {"input": input_range, "theta": theta_range, "output": output_range}
        for name, bits in self._bits.items():
            if bits is not None and not (isinstance(bits, int) and 1 <= bits <= 24):
                raise ArgumentError(f"`Quantised({name}_bits=...)` must be a whole number from 1 to 24, got {bits}")
        for name, span in self._ranges.items():
            if span is not None and not -math.inf < span[0] < span[1] < math.inf:
                raise ArgumentError(f"`Quantised({name}_range=...)` must be (low, high) with low < high, got {span}")
        if theta_bits is not None and theta_range is None:
            self._ranges["theta"] = self._theta_range()
        if input_bits is not None and input_range is None and device.x_low is not None and device.x_high is not None:
            self._ranges["input"] = device.x_low, device.x_high
        self._auto = {name for name in ("input", "output") if self._ranges[name] is None}
        if input_bits is None and output_bits is None:  # converters of inputs and outputs stand at their own ports
            self.capabilities: tuple[Capability, ...] = device.capabilities

    def _theta_range(self) -> Range | None:
        spec = self.theta
        if spec.period is not None:
            return None
        if isinstance(spec.low, (int, float)) and isinstance(spec.high, (int, float)):
            return float(spec.low), float(spec.high)
        raise ArgumentError(
            f"`Quantised(theta_bits=...)` needs `theta_range=(low, high)`: {self.device} declares neither a period nor "
            "one pair of limits for all its parameters"
        )

    def _setting(self, theta: Tensor, fresh: bool) -> Tensor:
        del fresh
        bits = self._bits["theta"]
        if bits is None:
            return theta
        if self._ranges["theta"] is None and self.theta.period is not None:
            quantum = self.theta.period / 2**bits
            rounded = (theta / quantum).round() * quantum
        else:
            rounded = self._round("theta", theta)
        return self.theta.clamp(rounded)  # the highest level may lie beyond a limit, if only by rounding

    def _drive(self, x: Tensor) -> Tensor:
        rounded = self._round("input", x)
        limited = self.x_low is not None or self.x_high is not None
        return rounded.clamp(self.x_low, self.x_high) if limited else rounded

    def _sense(self, y: Tensor, purpose: Purpose) -> Tensor:
        del purpose
        return self._round("output", y)

    def _round(self, name: str, value: Tensor) -> Tensor:
        bits = self._bits[name]
        if bits is None or not value.numel():
            return value
        if name in self._auto:
            seen = self._ranges[name]
            peak = max(_usable(value.abs().max()) or 0.0, seen[1] if seen is not None else 0.0)
            if not peak:
                return value
            self._ranges[name] = (-peak, peak)
        span = self._ranges[name]
        assert span is not None
        low, high = span
        if low == -high and bits > 1:
            quantum = high / (2 ** (bits - 1) - 1)
            return (value.clamp(low, high) / quantum).round() * quantum
        quantum = (high - low) / (2**bits - 1)
        return ((value.clamp(low, high) - low) / quantum).round() * quantum + low

    def oracle(self) -> Callable[[Tensor, Tensor], Tensor] | None:
        inner = super().oracle()
        return None if inner is None else partial(self._straight_through, inner)

    def _straight_through(self, inner: Callable[[Tensor, Tensor], Tensor], x: Tensor, theta: Tensor) -> Tensor:
        x = x + (self._drive(x.detach()) - x.detach())
        theta = theta + (self._setting(theta.detach(), fresh=False) - theta.detach())
        return inner(x, theta)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "ranges": dict(self._ranges)}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        ranges = dict(state["ranges"])
        super().load_state_dict(state)
        self._ranges = ranges
