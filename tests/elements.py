"""Elements whose response curves are drawn from known spectra, and their readings at the places of a sweep."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from blackprop.surrogates.calibration._spectra import Samples
from blackprop.surrogates.calibration._sweep import Sweep
from blackprop.surrogates.calibration._waves import orders, waves
from support import draw

POWER = (0.2, 1.0, 0.3, 0.1)  # of an element's own coefficients, by order
COMMON = (0.5, 1.0, -0.7, 0.4)


class Elements:
    """`P` elements of known spectra at the places of a sweep; of 15 settings twelve are on the grid."""

    def __init__(self, even: bool, noise: float, P: int = 2000, settings: int = 15, own: float = 1.0, common=1.0):
        generator = torch.Generator().manual_seed(0)
        like = torch.zeros((), dtype=torch.float64)
        self.even, self.noise = even, noise
        self.sweep = Sweep.draw(P, settings, even, like, generator)
        self.order = orders(len(POWER) - 1, even, like)
        self.power = own * torch.tensor(POWER, dtype=torch.float64)[self.order]
        self.common = common * torch.tensor(COMMON, dtype=torch.float64)[self.order]
        self.coefficients = self.common + self.power.sqrt() * draw(P, len(self.order), seed=1, dtype=torch.float64)
        grid, held = self.sweep.call(0)
        self.turns, self.held = grid, held
        self.values, self.unseen = self.at(grid, 2), self.at(held, 3)
        self.samples = Samples.of(grid, self.sweep.groups, self.values, even)

    def at(self, turns: Tensor, seed: int) -> Tensor:
        """Readings (K, P) at turns (K, G)."""
        F = waves(turns[:, self.sweep.group], len(POWER) - 1, self.even)
        clean = (F * self.coefficients).sum(2)
        return clean + math.sqrt(self.noise) * draw(*clean.shape, seed=seed, dtype=torch.float64)
