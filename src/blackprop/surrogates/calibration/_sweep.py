"""Where a calibration puts the elements: each of them all over its range, and all of them together more finely."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

GROUPS = 32  # of elements that are put to the same places: as many fine steps within a setting
FOLDED = 16  # the same of a range without a period: there each group is fitted by itself
NEAR = 1 / 48  # of a turn, at most: from its nearest neighbour to the setting that is held out
MANY = 12  # settings of a call, from which on three of them are held out, and not one
# Of each call for settings, in steps of the first one's grid: where its grid lies; beside which place a setting is held
# out, and how far off (roughness is alike there, and noise is not); where two are amid gaps, where least is known.
# Three grids together are a regular one again.
PLACES = ((0.0, 0.0, 1 / 4, (0.5, 0.5)), (1 / 3, 1 / 3, 1 / 4, (0.6, 0.73)), (2 / 3, 2 / 3, 1 / 12, (1 / 6, 5 / 6)))


TOGETHER = 2**16  # elements whose samples fit the cache


def blocks(groups: list[Tensor], elements: int) -> Iterator[tuple[slice, list[Tensor]]]:
    """Parts of all elements, and where in a part the elements of each group are; `groups` hold ascending indices."""
    ends = torch.arange(TOGETHER, elements + TOGETHER, TOGETHER, device=groups[0].device, dtype=groups[0].dtype)
    stops = zip(*(torch.searchsorted(some, ends).tolist() for some in groups), strict=True)
    before = [0] * len(groups)
    for at, until in zip(range(0, elements, TOGETHER), stops, strict=True):
        some = [group[first:last] - at for group, first, last in zip(groups, before, until, strict=True)]
        yield slice(at, min(at + TOGETHER, elements)), some
        before = until


@dataclass(frozen=True)
class Sweep:
    """Places of P elements in G groups, in turns of their range: of K settings all but one, or three, on a grid,
    shifted by a random part of a step from group to group, and those off it, held out until the others are fitted.
    """

    group: Tensor  # (P,), int32
    shift: Tensor  # (G,): within a step of the grid
    cell: Tensor  # (G,): the step of the grid in which a group begins
    grid: int  # settings of a call that are on the grid
    held: int  # and those that are not
    even: bool

    @classmethod
    def draw(cls, elements: int, settings: int, even: bool, like: Tensor, generator: torch.Generator) -> Sweep:
        def drawn(n: int) -> Tensor:
            return torch.rand(n, generator=generator, device=generator.device, dtype=torch.float64).to(like.device)

        def mixed(n: int) -> Tensor:
            return torch.randperm(n, generator=generator, device=generator.device).to(like.device)

        G, held = min(elements, FOLDED if even else GROUPS), 3 if settings >= MANY else 1
        grid = settings - held
        group = mixed(elements).remainder_(G).int()
        return cls(group, (mixed(G) + drawn(G)) / G, mixed(G) % grid, grid, held, even)

    @property
    def groups(self) -> list[Tensor]:
        """The indices of the elements of each, ascending, int32."""
        small = self.group.to(torch.uint8).cpu().numpy()  # numpy sorts these by counting
        order = torch.from_numpy(np.argsort(small, kind="stable").astype(np.int32)).to(self.group.device)
        ends = [0, *torch.bincount(self.group).cumsum(0).tolist()]
        return [order[first:last] for first, last in pairwise(ends)]

    def call(self, number: int) -> tuple[Tensor, Tensor]:
        """The turns of the grid (n, G) and of the settings that are held out (J, G), of this call."""
        ahead, beside, apart, amid = PLACES[number]
        near = beside + min(apart, NEAR * self.grid * (2 if self.even else 1))
        off = torch.tensor((near, *amid), dtype=torch.float64, device=self.shift.device)[: self.held]
        far = torch.arange(self.held, device=off.device) * (self.grid // 3 + 1)  # steps: not in the same gap
        steps = torch.arange(self.grid, dtype=torch.float64, device=off.device)[:, None]
        held = (self.cell + self.shift + (off + far)[:, None]) / self.grid
        if not self.even:
            return (steps + self.cell + self.shift + ahead) / self.grid, held
        # Half a turn goes through the range once.
        return (steps + (self.shift + ahead) % 1) / (2 * self.grid), held % 1 / 2
