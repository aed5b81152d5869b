"""The common part of reservoirs: rows that are sequences, a state that starts at rest, and a way to carry it over."""

from __future__ import annotations

import abc
import cmath
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor

from blackprop.core._declaration import Cost
from blackprop.core._query import Query
from blackprop.core._theta import ThetaSpec
from blackprop.devices._base import Device
from blackprop.devices._matrix import uniform
from blackprop.devices._simulator import Simulator
from blackprop.devices._wrapper import Wrapper
from blackprop.errors import ArgumentError, ReadingError, ShapeError


class Reservoir(Simulator):
    """A device with memory: a row is a sequence `(time, channels)`, its reading `(time, nodes)`.

    Subclasses write two pure, differentiable functions in place of `transfer`: `rest(x, theta)`, the initial state of a
    row, and `evolve(x, theta, state)`, the readings and the final state. Both take settings stacked in front. Every row
    begins at rest, so rows are independent and queries have no after-effect; `Stateful` changes that.
    """

    stacks = True
    strength: str  # the name of θ[0], for the error when the state diverges

    def __init__(self, time: int, channels: int, nodes: int, theta: ThetaSpec, *, cost: Cost) -> None:
        super().__init__((time, channels), (time, nodes), theta, cost=cost)

    @abc.abstractmethod
    def rest(self, x: Tensor, theta: Tensor) -> Tensor:
        """Return the state (..., rows, numbers) before the first sample."""

    @abc.abstractmethod
    def evolve(self, x: Tensor, theta: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return the readings (..., rows, time, nodes) of the rows that begin in `state`, and their final state."""

    def transfer(self, x: Tensor, theta: Tensor, /) -> Tensor:
        return self.evolve(x, theta, self.rest(x, theta))[0]

    def setting_bytes(self, rows: int) -> int:
        time, nodes = self.out_shape
        return 8 * self.theta.size + 32 * rows * time * nodes

    def read(self, x: Tensor, /) -> Tensor:
        y = super().read(x)
        assert self._programmed is not None
        self.check_finite(y, self._programmed)
        return y

    def measure(self, queries: Sequence[Query], /) -> list[Tensor]:
        readings = super().measure(queries)
        for query, y in zip(queries, readings, strict=True):
            self.check_finite(y, query.theta)
        return readings

    def check_finite(self, y: Tensor, theta: Tensor) -> None:
        """Raise `ReadingError` if the state diverged, and name the responsible parameter."""
        if not bool(y.isfinite().all()):
            sample = int((~y.isfinite()).flatten(2).any(-1).any(0).nonzero()[0])
            raise ReadingError(
                f"{self} is unstable at {self.strength} {float(theta[0]):.4g}: its state is no longer finite at sample "
                f"{sample}; lower the {self.strength}, or send smaller rows"
            )


@final
class Stateful(Wrapper):
    """A reservoir whose rows continue from the final states of the previous reading, row by row.

    For a sequence that is longer than a row, read piece by piece. **Every** reading moves the state, for any purpose,
    as on the bench. A derivative is not offered, and answers depend on history, so train θ on the reservoir itself.
    `state` (rows, numbers) is None at rest; `reset()` returns to rest. It is part of `state_dict`.
    """

    def __init__(self, device: Reservoir) -> None:
        if not isinstance(device, Reservoir):
            raise ArgumentError(f"`Stateful(device)` carries the state of a reservoir, got {device!r}")
        super().__init__(device)
        self.reservoir = device
        self.state: Tensor | None = None

    def reset(self) -> None:
        self.state = None

    def read(self, x: Tensor, /) -> Tensor:
        theta = self.reservoir.programmed
        if theta is None:
            raise ArgumentError(f"{self} must be programmed before it is read")
        if self.state is not None and len(self.state) != len(x):
            raise ShapeError(
                f"{self} holds the state of {len(self.state)} rows and was sent {len(x)}; `reset()` starts afresh"
            )
        with torch.no_grad():
            theta = theta.to(x)
            state = self.reservoir.rest(x, theta) if self.state is None else self.state
            y, state = self.reservoir.evolve(x, theta, state)
        self.reservoir.check_finite(y, theta)
        self.state = state
        return y

    def measure(self, queries: Sequence[Query], /) -> list[Tensor]:
        return Device.measure(self, queries)  # one at a time: each begins where the one before ended

    def oracle(self) -> None:
        return None

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "state": None if self.state is None else self.state.clone()}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        carried = state["state"]
        if carried is not None and not isinstance(carried, Tensor):
            raise TypeError(f"the carried state must be a tensor or None, got {type(carried).__name__}")
        super().load_state_dict(state)
        self.state = None if carried is None else carried.clone()


def masked(x: Tensor, mask: Tensor) -> Tensor:
    """Return each sample of the rows (..., rows, time, channels) times the masks (..., nodes · channels), node by node.

    The result has shape (..., rows, time, nodes).
    """
    return x @ mask.unflatten(-1, (-1, x.shape[-1])).mT.unsqueeze(-3)


def stacked_rows(x: Tensor, theta: Tensor) -> tuple[int, ...]:
    """Return the dimensions (..., rows) of the states of the rows x at the settings theta."""
    return tuple(torch.broadcast_shapes(x.shape[:-2], (*theta.shape[:-1], 1)))


def around_a_loop(
    advance: Callable[[Tensor, Tensor, Tensor], Tensor], drive: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Integrate a ring with a delay under `drive` (steps, ..., rows); return its readings and its final state.

    The state is all values over one delay, (..., rows, delay in steps + 1). Returning values within a delay are known
    at its beginning, so `advance(back, now, drive)` makes that many steps at once: `back` holds the returning values at
    their beginnings and ends.
    """
    recent, pieces = state.movedim(-1, 0), []
    for section in drive.split(len(recent) - 1):
        pieces.append(advance(recent[: len(section) + 1], recent[-1], section))
        recent = torch.cat((recent[len(section) :], pieces[-1]))
    return torch.cat(pieces), recent.movedim(0, -1)


def decay(z: Tensor, fade: float, nonlinear: float, shift: float) -> Tensor:
    """The envelope `ċ = −Γ (1 + Q|c|²) c − i N|c|² c` after a step h, exactly: `fade` Γh, `nonlinear` Q, `shift` N/Γ.

    With `s = |z|² (1 − e^{−2Γh})` the power falls to `|z|² e^{−2Γh} / (1 + Q s)`, the phase by `N ln(1 + Q s) / 2ΓQ`.
    """
    power, spent = (z * z.conj()).real, -math.expm1(-2 * fade)
    if not nonlinear:
        return z * (power * (-0.5j * shift * spent) - fade).exp()
    log = (power * (nonlinear * spent)).log1p()
    return z * (log * complex(-0.5, -0.5 * shift / nonlinear) - fade).exp()


def start_from(values: tuple[float, ...], size: int, scale: float, generator: torch.Generator) -> Tensor:
    """Return the leading numbers of a setting, then a mask drawn from U(−scale, scale): (size,)."""
    theta = uniform(size, -scale, scale, generator)
    theta[: len(values)] = torch.tensor(values, device=theta.device)
    return theta


def not_negative(size: int, first: float = math.inf) -> tuple[Tensor, Tensor]:
    """Return the limits of a setting whose first number is not negative, and at most `first`."""
    low, high = torch.full((size,), -math.inf), torch.full((size,), math.inf)
    low[0], high[0] = 0.0, first
    return low, high


def whole_steps(device: str, delay: float, step: float) -> int:
    """Return the number of integration steps in the delay, which must be an integer."""
    if delay < step * (1 - 1e-6):
        raise ArgumentError(f"`{device}(delay=...)`: {delay:g} s is shorter than the integration step of {step:g} s")
    steps = round(delay / step)
    if not math.isclose(delay, steps * step, rel_tol=1e-6):
        raise ArgumentError(
            f"`{device}(delay=...)` must be a whole number of integration steps of {step:g} s, got {delay:g} s; "
            f"the nearest is {steps * step:g} s"
        )
    return steps


def check_counts(device: str, **values: int) -> None:
    for name, value in values.items():
        if not (isinstance(value, int) and value >= 1):
            raise ArgumentError(f"`{device}({name}=...)` must be a whole number of at least 1, got {value}")


def check_finite(device: str, **values: complex) -> None:
    for name, value in values.items():
        if not cmath.isfinite(value):
            raise ArgumentError(f"`{device}({name}=...)` must be finite, got {value}")


def check_positive(device: str, **values: float) -> None:
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise ArgumentError(f"`{device}({name}=...)` must be positive and finite, got {value}")


def check_not_negative(device: str, **values: float) -> None:
    for name, value in values.items():
        if not 0 <= value < math.inf:
            raise ArgumentError(f"`{device}({name}=...)` must be finite and not negative, got {value}")
