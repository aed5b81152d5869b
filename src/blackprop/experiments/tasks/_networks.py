"""The networks with devices that classify digits and MNIST."""

from __future__ import annotations

import enum
import math

import torch
from torch import Tensor, nn

from blackprop.experiments.tasks._task import MakeLayer

CLASSES = 10
WINDOW, CHANNELS, FEATURES = 5, (16, 32), 128  # of LeNet


class DigitNetwork(enum.Enum):
    """The network, with the sizes for `Digits`.

    - `PHYSICAL`: device 64→64, BatchNorm, ReLU, device 64→10, BatchNorm. It has almost no digital weights, so its score
      depends on the θ-gradient.
    - `HYBRID`: Linear 64→128, ReLU, device 128→128, BatchNorm, ReLU, Linear 128→10.
    - `PERCEPTRON`: three devices with a sigmoid between them, 64→128→64→10; for MNIST 784→256→128→10. Source: Gokmen
      and Vlasov, Front. Neurosci. 10, 333 (2016).
    - `LENET`: 28×28 pixels alone. Four devices: two 5×5 convolutions of 16 and 32 channels, each with tanh and max-pool
      2, and 512→128, tanh, 128→10. A convolution sends a row for each place of its window. Source: LeCun et al., Proc.
      IEEE 86, 2278 (1998), in the sizes of Gokmen et al., Front. Neurosci. 11, 538 (2017).
    """

    PHYSICAL = "physical"
    HYBRID = "hybrid"
    PERCEPTRON = "perceptron"
    LENET = "lenet"


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
            case DigitNetwork.PERCEPTRON:
                first, second = hybrid, hybrid // 2
                return nn.Sequential(
                    layer(d_in, first), nn.Sigmoid(), layer(first, second), nn.Sigmoid(), layer(second, CLASSES)
                )
            case DigitNetwork.LENET:
                return _lenet(d_in, layer)


class Convolution(nn.Module):
    """A convolution without padding, whose kernels are one layer: each place of the window is a row of it."""

    def __init__(self, channels_in: int, channels_out: int, layer: MakeLayer) -> None:
        super().__init__()
        self.layer: nn.Module = layer(channels_in * WINDOW**2, channels_out)

    def forward(self, x: Tensor) -> Tensor:
        rows = nn.functional.unfold(x, WINDOW).mT  # (B, places, channels · window)
        side = x.shape[-1] - WINDOW + 1
        return self.layer(rows.flatten(0, 1)).unflatten(0, rows.shape[:2]).mT.unflatten(2, (side, side))


def _lenet(d_in: int, layer: MakeLayer) -> nn.Sequential:
    side, (few, many) = math.isqrt(d_in), CHANNELS
    flat = many * ((((side - WINDOW + 1) // 2) - WINDOW + 1) // 2) ** 2
    return nn.Sequential(
        nn.Unflatten(1, (1, side, side)),
        Convolution(1, few, layer),
        nn.Tanh(),
        nn.MaxPool2d(2),
        Convolution(few, many, layer),
        nn.Tanh(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        layer(flat, FEATURES),
        nn.Tanh(),
        layer(FEATURES, CLASSES),
    )
