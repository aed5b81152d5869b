"""The map from parameters to elements: every parameter blinks in a code of its own, and its elements with it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK_BYTES = 128 * 2**20
EXPLAINED = 0.85  # of the variance of a cell by the code of one parameter; by chance the best of P explains 0.7
LOOKS = 3  # parameters a cell may have in the sparse regression


def settings_needed(parameters: int) -> int:
    """Return about 2·log2(P): the codes of two parameters are then equal with probability 1/P², and are drawn again."""
    return min(62, max(12, math.ceil(2 * math.log2(max(2, parameters))) + 3))


def draw_codes(parameters: int, settings: int, generator: torch.Generator) -> Tensor:
    """Draw a code of `settings` bits for each parameter: distinct, not opposite, not constant (settings, P)."""
    codes = torch.rand(settings, parameters, generator=generator, device=generator.device) < 0.5
    for _ in range(100):
        words = _words(codes)
        _, inverse, counts = words.unique(return_inverse=True, return_counts=True)
        again = (counts[inverse] > 1) | (codes.all(0) == codes.any(0))
        # One of each set of equal codes may stay, but they are too rare to matter.
        number = int(again.sum())
        if not number:
            return codes
        codes[:, again] = torch.rand(settings, number, generator=generator, device=generator.device) < 0.5
    return codes  # pragma: no cover  (2^12 words for one parameter or two)


@dataclass
class Decoded:
    """For each cell the parameter that moves it, −1 if unnamed, and the part of its variance that this explains."""

    owner: Tensor  # (cells,)
    explained: Tensor  # (cells,)


def decode(readings: Tensor, codes: Tensor, names: Tensor) -> Decoded:
    """Name the parameter of each cell.

    `readings` (1 + S, cells): first with all parameters at their lower level, then by `codes` (S, P); `names` (P,) are
    the parameters' numbers. A cell of one parameter takes two values, which are separated by two means; their sequence,
    the first reading being 0, is looked up. If it is the code of none of the parameters, the code with the best
    correlation is taken, if it explains enough.
    """
    words, order = _words(codes).sort()
    bits = _levels(readings)
    spelt = _words(bits[1:] ^ bits[:1])
    place = torch.searchsorted(words, spelt).clamp_max(len(words) - 1)
    hit = words[place] == spelt
    owner = torch.where(hit, order[place], torch.full_like(place, -1))
    explained = torch.zeros(readings.shape[1], dtype=readings.dtype, device=readings.device)
    found = hit.nonzero().flatten()
    explained[found] = _explained(readings[:, found], codes[:, owner[found]])
    owner[explained < EXPLAINED] = -1
    rest = (owner < 0).nonzero().flatten()
    if len(rest):
        taken = torch.zeros(codes.shape[1], dtype=torch.bool, device=codes.device)
        taken[owner[owner >= 0]] = True
        best, share = _correlated(readings[:, rest], codes)
        good = share >= EXPLAINED
        owner[rest[good]], explained[rest[good]] = best[good], share[good]
    return Decoded(torch.where(owner >= 0, names[owner.clamp_min(0)], owner), explained)


def few(readings: Tensor, codes: Tensor, floor: float) -> list[set[int]] | None:
    """Return for each cell the parameters, at most three, whose codes explain its readings (1 + S, cells).

    By orthogonal matching pursuit, until the remainder is below `floor` (the noise) or a fiftieth of the changes. None
    if that fails for any cell.
    """
    signs = torch.cat((-torch.ones_like(codes[:1], dtype=readings.dtype), codes.to(readings) * 2 - 1))
    owners: list[set[int]] = []
    for cell in readings.mT:
        centred = cell - cell.mean()
        left, chosen = centred, []
        enough = max(floor, 0.02 * float(centred.std()))
        while float(left.std()) > enough:
            if len(chosen) == LOOKS:
                return None
            chosen.append(int((left @ signs).abs().argmax()))
            design = torch.stack([torch.ones_like(cell), *signs[:, chosen].unbind(1)], 1)
            left = cell - design @ torch.linalg.lstsq(design, cell[:, None]).solution[:, 0]
        owners.append(set(chosen))
    return owners


def _words(bits: Tensor) -> Tensor:
    """Pack up to 62 bits (S, n) into integers (n,)."""
    words = torch.zeros(bits.shape[1], dtype=torch.int64, device=bits.device)
    for bit in bits:
        words = words * 2 + bit
    return words


def _levels(readings: Tensor) -> Tensor:
    """Return the nearer of two levels for each reading (1 + S, cells), by two means a cell."""
    low, high = readings.amin(0), readings.amax(0)
    above = readings > (low + high) / 2
    for _ in range(6):
        count = above.sum(0)
        high = (readings * above).sum(0) / count.clamp_min(1)
        low = (readings * ~above).sum(0) / (len(readings) - count).clamp_min(1)
        above = readings > (low + high) / 2
    return above


def _explained(readings: Tensor, codes: Tensor) -> Tensor:
    """Return the squared correlation of each cell's readings (1 + S, n) with a code (S, n)."""
    signs = torch.cat((-torch.ones_like(codes[:1], dtype=readings.dtype), codes.to(readings) * 2 - 1))
    signs = signs - signs.mean(0)
    centred = readings - readings.mean(0)
    both = (signs * centred).sum(0).square()
    return both / (signs.square().sum(0) * centred.square().sum(0)).clamp_min(torch.finfo(readings.dtype).tiny)


def _correlated(readings: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Return for each cell the code with the largest squared correlation, and that, in pieces that fit into memory."""
    signs = torch.cat((-torch.ones_like(codes[:1], dtype=readings.dtype), codes.to(readings) * 2 - 1))
    signs = signs - signs.mean(0)
    signs = signs / signs.norm(dim=0)
    centred = readings - readings.mean(0)
    centred = centred / centred.norm(dim=0).clamp_min(torch.finfo(readings.dtype).tiny)
    best, share = [], []
    for piece in centred.split(max(1, CHUNK_BYTES // (4 * codes.shape[1])), dim=1):
        value, index = (piece.mT @ signs).square_().max(1)
        best.append(index)
        share.append(value)
    return torch.cat(best), torch.cat(share)
