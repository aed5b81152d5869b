"""Smooth response curves of many elements: one common shape in a table, and what each element adds to it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from blackprop.surrogates.calibration._range import Range
from blackprop.surrogates.calibration._spectra import Spectra

TABLE = 16384  # points of the common curve; each holds its value and its slope
WIDTHS = (0.0, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)  # of the range, that slopes are averaged over
CLEAR = 3.0  # standard errors
FAINT = 1e-5  # of all slopes' power: an order with less of it is left out


@dataclass(frozen=True)
class Curves:
    """The curves of all elements, as they are kept."""

    table: Tensor  # (TABLE, 1 + S)
    own: Tensor  # (H, *elements, 2)
    doubts: Tensor  # (S,)
    range: Range

    def read(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Value and slope (P,) of every curve at theta (P,); straight on beyond the range."""
        turns, per_theta, beyond = self.range.turns(theta)
        used = torch.view_as_complex(self.own)
        common = read_table(self.table, turns)
        own = read_harmonics(used, turns.view(self.own.shape[1:-1]), not self.range.periodic)
        slope = clearest(common[1] + own[1].flatten(1), self.doubts) * per_theta
        return common[0] + own[0].flatten() + slope * beyond, slope


def smoothing(order: Tensor, even: bool) -> Tensor:
    """By what an order is scaled (S, *order) in the mean slope over each of `WIDTHS` around a place."""
    widths = torch.tensor(WIDTHS, device=order.device) / (2 if even else 1)  # there and back is twice the range
    return torch.sinc(order * widths.view(-1, *[1] * order.dim()))


def common_table(found: Spectra) -> Tensor:
    """The common curve round a turn: its value, and its slope over each of `WIDTHS` (`TABLE`, 1 + S)."""
    c, H = found.common, found.harmonics
    wave = torch.zeros(TABLE // 2 + 1, dtype=c.dtype.to_complex(), device=c.device)
    wave[0] = c[0]
    wave[1 : H + 1] = (c[1:] if found.samples.even else torch.complex(c[1::2], -c[2::2])) / math.sqrt(2)
    order = torch.arange(len(wave), device=c.device)
    each = torch.cat((wave[None], 2j * math.pi * order * wave * smoothing(order, found.samples.even)))
    return torch.fft.irfft(each, TABLE, norm="forward").mT


def own_harmonics(found: Spectra, groups: list[Tensor], values: Tensor, room: int) -> Tensor:
    """What each element adds to the common curve, from the samples `values` (K, P): complex Fourier coefficients
    (H, P), H at most `room`; of curves that are even in the turn, two real ones in the place of each.

    The first so many are returned that are not faint beside the whole.
    """
    gain, left, _ = found.gains()
    even = found.samples.even
    order = torch.arange(found.harmonics + 1, device=values.device)
    order = order if even else order.repeat_interleave(2)[1:]
    explained = (found.own - left.diagonal(dim1=1, dim2=2).mean(0)).clamp_min(0) * order.square().clamp_min(1)
    whole = float((explained + found.common.square() * order.square()).sum())
    columns = min(len(order), 2 * room if even else 2 * room - 1)
    clear = (explained > FAINT * whole).nonzero()
    used = 0 if not len(clear) else min(int(clear.max()) + 1, columns)
    count = (used + 1) // 2 if even else used // 2 + 1 if used else 0
    real = torch.zeros(2 * count, values.shape[1], dtype=values.dtype, device=values.device)
    at = found.waves @ found.common  # (G, K)
    scale = torch.where(order > 0, math.sqrt(2), 1.0)[:, None]
    rows = torch.arange(used, device=values.device) + (0 if even else torch.arange(used, device=values.device) > 0)
    for g, some in enumerate(groups):
        matrix, base = (scale * gain[g])[:used].to(values), at[g].to(values)[:, None]
        real[:, some] = real[:, some].index_copy(0, rows, matrix @ (values[:, some] - base))
    if not even:
        real[1::2] *= -1  # a cos + b sin = Re (a − ib) e^{i…}
    return torch.complex(real[0::2], real[1::2])


def read_table(table: Tensor, turns: Tensor) -> tuple[Tensor, Tensor]:
    """The common curve at `turns` (*n), the nearest point and its tangent; and its slopes (S, *n), per turn."""
    place = turns * TABLE
    nearest = place.round()
    value, *slopes = table[nearest.long().remainder_(TABLE)].unbind(-1)
    return torch.addcmul(value, slopes[0], place - nearest, value=1 / TABLE), torch.stack(slopes)


def read_harmonics(own: Tensor, turns: Tensor, even: bool = False) -> tuple[Tensor, Tensor]:
    """The elements' own curves at `turns` (*elements), and their slopes over each of `WIDTHS` (S, *elements)."""
    value, slopes = torch.zeros_like(turns), turns.new_zeros(len(WIDTHS), *turns.shape)
    orders = 2 * len(own) if even else len(own)
    scales = (2 * math.pi * torch.arange(orders) * smoothing(torch.arange(orders), even)).mT.tolist()
    step = torch.polar(torch.ones_like(turns), 2 * math.pi * turns)
    wave = torch.ones_like(step)
    for order in range(orders):
        if even:
            part = own[order // 2]
            term = (part.imag if order % 2 else part.real) * wave
        else:
            term = own[order] * wave
        value += term.real
        for slope, scale in zip(slopes, scales[order], strict=True):
            slope.sub_(term.imag, alpha=scale)
        wave = wave * step
    return value, slopes


def clearest(slopes: Tensor, doubts: Tensor, of: Tensor | None = None) -> Tensor:
    """Of slopes (S, *n) over wider and wider parts, with standard errors (S,), the first that is clear of its own, or
    the widest; of `of` (S, *n), what belongs to it.
    """
    of = slopes if of is None else of
    found = of[-1]
    for slope, doubt, each in reversed(list(zip(slopes[:-1], doubts, of, strict=False))):
        found = torch.where(slope.abs() > CLEAR * doubt, each, found)
    return found
