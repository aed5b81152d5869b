"""The two small networks with devices that classify digits and MNIST."""

from __future__ import annotations

import enum

import torch
from torch import nn

from blackprop.experiments.tasks._task import MakeLayer

CLASSES = 10


class DigitNetwork(enum.Enum):
    """The network, with the sizes for `Digits`.

    - `PHYSICAL`: device 64→64, BatchNorm, ReLU, device 64→10, BatchNorm. It has almost no digital weights, so its score
      depends on the θ-gradient.
    - `HYBRID`: Linear 64→128, ReLU, device 128→128, BatchNorm, ReLU, Linear 128→10.
    """

    PHYSICAL = "physical"
    HYBRID = "hybrid"


def build(network: DigitNetwork, widths: tuple[int, int, int], layer: MakeLayer, seed: int) -> nn.Module:
    """Build the network for rows of length `widths[0]`: hidden width `widths[1]` (physical) or `widths[2]` (hybrid)."""
    d_in, physical, hybrid = widths
    # The initialisers of torch draw from the global generator, which is restored afterwards.
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
