"""The coincidences of stochastic trains, drawn by their exact law."""

from __future__ import annotations

import torch
from torch import Tensor


def drawn(trains: Tensor, d_in: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw the slots in which each line fires: x (B, S, d_in) and d (B, S, d_out), each of −1, 0 and 1.

    - `trains` (B, d_in + d_out + 1): signed probabilities, and the number of slots of each train.
    """
    lines, slots = trains[:, None, :-1], trains[:, -1]
    most = int(slots.max()) if len(slots) else 0
    chance = torch.rand(len(trains), most, lines.shape[-1], generator=generator)
    fires = (chance < lines.abs()).to(trains.dtype) * lines.sign()
    fires *= (torch.arange(most) < slots[:, None])[..., None]
    return fires[..., :d_in], fires[..., d_in:]


def merged(x: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    """Join trains of one slot, x (B, 1, columns) and d (B, 1, rows), if no cell gets pulses of both directions.

    Pulses of one direction at a cell do not depend on those at others, so that the order of such trains is irrelevant.
    """
    if x.shape[1] != 1 or len(x) < 2:
        return x, d
    xs, ds = x.mT, d.mT  # (B, columns, 1)
    xs, ds = xs.flatten(1), ds.flatten(1)
    if torch.equal((ds.mT @ xs).abs(), ds.abs().mT @ xs.abs()):
        return xs[None], ds[None]
    return x, d
