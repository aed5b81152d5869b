"""How long a measured direction stays true, and the directions in which the data lie."""

from __future__ import annotations

import math
import os

import torch
from torch import Tensor

LENGTHS = 32  # correlation lengths tried, a factor 2^(1/2) apart
FOLLOW = 0.05  # rate a step of the average of the data's second moment
TURN = 8  # steps between two turns of the basis: turning the whole memory costs more than measuring


def fitted(evidence: Tensor) -> tuple[int, float]:
    """The number of the correlation length that explains the evidence best, and its amplitude.

    The amplitude is 1, unless another one explains clearly more, as under read noise: pairs at equal distances
    cannot separate amplitude and length.
    """
    product, square = evidence
    if not bool(square.any()):
        return LENGTHS - 1, 1.0
    whole = 2 * product - square
    scaled = product.clamp_min(0).square() / square.clamp_min(torch.finfo(square.dtype).tiny)
    if float(scaled.max()) <= 1.05 * float(whole.max()):
        return int(whole.argmax()), 1.0
    best = int(scaled.argmax())
    return best, min(1.0, float(product[best] / square[best]))


def kept(distances: Tensor, step: float) -> Tensor:
    """`exp(−(d/ℓ)²)` for each length ℓ: (LENGTHS, *distances)."""
    lengths = step * 2 ** (torch.arange(LENGTHS, device=distances.device) / 2)
    return (-(distances / lengths[:, None]).square()).exp()


def followed(x: Tensor, V: Tensor, power: Tensor, first: bool, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The leading directions of the rows so far, these among them: V (d_in, k) and the power along each."""
    k = V.shape[1]
    old = 0.0 if first else (1 - FOLLOW) ** TURN
    parts = [x * math.sqrt((1 - old) / len(x)), V.to(x).mT * (old * power.to(x)).sqrt()[:, None]]
    if first:  # a batch of few rows determines only a part of the basis
        noise = torch.randn(k, x.shape[1], generator=generator, device=generator.device, dtype=x.dtype)
        parts[1] = 1e-3 * x.square().mean().sqrt() * noise.to(x)
    _, sigma, directions = torch.linalg.svd(torch.cat(parts), full_matrices=False)
    return directions[:k].mT, sigma[:k].square()


def memory_bytes() -> float:
    """Bytes of memory of this machine."""
    return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
