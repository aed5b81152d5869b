"""Where a chip loses light."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from blackprop.errors import ArgumentError

NEPERS = math.log(10) / 20  # of amplitude, in 1 dB


@dataclass(frozen=True)
class Losses:
    """Loss of each interferometer and of each port, in dB, with a relative `spread` of each.

    **Arguments:** `interferometer`, dB, mean over the blocks; `port`, dB, mean over the ports, inputs and outputs
    alike; `spread`, the standard deviation of either over its mean. No loss is drawn below 0.
    """

    interferometer: float = 0.2  # dB
    port: float = 0.0  # dB
    spread: float = 0.1

    def __post_init__(self) -> None:
        for name in ("interferometer", "port", "spread"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ArgumentError(f"`Losses({name}=...)` must be finite and not negative, got {getattr(self, name)}")

    def draw(self, mean: float, normal: Tensor) -> Tensor:
        """Losses of amplitude, in nepers, from standard normal numbers."""
        return (NEPERS * mean * (1 + self.spread * normal)).clamp_min(0.0)


def no_losses() -> Losses:
    return Losses(interferometer=0.0, port=0.0, spread=0.0)


def amplitudes(nepers: Tensor) -> Tensor:
    """The factors of amplitude that losses in nepers leave."""
    return torch.exp(-nepers)
