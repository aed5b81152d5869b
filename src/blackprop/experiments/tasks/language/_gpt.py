"""The decoder-only transformer that language is modelled with."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blackprop.errors import ShapeError
from blackprop.experiments.tasks._task import MakeLayer

ROTARY_BASE = 10_000.0


class DevicePlace(enum.Enum):
    """What of a block's MLP a device stands for, of `c_proj(relu(c_fc(x))²)`: `FIRST_OF_MLP`, the matrix `c_fc`,
    d → 4d; `MLP`, all of it, by one device d → d.
    """

    FIRST_OF_MLP = "first-of-mlp"
    MLP = "mlp"


class GPT(nn.Module):
    """Tokens (B, T) of any integer type, T at most `context`, to the logits (B, T, V) of the tokens that follow.

    `x ← x + attention(norm(x))`, `x ← x + mlp(norm(x))` in each of `blocks`, then `norm(x) Eᵀ` with E the embedding
    (V, d). `norm` divides by the root mean square, and has no weights; nor has anything a bias. `place` is taken by
    `layer` in the last `replaced` blocks. The blocks' own matrices are `trained`, or stay as they are drawn.
    """

    def __init__(
        self,
        vocabulary: int,
        width: int,
        blocks: int,
        heads: int,
        context: int,
        place: DevicePlace,
        replaced: int,
        layer: MakeLayer,
        trained: bool = True,
    ) -> None:
        super().__init__()
        self.context, self.head = context, width // heads
        self.embedding = nn.Linear(width, vocabulary, bias=False)  # drawn as the head, of which it is the transpose
        matrix, digital = Matrices(trained), blocks - replaced
        self.blocks = nn.ModuleList(
            Block(width, heads, matrix, mlp(width, matrix) if i < digital else with_device(width, matrix, place, layer))
            for i in range(blocks)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        if tokens.dim() != 2 or tokens.shape[1] > self.context:
            raise ShapeError(f"this model takes tokens (B, T), T at most {self.context}, got {tuple(tokens.shape)}")
        x = F.embedding(tokens.long(), self.embedding.weight)
        turns = rotary(tokens.shape[1], self.head, x)
        for block in self.blocks:
            x = block(x, turns)
        return self.embedding(norm(x))


@dataclass(frozen=True)
class Matrices:
    """Makes the blocks' matrices: `trained`, with output projections that start at zero; or all to stay as drawn."""

    trained: bool

    def __call__(self, d_in: int, d_out: int, output: bool = False) -> nn.Linear:
        linear = nn.Linear(d_in, d_out, bias=False)
        if output and self.trained:
            nn.init.zeros_(linear.weight)
        return linear.requires_grad_(self.trained)


class Block(nn.Module):
    """Attention and MLP, each beside a path that passes it by."""

    def __init__(self, width: int, heads: int, matrix: Matrices, mlp: nn.Module) -> None:
        super().__init__()
        self.attention = Attention(width, heads, matrix)
        self.mlp = mlp

    def forward(self, x: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
        x = x + self.attention(norm(x), turns)
        return x + self.mlp(norm(x))


class Attention(nn.Module):
    """Causal attention in `heads` of width `head`; queries and keys are normed, then turned by their position."""

    def __init__(self, width: int, heads: int, matrix: Matrices) -> None:
        super().__init__()
        self.head = width // heads
        self.query, self.key, self.value = (matrix(width, width) for _ in range(3))
        self.output = matrix(width, width, output=True)

    def forward(self, x: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
        q, k, v = (
            each(x).unflatten(-1, (-1, self.head)).transpose(1, 2) for each in (self.query, self.key, self.value)
        )
        q, k = turned(norm(q), turns), turned(norm(k), turns)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # (B, heads, T, head)
        return self.output(y.transpose(1, 2).flatten(-2))


class SquaredReLU(nn.Module):
    """`relu(x)²`."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x).square()


def mlp(width: int, matrix: Matrices) -> nn.Module:
    """`c_proj(relu(c_fc(x))²)`, hidden width 4d, without a device."""
    return nn.Sequential(matrix(width, 4 * width), SquaredReLU(), matrix(4 * width, width, output=True))


def with_device(width: int, matrix: Matrices, place: DevicePlace, layer: MakeLayer) -> nn.Module:
    """The MLP of a block with a device in it, or in its place."""
    match place:
        case DevicePlace.FIRST_OF_MLP:
            return nn.Sequential(layer(width, 4 * width), SquaredReLU(), matrix(4 * width, width, output=True))
        case DevicePlace.MLP:
            return layer(width, width)


def norm(x: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:])


def rotary(length: int, width: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine (T, width/2) of the angles `t / base^(2i/width)`."""
    rates = ROTARY_BASE ** (-torch.arange(0, width, 2, device=like.device, dtype=torch.float32) / width)
    angles = torch.outer(torch.arange(length, device=like.device, dtype=torch.float32), rates)
    return angles.cos(), angles.sin()


def turned(x: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
    """The pairs (i, i + width/2) of x (..., T, width), each turned by its angle."""
    cos, sin = turns
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos + b * sin, b * cos - a * sin), -1).type_as(x)
