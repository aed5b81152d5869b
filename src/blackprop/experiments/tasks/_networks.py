"""The two small networks with places for devices that digits and MNIST are classified by."""

from __future__ import annotations

import enum

import torch
from torch import nn

from blackprop.experiments.tasks._task import MakeLayer

CLASSES = 10


class DigitNetwork(enum.Enum):
    """`PHYSICAL`: device 64→64, BatchNorm, ReLU, device 64→10, BatchNorm; almost no digital weights, so it shows what
    the θ-gradient is worth. `HYBRID`: Linear 64→128, ReLU, device 128→128, BatchNorm, ReLU, Linear 128→10.
    """

    PHYSICAL = "physical"
    HYBRID = "hybrid"


def build(network: DigitNetwork, widths: tuple[int, int, int], layer: MakeLayer, seed: int) -> nn.Module:
    """The network for rows of `widths[0]`, its hidden width `widths[1]` (physical) or `widths[2]` (hybrid)."""
    d_in, physical, hybrid = widths
    # torch's own initialisers draw from the global generator; it is lent to them and put back.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        match network:
            case DigitNetwork.PHYSICAL:
                first, norm = layer(d_in, physical), nn.BatchNorm1d(physical)
                return nn.Sequential(first, norm, nn.ReLU(), layer(physical, CLASSES), nn.BatchNorm1d(CLASSES))
            case DigitNetwork.HYBRID:
                return nn.Sequential(
                    nn.Linear(d_in, hybrid),
                    nn.ReLU(),
                    layer(hybrid, hybrid),
                    nn.BatchNorm1d(hybrid),
                    nn.ReLU(),
                    nn.Linear(hybrid, CLASSES),
                )
