"""Bounds of the root mean square of noise, beside a measurement of that noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

Z = 2.5  # standard normal deviations on either side of a comparison


def quantile(count: int, z: float) -> float:
    """Return a quantile of the root mean square of `count` standard normal numbers, after Wilson and Hilferty."""
    c = 2 / (9 * max(1, count))
    return max(0.0, 1 - c + z * math.sqrt(c)) ** 1.5


def factor(count: int, reference: int, z: float = Z) -> float:
    """Return the largest ratio to expect of two such values, of `count` numbers and of `reference` numbers."""
    return quantile(count, z) / max(0.1, quantile(reference, -z))


def rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt()) if values.numel() else 0.0


def is_noise(error: Tensor, cells: Tensor, repeated: Tensor, tolerance: float) -> bool:
    """Return whether the error (d_out, n) is noise at the `cells` (d_out, n), where it may be `tolerance` beside that.

    `repeated` (d_out, n) is a difference of two equal readings, which shows the noise. The error is compared with it
    over all cells, over those of each output, over those of each column, and cell by cell, since some causes move few
    cells.
    """
    noise, total = rms(repeated), int(cells.sum())
    if not total:
        return True
    if rms(error[cells]) > factor(total, repeated.numel()) * noise + tolerance:
        return False
    for dim in (1, 0):
        count = cells.sum(dim)
        found = ((error.square() * cells).sum(dim) / count.clamp_min(1)).sqrt()
        own = repeated.square().mean(dim).sqrt().clamp_min(noise)  # outputs may be of different noise
        z = Z + math.sqrt(2 * math.log(max(1, len(count))))  # the largest of so many
        bounds = torch.tensor([factor(int(n), repeated.numel(), z) for n in count]).to(own)
        if bool((found > bounds * own + 2 * tolerance)[count > 0].any()):
            return False
    most = noise * (math.sqrt(2 * math.log(max(2, total))) + Z)
    return float(error[cells].abs().max()) <= max(most, 1.5 * float(repeated.abs().max())) + 10 * tolerance


@dataclass(frozen=True)
class Predicted:
    """The matrix (d_out, d_in) at θ, the one with all parameters moved, a repetition and a tolerance."""

    base: Tensor
    far: Tensor
    repeated: Tensor
    tolerance: float

    def holds(self, matrix: Tensor, cells: Tensor) -> bool:
        """Return whether the matrix is the moved one at these cells, and the other elsewhere."""
        error = matrix - torch.where(cells, self.far, self.base)
        return is_noise(error, torch.ones_like(cells), self.repeated, self.tolerance)
