"""Limits of fields of any phase at the inputs, and of rows from the sources at the outputs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor

from blackprop.errors import ArgumentError, IncompatibleError, LimitError

if TYPE_CHECKING:
    from blackprop.core._declaration import Declaration


def reach(spec: Declaration) -> float:
    """The largest amplitude of a field of any phase at the inputs; 0 where they take one sign alone."""
    low, high = spec.x_range
    return max(0.0, min(-low, high))


def require_linear(owner: str, spec: Declaration) -> None:
    """Raise `IncompatibleError` unless the device is declared linear, for the method `owner`."""
    if not spec.linear:
        raise IncompatibleError(
            f"`{owner}` needs a linear device and {spec.name} is not declared linear; one that reads powers needs "
            "homodyne detectors at its outputs, whose readings have the phase that the error is sent back with"
        )


def require_any_phase(owner: str, spec: Declaration) -> None:
    """Raise `IncompatibleError` unless the inputs take fields of any phase, for the method `owner`."""
    if reach(spec) == 0:
        raise IncompatibleError(
            f"`{owner}` sends fields of any phase, and the inputs of {spec.name} take real rows of one sign, "
            f"{_limits(spec)}: it needs modulators of amplitude and phase, of which a device declares no limits or "
            "limits about 0"
        )


def check_fields(name: str, fields: Tensor, spec: Declaration) -> None:
    """Raise `LimitError` unless the fields (rows, 2, N) at the inputs are within the limits of real rows, or of an
    amplitude of any phase.
    """
    if not spec.x_limited or not fields.numel():
        return
    real, imaginary = fields[:, 0], fields[:, 1]
    low, high = spec.x_range
    most = reach(spec)
    slack = 1 + 1e-6  # an amplitude is rounded
    within = real.square() + imaginary.square() <= (most * slack) ** 2
    within |= (imaginary == 0) & (real >= low) & (real <= high)
    if bool(within.all()):
        return
    row, port = (int(n) for n in (~within).nonzero()[0])
    if most == 0:
        raise LimitError(
            f"row {row} of `{name}` sends a field that is not a real one of one sign to input {port}, and the inputs "
            f"of {spec.name} take real rows within {_limits(spec)} alone"
        )
    size = float(fields[row, :, port].norm())
    raise LimitError(
        f"row {row} of `{name}` sends a field of amplitude {size:.4g} to input {port}, and the inputs of {spec.name} "
        f"take fields of any phase up to {most:.4g}"
    )


def check_limit(owner: object, limit: float | None) -> None:
    """Raise `ArgumentError` unless the largest amplitude at the outputs is positive, or None."""
    if limit is not None and not 0 < limit < math.inf:
        name = type(owner).__name__
        raise ArgumentError(f"`{name}(limit=...)` must be positive and finite, or None for no limit, got {limit}")


def check_backward(name: str, g: Tensor, limit: float | None, spec: Declaration) -> None:
    """Raise `LimitError` unless the sources at the outputs send rows g as large as these."""
    if limit is None or not g.numel() or float(g.abs().max()) <= limit:
        return
    row, output = (int(n) for n in (g.flatten(1).abs() > limit).nonzero()[0])
    raise LimitError(
        f"row {row} of `{name}` sends {float(g.flatten(1)[row, output]):.4g} into output {output}, and the sources at "
        f"the outputs of {spec.name} send at most {limit:.4g}"
    )


def fitting(rows: Tensor, most: float) -> tuple[Tensor, Tensor]:
    """Rows (n, ...) scaled down to entries of at most `most`, and the factors (n,), at most 1."""
    factors = (most / rows.flatten(1).abs().amax(1).clamp_min(1e-30)).clamp_max(1.0)
    return rows * factors.view(-1, *[1] * (rows.dim() - 1)), factors


def _limits(spec: Declaration) -> str:
    low, high = spec.x_range
    return f"[{low:g}, {high:g}]"
