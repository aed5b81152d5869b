"""The six convolutions of the published experiment on CIFAR-10."""

from __future__ import annotations

from torch import nn

from blackprop.experiments.tasks._task import MakeLayer
from blackprop.experiments.tasks.vision._pixels import MEAN, Normalise

STD = (0.2023, 0.1994, 0.2010)  # as published: the mean of the standard deviations of single images
DROPOUT = (0.25, 0.35, 0.4, 0.5)
SIDE, CLASSES = 32, 10


def cnn(layer: MakeLayer, widths: tuple[int, ...], hidden: int) -> nn.Sequential:
    """Build the network: three blocks of two convolutions with `widths` channels, `layer(16·widths[2], hidden)`,
    BatchNorm, ReLU, Linear hidden→10.

    A block is [3×3 convolution, BatchNorm, ReLU] twice, max-pool 2, dropout 0.25, 0.35 or 0.4. Dropout before the last
    Linear is 0.5. Draws from torch's global generator. Source: arXiv 2509.15113.
    """
    modules: list[nn.Module] = [Normalise(MEAN, STD)]
    channels = 3
    for width, p in zip(widths, DROPOUT, strict=False):
        modules += [*_convolution(channels, width), *_convolution(width, width), nn.MaxPool2d(2), nn.Dropout(p)]
        channels = width
    d_in = channels * (SIDE // 2 ** len(widths)) ** 2
    place = [layer(d_in, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(DROPOUT[-1])]
    return nn.Sequential(*modules, nn.Flatten(), *place, nn.Linear(hidden, CLASSES))


def _convolution(channels_in: int, channels_out: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(channels_in, channels_out, 3, padding=1), nn.BatchNorm2d(channels_out), nn.ReLU()
