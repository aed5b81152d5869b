"""The capability of a device whose complex field is driven at its ports and read at places inside it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from blackprop.core.capabilities._capability import Capability, Shape
from blackprop.core.capabilities._drives import check_fields, require_any_phase
from blackprop.errors import ArgumentError, IncompatibleError

if TYPE_CHECKING:
    from blackprop.core._declaration import Declaration

Run = tuple[int, int, int, int, int]  # count; first place j and its step; first place l and its step


@dataclass(frozen=True)
class Fields(Capability):
    """Rows of complex fields at all N ports (2, N), real and imaginary part; read is the field at K places (2, K).

    The device reads real parts, `y = Re(out)`, and its real rows enter with the phase 0 at the first d_in ports. It has
    a symmetry that turns an experiment with sources at the outputs into one that can be made: with a the field of a
    row, and e the field of its cotangent ∂L/∂y sent into the ports `outputs`,

    `∂L/∂θ_p = −Σ_rows Im(a_j e_l + a_l e_j)` for the bond (j, l) of the parameter p; half of it if j = l.

    Two kinds of device have it. In a *reciprocal* one, whose ports are entrances and exits alike, `outputs` are the
    ports of the outputs, and a parameter is the coupling of two modes, or the detuning of one. In a *mirrored* one
    `outputs` are the ports opposite to the outputs, and a parameter is the phase of a cell and of its mirror image. The
    field of a cell that delays by θ is that in its middle: `e^{iθ/2}` times the field in front, `e^{−iθ/2}` times the
    field behind.

    The device class has a method `read_fields(x)`, which sends the rows at the setting that the device holds.
    `testing.check_device` compares the gradient with slopes of the readings.

    **Arguments:**

    - `ports`: N.
    - `places`: K.
    - `outputs` (d_out,): the port in which the error of each output is sent.
    - `bonds`: the places (j, l) of each parameter, in the order of θ. Stored as runs (count, j, step of j, l, step of
      l), which are accepted, too.
    - `asymmetry` (default 0, exact): the largest error that departures from the symmetry leave in the gradient of a row
      of unit mean square, relative to it. In a batch, whose rows' gradients partly cancel, these errors add up.
    - `rate` (default 0, unknown): κ where the outgoing field of the port i is `in + √κ a_i`. The field e then gives
      `∂L/∂x`, too.

    **Raises** `ArgumentError` for sizes that do not fit together.
    """

    name: ClassVar[str] = "fields"
    per_parameter: ClassVar[bool] = True

    ports: int
    places: int
    outputs: tuple[int, ...]
    bonds: tuple[tuple[int, ...], ...]
    asymmetry: float = 0.0
    rate: float = 0.0

    def __post_init__(self) -> None:
        if self.ports < 1 or self.places < 1:
            raise ArgumentError(f"`Fields` needs at least one port and one place, got {self.ports} and {self.places}")
        for name in ("asymmetry", "rate"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ArgumentError(f"`Fields({name}=...)` must be finite and not negative, got {getattr(self, name)}")
        outputs = tuple(self.outputs)
        if not outputs or len(set(outputs)) < len(outputs) or not all(0 <= port < self.ports for port in outputs):
            raise ArgumentError(
                f"`Fields(outputs=...)` names each port once, from 0 to {self.ports - 1}, got {outputs}"
            )
        if not self.bonds or any(len(bond) not in {2, 5} or (len(bond) == 5 and bond[0] < 1) for bond in self.bonds):
            raise ArgumentError("`Fields(bonds=...)` has a pair (j, l) for each parameter, or runs of such pairs")
        pairs = list(_pairs(self.bonds))
        if any(not 0 <= place < self.places for pair in pairs for place in pair):
            raise ArgumentError(f"`Fields(bonds=...)` joins places from 0 to {self.places - 1}")
        object.__setattr__(self, "outputs", outputs)
        object.__setattr__(self, "bonds", _runs(pairs))

    @property
    def parameters(self) -> int:
        """The number of bonds, P."""
        return sum(run[0] for run in self.bonds)

    @cached_property
    def pairs(self) -> tuple[Tensor, Tensor]:
        """The places j and l (P,) of each parameter."""
        j, l = torch.tensor(list(_pairs(self.bonds))).unbind(1)  # noqa: E741
        return j, l

    def row_shape(self, spec: Declaration) -> Shape:
        del spec
        return (2, self.ports)

    def reading_shape(self, spec: Declaration) -> Shape:
        del spec
        return (2, self.places)

    def perform(self, device: Any, x: Tensor, /) -> Tensor:
        return device.read_fields(x)

    def check_rows(self, x: Tensor, spec: Declaration) -> None:
        check_fields(self.name, x[..., : spec.d_in], spec)

    def check(self, owner: str, spec: Declaration) -> None:
        """Raise `IncompatibleError` unless the sizes are those of the device, for the method `owner`."""
        if self.parameters != spec.theta.size:
            raise IncompatibleError(
                f"`{owner}` needs the bond of every parameter: {spec.name} declares those of {self.parameters} of its "
                f"{spec.theta.size} parameters"
            )
        if len(self.outputs) != spec.d_out or self.ports < spec.d_in:
            raise IncompatibleError(
                f"`{owner}` sends the rows and the errors into ports: {spec.name} has {spec.d_in} inputs and "
                f"{spec.d_out} outputs, and declares {self.ports} ports and those of {len(self.outputs)} outputs"
            )
        if any(port < spec.d_in for port in self.outputs):
            require_any_phase(owner, spec)

    def driven(self, x: Tensor) -> Tensor:
        """The fields (B, 2, N) of real rows x (B, *in_shape) at the inputs."""
        rows = x.flatten(1)
        sent = rows.new_zeros(len(rows), 2, self.ports)
        sent[:, 0, : rows.shape[1]] = rows
        return sent

    def injected(self, grad_y: Tensor, part: int = 0) -> Tensor:
        """The fields (B, 2, N) of cotangents (B, *out_shape) in the ports of the outputs; `part` 1 for i times them."""
        g = grad_y.flatten(1)
        sent = g.new_zeros(len(g), 2, self.ports)
        sent[:, part, list(self.outputs)] = g
        return sent

    def gradient(self, a: Tensor, e: Tensor) -> Tensor:
        """`−Σ_b Im(a_j e_l + a_l e_j)` (P,), half of it for j = l, of complex fields (B, K)."""
        j, l = (place.to(a.device) for place in self.pairs)  # noqa: E741
        both = (a[:, j] * e[:, l] + a[:, l] * e[:, j]).imag.sum(0)
        return -torch.where(j == l, both / 2, both)


def as_complex(fields: Tensor) -> Tensor:
    """Complex fields (B, n) from their real and imaginary parts (B, 2, n)."""
    return torch.complex(fields[:, 0], fields[:, 1])


def _pairs(bonds: Iterable[Sequence[int]]) -> Iterable[tuple[int, int]]:
    for bond in bonds:
        count, j, dj, l, dl = bond if len(bond) == 5 else (1, bond[0], 0, bond[1], 0)  # noqa: E741
        yield from ((j + n * dj, l + n * dl) for n in range(count))


def _runs(pairs: Iterable[tuple[int, int]]) -> tuple[Run, ...]:
    """The pairs as runs of equal steps: thousands of bonds fit into the header of a message."""
    runs: list[Run] = []
    for j, l in pairs:  # noqa: E741
        count, j0, dj, l0, dl = runs[-1] if runs else (0, 0, 0, 0, 0)
        if count == 1:
            runs[-1] = (2, j0, j - j0, l0, l - l0)
        elif count and (j, l) == (j0 + count * dj, l0 + count * dl):
            runs[-1] = (count + 1, j0, dj, l0, dl)
        else:
            runs.append((1, j, 0, l, 0))
    return tuple(runs)
