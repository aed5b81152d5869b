"""Where a calibration puts the elements: each of them all over its range, and all of them together more finely."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

GROUPS = 32  # of elements that are put to the same places: as many fine steps within a setting
FOLDED = 16  # the same of a range without a period: there each group is fitted by itself
NEAR = 1 / 48  # of a turn, at most: from its nearest neighbour to the setting that is held out
# Of each call for settings: where its grid lies within the first one's steps, and where the setting that is held out:
# beside a neighbour, since what is rough there is alike and noise is not. Three grids together are a regular one again.
PLACES = ((0.0, 0.0, 1 / 4), (1 / 3, 1 / 3, 1 / 4), (2 / 3, 2 / 3, 1 / 12))


@dataclass(frozen=True)
class Sweep:
    """Places of P elements in G groups, in turns of their range: K − 1 settings on a grid, shifted by a random part of
    a step from group to group, and one off it, which is held out until the others have been fitted.
    """

    group: Tensor  # (P,)
    shift: Tensor  # (G,): within a step of the grid
    cell: Tensor  # (G,): the step of the grid in which a group begins
    settings: int
    even: bool

    @classmethod
    def draw(cls, elements: int, settings: int, even: bool, like: Tensor, generator: torch.Generator) -> Sweep:
        def drawn(n: int) -> Tensor:
            return torch.rand(n, generator=generator, device=generator.device, dtype=torch.float64).to(like.device)

        def mixed(n: int) -> Tensor:
            return torch.randperm(n, generator=generator, device=generator.device).to(like.device)

        G, grid = min(elements, FOLDED if even else GROUPS), settings - 1
        return cls(mixed(elements) % G, (mixed(G) + drawn(G)) / G, mixed(G) % grid, settings, even)

    @property
    def groups(self) -> list[Tensor]:
        """The indices of the elements of each."""
        order = self.group.argsort(stable=True)
        ends = [0, *torch.bincount(self.group).cumsum(0).tolist()]
        return [order[first:last] for first, last in pairwise(ends)]

    def call(self, number: int) -> tuple[Tensor, Tensor]:
        """The turns of the grid (K − 1, G) and of the setting that is held out (1, G), of this call."""
        grid = self.settings - 1
        ahead, beside, apart = PLACES[number]
        off = beside + min(apart, NEAR * grid * (2 if self.even else 1))
        steps = torch.arange(grid, dtype=torch.float64, device=self.shift.device)[:, None]
        held = (self.cell + self.shift + off)[None] / grid
        if not self.even:
            return (steps + self.cell + self.shift + ahead) / grid, held
        # Half a turn goes through the range once.
        return (steps + (self.shift + ahead) % 1) / (2 * grid), held % 1 / 2
