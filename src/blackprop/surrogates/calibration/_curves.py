"""Smooth response curves of many elements: a common curve in a table, and an own curve for each element."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from blackprop.surrogates.calibration._curve_fit import CurveFit
from blackprop.surrogates.calibration._range import Range
from blackprop.surrogates.calibration._spectra import Spectra
from blackprop.surrogates.calibration._sweep import Sweep, blocks
from blackprop.surrogates.calibration._waves import orders, tabulated
from blackprop.surrogates.calibration.compiled import _curves as compiled

TABLE = 16384  # points of the common curve; each holds its value and its slope
WIDTHS = (0.0, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)  # of the range, that slopes are averaged over
BLOCK = 16384  # elements that are read at once
WIDE = 65536  # the same, of few operations on each
SHORT = 3  # orders that are read one by one
CLEAR = 3.0  # standard errors
FAINT = 1e-5  # of all slopes' power: an order with less of it is left out


@dataclass(frozen=True)
class Curves:
    """The curves of all elements, as they are kept."""

    table: Tensor  # (TABLE, 1 + S)
    own: Tensor  # (H, *elements, 2)
    doubts: Tensor  # (S,)
    range: Range

    @classmethod
    def of(cls, table: Tensor, own: Tensor, doubts: Tensor, span: Tensor, periodic: bool) -> Curves:
        return cls(table, own, doubts, Range(periodic, *span))

    @cached_property
    def _columns(self) -> tuple[Tensor, Tensor]:
        """The common curve's value and tangent (TABLE,)."""
        value, tangent = self.table[:, :2].mT.contiguous()
        return value, tangent

    @cached_property
    def _common(self) -> tuple[Tensor, Tensor]:
        """The common curve's value and the clearest of its slopes (TABLE,) each, which depend on the place alone."""
        value, *slopes = self.table.mT.contiguous()
        return value, clearest(torch.stack(slopes), self.doubts)

    def read(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Value and slope (P,) of every curve at theta (P,); straight on beyond the range."""
        place, per_theta, beyond = self.range.places(theta, TABLE)
        if len(self.own):
            value, slope = self._read_own(place)
            slope *= per_theta
        else:
            value, slope = read_common(self._common, place, per_theta)
        return value if beyond is None else torch.addcmul(value, slope, beyond), slope

    def _read_own(self, place: Tensor) -> tuple[Tensor, Tensor]:
        """The slope per turn: the tangent, and where it is not clear, the slope over a wider part."""
        even, turns = not self.range.periodic, place / TABLE
        value, slope = read_common(self._columns, place)
        if len(self.own) <= SHORT and not even:
            add_orders(torch.view_as_real(self._used), turns, value, slope)
        else:
            more, slopes = read_harmonics(self._used, turns, even, 1)
            value, slope = value.add_(more), slope.add_(slopes[0])
        few = (slope.abs() <= CLEAR * self.doubts[0]).nonzero()[:, 0]
        if len(few):
            slopes = read_harmonics(self._used[:, few], turns[few], even)[1]
            slope[few] = clearest(self.table[_nearest(place[few])[0], 1:].mT + slopes, self.doubts)
        return value, slope

    @property
    def _used(self) -> Tensor:
        """The own curves (H, P), complex."""
        return torch.view_as_complex(self.own).flatten(1)


def smoothing(order: Tensor, even: bool) -> Tensor:
    """The factor (S, *order) of an order in the mean slope over each of `WIDTHS` around a place."""
    widths = torch.tensor(WIDTHS, device=order.device) / (2 if even else 1)  # there and back is twice the range
    return torch.sinc(order * widths.view(-1, *[1] * order.dim()))


def common_table(found: Spectra) -> Tensor:
    """The common curve round a turn: its value, and its slope over each of `WIDTHS` (`TABLE`, 1 + S)."""
    even, order = found.samples.even, orders(found.harmonics, found.samples.even, found.common)
    value, _ = tabulated(found.common[None], even, TABLE)
    _, slopes = tabulated(found.common * smoothing(order, even), even, TABLE)
    return torch.cat((value, slopes), 1)


def own_harmonics(fit: CurveFit, sweep: Sweep, values: Tensor, room: int) -> Tensor:
    """Complex Fourier coefficients (H, P) of the elements' own curves, from the samples `values` (K, P), H at most
    `room`. Curves that are even in the turn have two real ones in the place of each.

    The first so many are returned that are not faint beside the whole.
    """
    found = fit.found
    even = found.samples.even
    order = orders(found.harmonics, even, values)
    own = None if fit.family is None else fit.own(sweep.group, values)  # (P, n)
    explained = found.explained() if own is None else own.square().mean(0).double()
    explained = explained * order.square().clamp_min(1)
    whole = float((explained + found.common.square() * order.square()).sum())
    columns = min(len(order), 2 * room if even else 2 * room - 1)
    clear = (explained > FAINT * whole).nonzero()
    used = 0 if not len(clear) else min(int(clear.max()) + 1, columns)
    count = (used + 1) // 2 if even else used // 2 + 1 if used else 0
    if not count:
        return torch.zeros(0, values.shape[1], dtype=values.dtype.to_complex(), device=values.device)
    real = torch.zeros(2 * count, values.shape[1], dtype=values.dtype, device=values.device)
    rows = torch.arange(used, device=values.device) + (0 if even else torch.arange(used, device=values.device) > 0)
    scale = torch.where(order > 0, math.sqrt(2), 1.0)[:, None]
    if own is not None:
        real = real.index_copy(0, rows, (scale * own.mT)[:used].to(values))
    else:
        gain, at = found.gains()[0], found.waves @ found.common  # (G, K)
        matrices, bases = (scale * gain)[:, :used].mT.to(values), at.to(values)  # (G, K, used), (G, K)
        for some, members in blocks(sweep.groups, values.shape[1]):
            block = values[:, some].mT.contiguous()
            part = torch.zeros(len(block), used, dtype=values.dtype, device=values.device)
            for matrix, base, member in zip(matrices, bases, members, strict=True):
                part.index_copy_(0, member.long(), (block.index_select(0, member) - base) @ matrix)
            real[rows, some] = part.mT
    if not even:
        real[1::2] *= -1  # a cos + b sin = Re (a − ib) e^{i…}
    return torch.complex(real[0::2], real[1::2])


def read_common(common: tuple[Tensor, Tensor], place: Tensor, per_theta: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
    """The common curve at `place` (n,) in points of the table, straight on from the nearest; and its slope (n,), per
    turn times `per_theta`. Where the tangent is not clear, another slope serves as well over half the way between two
    points.
    """
    scale = per_theta if isinstance(per_theta, float) else 1.0
    found = compiled.read_common(place, common, scale)
    if found is None:
        index, beside = _nearest(place)
        slope = common[1].index_select(0, index)
        found = common[0].index_select(0, index).addcmul_(slope, beside, value=1 / TABLE), slope
        scale = 1.0
    if scale is not per_theta:
        found[1].mul_(per_theta)
    return found


def add_orders(own: Tensor, turns: Tensor, value: Tensor, slope: Tensor) -> None:
    """Add the elements' own curves (H, n, 2) of few orders at `turns` (n,) to their values, and their derivatives per
    turn to the slopes: `Re (a + ib) e^{i…}` by order, in real numbers.
    """
    value += own[0, :, 0]
    for at in range(0, len(turns), WIDE):
        some = slice(at, at + WIDE)
        angle = turns[some] * (2 * math.pi)
        for order in range(1, len(own)):
            (a, b), u, v = own[order, some].unbind(-1), (order * angle).cos(), (order * angle).sin()
            value[some].addcmul_(a, u).addcmul_(b, v, value=-1)
            rate = -2 * math.pi * order
            slope[some].addcmul_(a, v, value=rate).addcmul_(b, u, value=rate)


def _nearest(place: Tensor) -> tuple[Tensor, Tensor]:
    """The point of the table that is nearest to each place, and the way from it, in points."""
    whole = place.round()
    index = whole.to(torch.int32).bitwise_and_(TABLE - 1)
    return index, torch.sub(place, whole, out=whole)


def read_harmonics(own: Tensor, turns: Tensor, even: bool = False, widths: int = len(WIDTHS)) -> tuple[Tensor, Tensor]:
    """The elements' own curves (H, n) at `turns` (n,), and their slopes over each of the first `widths` of `WIDTHS`
    (S, n).

    Powers of `exp(2πi turn)` by doubling, and one product for the value and all slopes; in blocks that fit the cache.
    """
    own = torch.view_as_real(own).movedim(-1, 1).flatten(0, 1) if even else own
    count = len(own)
    order = torch.arange(count, device=turns.device)
    mix = torch.cat((torch.ones_like(order)[None], -2 * math.pi * order * smoothing(order, even)[:widths])).to(turns)
    found = turns.new_empty(len(mix), len(turns))
    for at in range(0, len(turns), BLOCK):
        some = turns[at : at + BLOCK]
        wave = torch.empty(count, len(some), dtype=turns.dtype.to_complex(), device=turns.device)
        wave[0], power, done = 1, torch.polar(torch.ones_like(some), 2 * math.pi * some), 1
        while done < count:
            more = min(done, count - done)
            torch.mul(wave[:more], power, out=wave[done : done + more])
            done, power = done + more, power * power
        wave *= own[:, at : at + BLOCK]
        both = (mix @ torch.view_as_real(wave).flatten(1)).view(len(mix), -1, 2)
        found[0, at : at + BLOCK], found[1:, at : at + BLOCK] = both[0, :, 0], both[1:, :, 1]
    return found[0], found[1:]


def clearest(slopes: Tensor, doubts: Tensor, of: Tensor | None = None) -> Tensor:
    """Of slopes (S, *n) over wider and wider parts, with standard errors (S,), the first that is clear of its own, or
    the widest; or the entry of `of` (S, *n) at the same place.
    """
    of = slopes if of is None else of
    found = of[-1]
    for slope, doubt, each in reversed(list(zip(slopes[:-1], doubts, of, strict=False))):
        found = torch.where(slope.abs() > CLEAR * doubt, each, found)
    return found
