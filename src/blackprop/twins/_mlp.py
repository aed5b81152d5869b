"""A generic model, for a device without known equations."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from blackprop.errors import ArgumentError


class MLPTwin(nn.Module):
    """`y = W_n σ(… σ(W_1 [x, θ] + b_1) …) + b_n` with σ = tanh: x `(B, d_in)` and θ `(P,)` in, y `(B, d_out)` out.

    **Arguments:**

    - `d_in`, `d_out`, `size`: d_in, d_out and P.
    - `hidden` (default (128, 128)): the widths between.
    - `seed` (default 0): of the weights, U(±1/√width) as in a digital layer.
    """

    stacks = True

    def __init__(
        self, d_in: int, d_out: int, size: int, *, hidden: tuple[int, ...] = (128, 128), seed: int = 0
    ) -> None:
        super().__init__()
        widths = (d_in + size, *hidden, d_out)
        if min(d_in, size, *widths) < 1:
            raise ArgumentError(f"`MLPTwin` takes widths of at least 1, got {d_in}, {d_out}, {size}, {hidden}")
        generator = torch.Generator().manual_seed(seed)
        pairs = list(itertools.pairwise(widths))
        self.weights: nn.ParameterList = nn.ParameterList(
            _uniform(generator, n, m) / n**0.5 for m, n in ((b, a) for a, b in pairs)
        )
        self.biases: nn.ParameterList = nn.ParameterList(_uniform(generator, a, b)[0] / a**0.5 for a, b in pairs)

    def forward(self, x: Tensor, theta: Tensor) -> Tensor:
        theta = theta.unsqueeze(-2)
        y = torch.cat((x, theta.expand(*x.shape[:-1], theta.shape[-1])), -1)
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            y = (y.tanh() if layer else y) @ weight + bias
        return y


def _uniform(generator: torch.Generator, rows: int, columns: int) -> Tensor:
    return 2 * torch.rand(rows, columns, generator=generator) - 1
