"""Find the parameter of each element of a matrix by codes, and check it on settings that were not decoded."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from blackprop.core._procedure import Procedure
from blackprop.planning.inquiry._bounds import factor, is_noise, rms
from blackprop.planning.inquiry._codes import decode, draw_codes, settings_needed

EARLY = 3  # codes after which the search ends where elements take more than two values
FRESH = 2  # settings that check the wiring
NAMED, LOUD = 0.8, 0.97  # of all elements, and of those that move beyond the noise: whose parameter must be found

Read = Callable[[list[Tensor]], Procedure[list[Tensor]]]


def codes_needed(parameters: int) -> int:
    """Return how many settings are read beside the two that were read before."""
    return settings_needed(parameters) - 2


@dataclass(frozen=True)
class Wired:
    """`order` (P,): the parameter of each element, None where elements have none; `why`, in words; `sure`, of that."""

    order: Tensor | None
    why: str
    sure: bool = True


@dataclass(frozen=True)
class HiddenWiring:
    """The levels `theta` and `far` (P,) of the parameters, and the two sets `moves` that were moved before."""

    theta: Tensor
    far: Tensor
    moves: list[Tensor]
    generator: torch.Generator

    def find(self, read: Read, known: list[Tensor], repeated: Tensor, tolerance: float) -> Procedure[Wired]:
        """Find the wiring; `known` are the matrices at `theta` and with each of `moves` moved."""
        P, noise = self.theta.numel(), rms(repeated)
        drawn = draw_codes(P, codes_needed(P), self.generator).to(self.theta.device)
        codes = torch.cat((torch.stack(self.moves), drawn))
        coins = torch.rand(FRESH, P, generator=self.generator, device=self.generator.device)
        fresh, readings = coins.to(self.theta) < 0.5, list(known)
        for part in (drawn[:EARLY], drawn[EARLY:]):
            readings += yield from read([torch.where(code, self.far, self.theta) for code in part])
            if not _two_valued(torch.stack(readings).flatten(1), noise, tolerance):
                return Wired(None, "elements take more than two values")
        cells = torch.stack(readings).flatten(1)
        found = decode(cells, codes, torch.arange(P, device=codes.device))
        order, named = _permutation(found.owner, found.explained)
        loud = (cells - cells.mean(0)).square().mean(0).sqrt() > 2 * noise + tolerance
        heard = float((found.owner == order)[loud].double().mean()) if bool(loud.any()) else 0.0
        if named < NAMED or heard < LOUD:
            why = f"{named:.0%} of the elements have a parameter of their own that moves them beyond the noise"
            return Wired(None, why, sure=False)
        bits = torch.cat((torch.zeros_like(codes[:1]), codes))[:, order]
        low, high = _levels(cells, bits)
        answers = yield from read([torch.where(code, self.far, self.theta) for code in fresh])
        sure = (found.owner == order).view_as(repeated)
        for code, answer in zip(fresh, answers, strict=True):
            wanted = torch.where(code[order], high, low).view_as(answer)
            if not is_noise(answer - wanted, sure, repeated, tolerance):
                return Wired(None, "elements do not keep to the two values of their parameter")
        return Wired(order, f"hidden wiring, {named:.1%} of the elements named")


def _two_valued(readings: Tensor, noise: float, tolerance: float) -> bool:
    """Whether cells (S, cells) take two values each, but for the noise."""
    middle = (readings.amin(0) + readings.amax(0)) / 2
    above = readings > middle
    low, high = _levels(readings, above)
    left = rms(readings - torch.where(above, high, low))
    return left <= factor(readings.numel(), readings.shape[1]) * noise / math.sqrt(2) + tolerance


def _levels(readings: Tensor, above: Tensor) -> tuple[Tensor, Tensor]:
    """The means (cells,) of the readings (S, cells) that are not `above`, and of those that are."""
    count = above.sum(0)
    high = (readings * above).sum(0) / count.clamp_min(1)
    low = (readings * ~above).sum(0) / (len(readings) - count).clamp_min(1)
    return low, high


def _permutation(owner: Tensor, explained: Tensor) -> tuple[Tensor, float]:
    """A parameter for each element, each parameter once: the named ones by how much they explain, then the others."""
    chosen = torch.full_like(owner, -1)
    taken: set[int] = set()
    for element in explained.argsort(descending=True).tolist():
        parameter = int(owner[element])
        if parameter >= 0 and parameter not in taken:
            taken.add(parameter)
            chosen[element] = parameter
    named = len(taken) / len(owner)
    left = [p for p in range(len(owner)) if p not in taken]
    chosen[chosen < 0] = torch.tensor(left, dtype=chosen.dtype, device=chosen.device)
    return chosen, named
