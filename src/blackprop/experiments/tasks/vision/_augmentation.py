"""Augmentation of batches of images `(B, C, H, W)`, of any dtype and on any torch device.

Random numbers come from a CPU generator, one draw per image, so the same generator gives bit-identical batches.
"""

from __future__ import annotations

import torch
from torch import Tensor


def flip(x: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image left to right with probability 1/2."""
    mirrored = torch.rand(len(x), generator=generator) < 0.5
    return torch.where(mirrored.to(x.device)[:, None, None, None], x.flip(-1), x)


def translate(x: Tensor, reach: int, generator: torch.Generator) -> Tensor:
    """Move each image by −reach to reach pixels down and right, and fill the border by reflection."""
    height, width = x.shape[-2:]
    down, right = torch.randint(-reach, reach + 1, (2, len(x)), generator=generator)
    rows = _reflected(torch.arange(height) - down[:, None], height).to(x.device)
    columns = _reflected(torch.arange(width) - right[:, None], width).to(x.device)
    image, channel = (torch.arange(n, device=x.device) for n in x.shape[:2])
    return x[image[:, None, None, None], channel[:, None, None], rows[:, None, :, None], columns[:, None, None, :]]


def cutout(x: Tensor, side: int, fill: Tensor, generator: torch.Generator) -> Tensor:
    """Fill a random square of side × side pixels in each image with the colour `fill` (C,)."""
    height, width = x.shape[-2:]
    top = torch.randint(height - side + 1, (len(x), 1), generator=generator)
    left = torch.randint(width - side + 1, (len(x), 1), generator=generator)
    inside_rows, inside_columns = _within(top, side, height), _within(left, side, width)
    hole = (inside_rows[:, None, :, None] & inside_columns[:, None, None, :]).to(x.device)
    return torch.where(hole, fill.to(x)[:, None, None], x)


def _reflected(index: Tensor, size: int) -> Tensor:
    """Reflect pixel indices at the border: −1 → 1 and size → size − 2."""
    return (size - 1) - ((size - 1) - index.abs()).abs()


def _within(start: Tensor, side: int, size: int) -> Tensor:
    index = torch.arange(size)
    return (index >= start) & (index < start + side)
