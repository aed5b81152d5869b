"""The few weights of a layer that stay digital beside a device."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from blackprop.errors import ArgumentError


class SparseWeights(nn.Module):
    """`y = x Sᵀ` with a matrix S `(d_out, d_in)` of `count` trainable elements, the others 0.

    Where they are is a buffer, so that a checkpoint brings its own. S is filled in at every pass: d_out·d_in numbers.

    - `d_in`, `d_out`: numbers of inputs and outputs.
    - `count`: the number of elements, from 1 to d_in d_out; all are 0 until they are loaded or set.

    **Raises** `ArgumentError` for a count outside this range.
    """

    d_in: int
    d_out: int

    places: Tensor

    def __init__(self, d_in: int, d_out: int, count: int) -> None:
        super().__init__()
        if not 1 <= count <= d_in * d_out:
            raise ArgumentError(f"`SparseWeights(count=...)` must be between 1 and {d_in * d_out}, got {count}")
        self.d_in, self.d_out = d_in, d_out
        self.values: nn.Parameter = nn.Parameter(torch.zeros(count))
        self.register_buffer("places", torch.arange(count))  # row-major

    @classmethod
    @torch.no_grad()
    def largest(cls, weight: Tensor, fraction: float) -> SparseWeights:
        """The largest elements of weight (d_out, d_in) by magnitude, this fraction of all, at least one."""
        if not 0 < fraction < 1:
            raise ArgumentError(f"the fraction of weights kept digital must be between 0 and 1, got {fraction}")
        flat = weight.detach().flatten()
        made = cls(weight.shape[1], weight.shape[0], max(1, round(fraction * len(flat))))
        made.to(weight.device, weight.dtype)
        made.places.copy_(flat.abs().topk(len(made.places)).indices.sort().values)
        made.values.copy_(flat[made.places])
        return made

    def matrix(self) -> Tensor:  # (d_out, d_in)
        """S, filled in."""
        empty = self.values.new_zeros(self.d_out * self.d_in)
        return empty.index_put((self.places,), self.values).view(self.d_out, self.d_in)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.matrix())

    def extra_repr(self) -> str:
        return f"{self.d_in} -> {self.d_out}, {len(self.places):,} of {self.d_in * self.d_out:,} weights"
