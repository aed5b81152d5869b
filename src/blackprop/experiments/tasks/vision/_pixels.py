"""The first layer of networks for colour images, which normalises pixels to mean 0 and standard deviation 1."""

from __future__ import annotations

import torch
from torch import Tensor, nn

MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)


class Normalise(nn.Module):
    """`(x / 255 − mean) / std`, channel by channel, of images `(B, 3, H, W)` of unsigned bytes.

    The output has its channels last in memory, where convolutions are fastest.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.mean.dtype, memory_format=torch.channels_last)
        return (x / 255 - self.mean) / self.std
