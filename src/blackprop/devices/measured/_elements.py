"""A matrix whose elements answer as measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from blackprop.core._declaration import Cost, Coupling
from blackprop.core._theta import ThetaSpec
from blackprop.core.capabilities._read_back import ReadBack
from blackprop.devices._simulator import Simulator, apply_matrix
from blackprop.devices.measured._interpolation import Curve
from blackprop.devices.measured._table import read_table
from blackprop.errors import ArgumentError, LimitError


class MeasuredElements(Simulator):
    """`A_ij = R_ij((C θ)_ij)`: a simulator whose curves R and crosstalk C are a user's own measurements.

    Between measured points a curve is a monotone cubic, so that it never leaves the range of two neighbours, and has a
    derivative for the oracle. θ is limited to the measured range; beyond it the device is unknown, and `read` refuses
    it. With crosstalk the limits are narrower, so that every Cθ is inside. Responses keep their unit.

    The declared `noise` is the measured one relative to the responses' root mean square. To read with it, wrap the
    device: `bp.devices.Noisy(device, read=device.noise)`.

    **Arguments:**

    - `theta` (K,): the settings at which responses were measured, ascending, at least 2.
    - `response` (K,), one curve for all elements, or (K, d_out, d_in): the responses.
    - `d_in`, `d_out`: numbers of inputs and outputs; P = d_out · d_in. They may be left out where `response` tells.
    - `crosstalk` (P, P, default None): C, row-major; the identity where elements do not act on each other.
    - `noise` (unit of the responses, default 0): the standard deviation of a response.
    - `cost` (default none): lab time.

    **Raises** `ArgumentError` for tables of other shapes, settings that do not ascend, values that are not finite, and
    a crosstalk that leaves no setting inside the measured range.

    Source of the interpolation: Fritsch and Butland, SIAM J. Sci. Stat. Comput. 5, 300 (1984).

    >>> import blackprop as bp
    >>> device = bp.devices.MeasuredElements([0.0, 1.0, 2.0, 3.0], [1.0, 0.6, 0.1, 0.0], d_in=8, d_out=4)
    >>> device.linear, device.coupling, device.theta.low, device.theta.high
    (True, <Coupling.ELEMENT: 'element'>, 0.0, 3.0)
    """

    stacks = True
    kept_from: int | None = 0

    def __init__(
        self,
        theta: Tensor | Sequence[float],
        response: Tensor | Sequence[Any],
        d_in: int | None = None,
        d_out: int | None = None,
        *,
        crosstalk: Tensor | None = None,
        noise: float = 0.0,
        cost: Cost | None = None,
    ) -> None:
        places, values = (torch.as_tensor(each, dtype=torch.float64) for each in (theta, response))
        d_in, d_out = _shape(places, values, d_in, d_out)
        if not 0 <= noise < math.inf:
            raise ArgumentError(f"`MeasuredElements(noise=...)` must be finite and not negative, got {noise}")
        size = d_in * d_out
        low, high = float(places[0]), float(places[-1])
        limits: tuple[float | Tensor, float | Tensor] = (low, high)
        if crosstalk is not None:
            crosstalk = torch.as_tensor(crosstalk, dtype=torch.float64)
            limits = _inside(crosstalk, size, low, high)
        scale = float(values.square().mean().sqrt())
        super().__init__(
            d_in,
            d_out,
            ThetaSpec(size, low=limits[0], high=limits[1]),
            linear=True,
            coupling=Coupling.ELEMENT if crosstalk is None else Coupling.NONE,
            cost=cost,
            noise=noise / scale if scale else 0.0,
            capabilities=[ReadBack()],
        )
        self.curve: Curve = Curve.through(places, values.flatten(1) if values.dim() == 3 else values)
        self.crosstalk = crosstalk

    @classmethod
    def from_csv(
        cls, path: str | Path, d_in: int, d_out: int, *, crosstalk: Tensor | None = None, cost: Cost | None = None
    ) -> MeasuredElements:
        """Read a table with a header and the columns `theta` and `response`, one line a measurement.

        Where each element has a curve of its own, `output` and `input` number it from 0. A column `noise` holds the
        standard deviation of a response. Lines at one setting are averaged, and tell the noise where no column does.
        """
        table = read_table(Path(path), d_in, d_out)
        return cls(*table[:2], d_in, d_out, crosstalk=crosstalk, noise=table.noise or 0.0, cost=cost)

    def transfer(self, x: Tensor, theta: Tensor, /) -> Tensor:
        return self.answer(x, self.coefficients(theta))

    def coefficients(self, theta: Tensor, /) -> Tensor:
        low, high = self.theta.bounds(theta)
        if bool(((theta < low) | (theta > high)).any()):
            raise LimitError(f"{self} was measured within its limits alone, and theta is outside them")
        driven = theta if self.crosstalk is None else theta @ self.crosstalk.to(theta).mT
        return self.curve.at(driven).unflatten(-1, (*self.out_shape, *self.in_shape))

    def answer(self, x: Tensor, coefficients: Tensor, /) -> Tensor:
        return apply_matrix(coefficients, x)


def _shape(places: Tensor, values: Tensor, d_in: int | None, d_out: int | None) -> tuple[int, int]:
    name = "`MeasuredElements(theta=..., response=...)`"
    if places.dim() != 1 or len(places) < 2 or values.dim() not in (1, 3) or len(values) != len(places):
        raise ArgumentError(
            f"{name} takes K settings, at least 2, and K responses or (K, d_out, d_in), got {tuple(places.shape)} and "
            f"{tuple(values.shape)}"
        )
    if not bool(places.isfinite().all() and values.isfinite().all()):
        raise ArgumentError(f"{name}: a value is not finite")
    if not bool((places[1:] > places[:-1]).all()):
        raise ArgumentError(f"{name}: the settings must ascend; sort them, and average repeated ones")
    if values.dim() == 3:
        told = (values.shape[2], values.shape[1])
        if (d_in if d_in is not None else told[0], d_out if d_out is not None else told[1]) != told:
            raise ArgumentError(f"the responses are of {told[0]} inputs and {told[1]} outputs, not {d_in} and {d_out}")
        return told
    if d_in is None or d_out is None or d_in < 1 or d_out < 1:
        raise ArgumentError(f"with one curve for all, `d_in` and `d_out` must be given, got {d_in} and {d_out}")
    return d_in, d_out


def _inside(crosstalk: Tensor, size: int, low: float, high: float) -> tuple[Tensor, Tensor]:
    """The widest limits around the setting of mid-range within which every Cθ stays inside the measured range."""
    if crosstalk.shape != (size, size) or not bool(crosstalk.isfinite().all()):
        raise ArgumentError(
            f"`MeasuredElements(crosstalk=...)` must be finite and ({size}, {size}), got {tuple(crosstalk.shape)}"
        )
    middle, half = (low + high) / 2, (high - low) / 2
    found = torch.linalg.lstsq(crosstalk, crosstalk.new_full((size, 1), middle), driver="gelsd").solution[:, 0]
    off = (crosstalk @ found - middle).abs()
    reach = float(((half - off) / crosstalk.abs().sum(1)).min())
    if not reach > 0:
        raise ArgumentError(
            "`MeasuredElements(crosstalk=...)`: no setting keeps all elements inside the measured range"
        )
    reach *= 1 - 1e-6  # rounding to float32 stays inside
    return (found - reach).float(), (found + reach).float()
