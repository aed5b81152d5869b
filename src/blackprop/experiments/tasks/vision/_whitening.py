"""Whitening: a fixed first layer that maps patches to uncorrelated components of equal variance."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CHUNK = 250  # images whose patches are in memory at a time


def whitening_filters(images: Tensor, components: int, side: int, eps: float) -> Tensor:
    """Return the filters `±v_k / √(λ_k + eps)`, first all with + and then all with −: (2·components, C, side, side).

    `λ_k, v_k` are the eigenvalues and eigenvectors of `E[p pᵀ]` over all patches p of `images` (N, C, H, W), the
    largest λ first, as in airbench (arXiv 2404.00498).
    """
    channels = images.shape[1]
    second_moment, count = torch.zeros(channels * side**2, channels * side**2, dtype=torch.float64), 0
    for some in images.split(CHUNK):
        patches = F.unfold(some, side).transpose(1, 2).flatten(0, 1)
        second_moment += (patches.T @ patches).double()
        count += len(patches)
    values, vectors = torch.linalg.eigh(second_moment / count)
    filters = (vectors / (values + eps).sqrt()).T.flip(0)[:components]
    return torch.cat((filters, -filters)).float().unflatten(1, (channels, side, side))


class Whitening(nn.Conv2d):
    """A convolution with fixed `filters` (K, C, side, side) and without padding. Only its bias, if any, is trained."""

    def __init__(self, filters: Tensor, stride: int = 1, bias: bool = True) -> None:
        out_channels, in_channels, side, _ = filters.shape
        super().__init__(in_channels, out_channels, side, stride, bias=bias)
        with torch.no_grad():
            self.weight.copy_(filters).requires_grad_(False)
            if self.bias is not None:
                self.bias.zero_()
