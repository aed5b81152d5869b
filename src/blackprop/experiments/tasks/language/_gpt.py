"""A decoder-only transformer for language models."""

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
    """The part of a block's MLP, `c_proj(relu(c_fc(x))²)`, that a device replaces.

    - `FIRST_OF_MLP`: the matrix `c_fc`, d → 4d.
    - `MLP`: the whole MLP, by one device d → d.
    """

    FIRST_OF_MLP = "first-of-mlp"
    MLP = "mlp"


class GPT(nn.Module):
    """Map tokens (B, T) of any integer type, T at most `context`, to the logits (B, T, V) of the next tokens.

    Each of `blocks` computes `x ← x + attention(norm(x))` and `x ← x + mlp(norm(x))`. The output is `norm(x) Eᵀ`, with
    E the embedding (V, d). `norm` divides by the root mean square, without weights. There are no biases. In the last
    `replaced` blocks, `layer` replaces the part `place`. The matrices of the blocks are `trained`, or keep their random
    initial values.
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
        self.embedding = nn.Linear(
            width, vocabulary, bias=False
        )  # initialised as the output matrix, which is its transpose
        matrix, digital = Matrices(trained), blocks - replaced
        self.blocks = nn.ModuleList(
            Block(width, heads, matrix, mlp(width, matrix) if i < digital else with_device(width, matrix, place, layer))
            for i in range(blocks)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        if tokens.dim() != 2 or tokens.shape[1] > self.context:
            raise ShapeError(f"this model needs tokens (B, T), T at most {self.context}, got {tuple(tokens.shape)}")
        x = F.embedding(tokens.long(), self.embedding.weight)
        turns = rotary(tokens.shape[1], self.head, x)
        for block in self.blocks:
            x = block(x, turns)
        return self.embedding(norm(x))


@dataclass(frozen=True)
class Matrices:
    """Makes the matrices of the blocks: `trained`, with output projections that start at zero, or random and fixed."""

    trained: bool

    def __call__(self, d_in: int, d_out: int, output: bool = False) -> nn.Linear:
        linear = nn.Linear(d_in, d_out, bias=False)
        if output and self.trained:
            nn.init.zeros_(linear.weight)
        return linear.requires_grad_(self.trained)


class Block(nn.Module):
    """Attention and MLP, each with a residual connection."""

    def __init__(self, width: int, heads: int, matrix: Matrices, mlp: nn.Module) -> None:
        super().__init__()
        self.attention = Attention(width, heads, matrix)
        self.mlp = mlp

    def forward(self, x: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
        x = x + self.attention(norm(x), turns)
        return x + self.mlp(norm(x))


class Attention(nn.Module):
    """Causal attention with rotary positions. Queries and keys are normalised first."""

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
    """Return the MLP of a block with a device in it or in its place."""
    match place:
        case DevicePlace.FIRST_OF_MLP:
            return nn.Sequential(layer(width, 4 * width), SquaredReLU(), matrix(4 * width, width, output=True))
        case DevicePlace.MLP:
            return layer(width, width)


def norm(x: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:])


def rotary(length: int, width: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosine and sine (T, width/2) of the angles `t / base^(2i/width)`."""
    rates = ROTARY_BASE ** (-torch.arange(0, width, 2, device=like.device, dtype=torch.float32) / width)
    angles = torch.outer(torch.arange(length, device=like.device, dtype=torch.float32), rates)
    return angles.cos(), angles.sin()


def turned(x: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate the pairs (i, i + width/2) of x (..., T, width) by their angles."""
    cos, sin = turns
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos + b * sin, b * cos - a * sin), -1).type_as(x)
