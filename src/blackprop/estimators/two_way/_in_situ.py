"""In-situ backpropagation: the device computes the gradient for its own phases."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._procedure import Procedure, in_rounds
from blackprop.core._query import Purpose, Query
from blackprop.core.capabilities._drives import fitting, reach, require_any_phase, require_linear
from blackprop.core.capabilities._read_back import ReadBackField
from blackprop.core.capabilities._taps import Taps
from blackprop.errors import ArgumentError, IncompatibleError
from blackprop.estimators._base import Estimator

ROUNDING = 4.0  # singular values below this many units in the last place, times the longer side, are rounding errors


@dataclass(frozen=True)
class InSitu(Estimator):
    """`∂L/∂φ_k = [P_k(v − i s z*) − P_k(v + i s z*)] / 4s` at the tap k, with `z = Uᵀ u` and `s = |v| / |z|`.

    For `y = Re(U x)`, let a_k be the field of a row v at the shifter k, and b_k that of its cotangent u, sent
    backwards. The gradient is `−Im(a_k b_k)`. By time reversal, z* sent forwards is b_k* at the shifter, so two powers
    differ by `4s` times the gradient. The device must be linear and declare `Taps` and `ReadBackField`. Phase offsets
    and splitter errors may be of any size and unknown.

    The pairs (v, u) are the leading singular pairs of `GᵀX`, of the batch X (B, d_in) and its cotangents G (B, d_out):
    the gradient of a linear device depends on `GᵀX` alone.

    **Costs** 3 rows a pair, 1 backwards and 2 forwards, at the setting of the forward pass, so no programming.

    **Errors.** Without bias if `GᵀX` has at most `pairs` singular values above rounding. Otherwise the estimate is the
    gradient of the nearest `GᵀX` of that rank (`kept`); the bias is the gradient of the rest and does not fall with
    repetition. Loss scales the estimate at a tap by the share of the power that arrives there. The nominal share, where
    `Taps.transmission` declares it, is divided out; its spread remains. Where a parameter is not a phase, `Taps.law`
    gives the nominal slope; its spread, and the heat that neighbours receive, remain. Relative noise η of the taps adds
    an error of variance `η² (P₊² + P₋²) / 16s²` at each tap.

    **Arguments:**

    - `pairs` (default 8): the most singular pairs that are sent. None for all: at most `min(B, d_in, d_out)`.
    - `gains` (K numbers, default (), alike): the known gain of each tap, by which its derivative is divided.
      `blackprop characterise` finds them.

    **Raises** `IncompatibleError` for a device without the capabilities.

    Sources: Hughes et al., Optica 5, 864 (2018); Pai et al., Science 380, 398 (2023). Both measure the forward, the
    backward and the superposed light; the balanced pair of superpositions is decision 27.
    """

    pairs: int | None = 8
    gains: tuple[float, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        check_pairs(self, self.pairs)
        object.__setattr__(self, "gains", tuple(map(float, self.gains)))
        if not all(0 < gain < math.inf for gain in self.gains):
            raise ArgumentError("`InSitu(gains=...)` must be positive and finite")

    @property
    def bias_order(self) -> int | None:
        return None

    def check(self, spec: Declaration) -> None:
        require_linear("InSitu", spec)
        taps, back = spec.capability(Taps), spec.capability(ReadBackField)
        if taps.parameters != spec.theta.size:
            raise IncompatibleError(
                f"`InSitu` needs taps for every parameter: {spec.name} declares them for {taps.parameters} of its "
                f"{spec.theta.size} parameters"
            )
        require_any_phase("InSitu", spec)
        if self.gains and len(self.gains) != taps.units * taps.per_unit:
            count = taps.units * taps.per_unit
            raise IncompatibleError(
                f"`InSitu(gains=...)` has {len(self.gains)} gains, and {spec.name} has {count} taps"
            )
        if taps.modes != back.modes or taps.modes < spec.d_in:
            raise IncompatibleError(
                f"`InSitu` sends forwards the field that it reads at the inputs: {spec.name} has {spec.d_in} inputs, "
                f"reads the field at {back.modes} and sends it at {taps.modes}"
            )

    def kept(self, x: Tensor, grad_y: Tensor) -> tuple[Tensor, Tensor]:
        v, u, weights = self._pairs(x, grad_y)
        return v.reshape(-1, *x.shape[1:]), (weights[:, None] * u).reshape(-1, *grad_y.shape[1:])

    def grad_theta(
        self, x: Tensor, theta: Tensor, y: Tensor, grad_y: Tensor, spec: Declaration, generator: torch.Generator
    ) -> Procedure[Tensor]:
        del y, generator
        taps = spec.capability(Taps)
        v, u, weights = self._pairs(x, grad_y)
        if not len(v):
            return torch.zeros_like(theta)
        phases = weights @ (yield from tapped(v, u, theta, spec))
        if self.gains:
            phases = phases / phases.new_tensor(self.gains)
        shares, slopes = taps.shares(phases), taps.slopes(theta)
        found = taps.combined(phases if shares is None else phases / shares).to(theta)
        return found if slopes is None else found * slopes

    def _pairs(self, x: Tensor, grad_y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return singular_pairs(x, grad_y, self.pairs)


def tapped(
    v: Tensor, u: Tensor, theta: Tensor, spec: Declaration, purpose: Purpose = Purpose.PARAMETER
) -> Procedure[Tensor]:
    """The derivative (n, K) of `⟨u, f(v; θ)⟩` for a phase at each tap, as the taps have it, of rows v (n, d_in) and
    cotangents u (n, d_out).
    """
    taps = spec.capability(Taps)
    u, shrunk = fitting(u, spec.capability(ReadBackField).limit or math.inf)
    back = Query(u.unflatten(1, spec.out_shape), theta, purpose, ReadBackField)
    (z,) = yield from in_rounds([back], 2 * taps.modes)
    size = z.flatten(1).norm(dim=1)
    lit = size > 0  # a cotangent of which no light arrives has the gradient 0
    s = torch.where(lit, v.norm(dim=1) / size.where(lit, 1.0), 0.0)
    # With z = (Re, Im), i z* = (Im, Re).
    reversed_ = s[:, None, None] * z.flip(1)
    row = torch.zeros_like(z)
    row[:, 0, : v.shape[1]] = v
    both = torch.stack((row - reversed_, row + reversed_))  # each pair of the same size
    peak = both.square().sum(2).amax((0, 2)).sqrt()
    weaker = (reach(spec) / peak.clamp_min(1e-30)).clamp_max(1.0)
    sent = Query((both * weaker[:, None, None]).flatten(0, 1), theta, purpose, Taps)
    (powers,) = yield from in_rounds([sent], taps.units * taps.per_unit)
    minus, plus = powers.chunk(2)
    scale = torch.where(lit, 1 / (4 * s * shrunk * weaker.square()).where(lit, 1.0), 0.0)
    return scale[:, None] * (minus - plus)


def check_pairs(owner: object, pairs: object) -> None:
    """Raise `ArgumentError` unless the number of pairs is a whole number from 1, or None."""
    if pairs is not None and not (isinstance(pairs, int) and not isinstance(pairs, bool) and pairs >= 1):
        name = type(owner).__name__
        raise ArgumentError(f"`{name}(pairs=...)` must be a whole number from 1 or None, got {pairs!r}")


def singular_pairs(x: Tensor, grad_y: Tensor, most: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Rows v (k, d_in) and u (k, d_out) of the size of the batch's own, and weights (k,): `GᵀX ≈ Σ w u vᵀ`.

    `most` bounds their number k, which else is the rank.
    """
    rows, cotangents = x.flatten(1), grad_y.flatten(1).to(x)
    left, values, right = torch.linalg.svd(cotangents.mT @ rows, full_matrices=False)
    count = 0
    if len(values) and values[0] > 0:
        floor = ROUNDING * torch.finfo(values.dtype).eps * max(rows.shape[1], cotangents.shape[1])
        count = int((values > floor * values[0]).sum())
    count = min(count, len(rows), len(rows) if most is None else most)
    batch = max(1, len(rows)) ** 0.5
    v_size, u_size = rows.norm() / batch, cotangents.norm() / batch
    return v_size * right[:count], u_size * left[:, :count].mT, values[:count] / (v_size * u_size)
