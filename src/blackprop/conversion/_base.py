"""The base class of programmers, and their result."""

from __future__ import annotations

import abc
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._probes import Probes, spanning
from blackprop.core._procedure import Procedure, in_rounds, run
from blackprop.core._query import Purpose, Query, same_setting
from blackprop.errors import BlackpropWarning, IncompatibleError
from blackprop.surrogates import Surrogate

T = TypeVar("T")

POOR = 0.5  # the relative error above which a warning is given


@dataclass(frozen=True, eq=False)
class Programmed:
    """A setting, the matrix A that was read there, and the best gain: `gain · A ≈ W`.

    - `error`: `|gain · A − W| / |W|`; 1 for a matrix of zeros. From two readings it is the root of `⟨gain A₁ − W, gain
      A₂ − W⟩ / |W|²`, and the gain is `⟨W, A⟩ / ⟨A₁, A₂⟩`. Read noise then affects neither, and the error is never
      stated below the resolution that the noise allows.
    - `theta` (P,), `matrix` (d_out, d_in), `gain`.
    """

    theta: Tensor  # (P,)
    matrix: Tensor  # (d_out, d_in): the mean of the readings
    gain: float
    error: float

    @classmethod
    def of(cls, wanted: Tensor, theta: Tensor, readings: Tensor) -> Programmed:
        """Build the result from one or two readings (R, d_out, d_in) at theta."""
        matrix, (first, second) = readings.mean(0), (readings[0], readings[-1])
        power = float((first * second).sum())
        gain = float((wanted * matrix).sum()) / power if power > 0 else 0.0
        left = float(((gain * first - wanted) * (gain * second - wanted)).sum())
        blur = gain**2 * float((first - second).square().sum()) / (2 * math.sqrt(wanted.numel()))  # of `left`, its std
        return cls(theta, matrix, gain, math.sqrt(max(0.0, left, blur)) / float(wanted.norm()))

    def __repr__(self) -> str:
        return f"Programmed(relative error {self.error:.2%}, gain {self.gain:.4g})"


class Programmer(abc.ABC):
    """Finds the θ at which a linear device is closest to a given matrix, up to a gain."""

    @property
    def surrogate(self) -> Surrogate | None:
        """The surrogate that is at the new setting after the procedure; None if there is none."""
        return None

    @abc.abstractmethod
    def program(
        self,
        wanted: Tensor,  # (d_out, d_in)
        theta: Tensor,  # (P,): where to start
        spec: Declaration,
        generator: torch.Generator,
    ) -> Procedure[Programmed]:
        """Return the procedure; all its queries are booked as `CALIBRATE`."""


def spanning_rows(size: int, like: Tensor, amplitude: float = 1.0) -> Tensor:
    """Return rows X (n, size) of ±amplitude with orthogonal columns, n the next power of two.

    All inputs are driven equally, and at levels that a converter of few bits has.
    """
    n = 1 << max(0, size - 1).bit_length()
    X = torch.ones(1, 1, dtype=like.dtype, device=like.device)
    while len(X) < n:
        X = torch.cat((torch.cat((X, X), 1), torch.cat((X, -X), 1)))
    return amplitude * X[:, :size]


def read_matrix(
    spec: Declaration, theta: Tensor, purpose: Purpose = Purpose.CALIBRATE, readings: int = 1
) -> Procedure[Tensor]:  # (readings, d_out, d_in)
    """Read a linear device's matrix at theta, from this many readings of rows that span its inputs."""
    probes = spanning_probes(spec, theta)
    answers = yield from in_rounds([Query(probes.rows, theta, purpose)] * readings, spec.d_out)
    return torch.stack([probes.matrix(y) for y in answers])


def spanning_probes(spec: Declaration, like: Tensor) -> Probes:
    """Return `spanning_rows`, or rows within the limits of the inputs."""
    X = spanning_rows(spec.d_in, like)
    return spanning(spec, X, len(X), 1.0)


def booked(procedure: Procedure[T], purpose: Purpose) -> Procedure[T]:
    """Return `procedure` with all its queries booked under `purpose`."""
    try:
        queries = next(procedure)
        while True:
            queries = procedure.send((yield [replace(query, purpose=purpose) for query in queries]))
    except StopIteration as stop:
        return stop.value


def warn_if_poor(device: object, found: Programmed, stacklevel: int) -> None:
    """Warn about a setting whose error exceeds half of the weights."""
    if found.error > POOR:
        warnings.warn(
            f"{device} reached the weights only within a relative error of {found.error:.2f}, at its best gain of "
            f"{found.gain:.3g}; keep more of them digital (`from_linear(digital=...)`), or use a device of more range "
            "or more parameters",
            BlackpropWarning,
            stacklevel=stacklevel + 1,
        )


class _ElsewhereError(Exception):
    """A query at another setting than the known one."""


def start_from(surrogate: Surrogate, known: Programmed, generator: torch.Generator) -> bool:
    """Start a surrogate from the matrix that was read, without queries; False if that is not sufficient for it."""

    def answer(queries: Sequence[Query]) -> list[Tensor]:
        if not all(same_setting(query.theta, known.theta) for query in queries):
            raise _ElsewhereError
        return [query.x @ known.matrix.mT for query in queries]

    try:
        run(surrogate.start(known.theta, generator), answer)
    except _ElsewhereError:
        return False
    return True


def bound(surrogate: Surrogate, spec: Declaration) -> None:
    """Bind a surrogate, unless a layer has bound it already."""
    try:
        _ = surrogate.spec
    except IncompatibleError:
        surrogate.bind(spec)


def corrected(
    solve: Callable[[Tensor, Tensor], Procedure[tuple[Tensor, Tensor]]],
    wanted: Tensor,
    theta: Tensor,
    spec: Declaration,
    corrections: int,
) -> Procedure[Programmed]:
    """Program the setting of a model, read the result, and correct the model by the difference, as long as that helps.

    `solve(off, theta)` returns the setting at which the model, plus the matrix `off`, is closest to the wanted one, and
    the model's own matrix there. The matrix is read twice; the part of the difference that is noise is left out.

    **Costs** at most `corrections + 1` programmings, each read on twice the spanning rows.
    """
    best: Programmed | None = None
    off = torch.zeros_like(wanted)
    for _ in range(corrections + 1):
        theta, expected = yield from solve(off, theta)
        readings = yield from read_matrix(spec, theta, readings=2)
        found = Programmed.of(wanted, theta, readings)
        if best is not None and found.error > 0.95 * best.error:
            return min(best, found, key=lambda each: each.error)
        best, more = found, _believed(found.matrix - expected - off, readings)
        if abs(found.gain) * float(more.norm()) < 0.1 * found.error * float(wanted.norm()):
            break  # the model is right: the device cannot come closer
        off = off + more
    assert best is not None
    return best


def _believed(surprise: Tensor, readings: Tensor) -> Tensor:
    """The part of a difference that is not read noise, `1 − noise²/surprise²` (the Wiener rule)."""
    noise, power = ((readings[0] - readings[1]) / 2).square().sum(), surprise.square().sum()
    return surprise * (1 - noise / power.clamp_min(torch.finfo(power.dtype).tiny)).clamp_min(0)
