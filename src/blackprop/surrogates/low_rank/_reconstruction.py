"""Low-rank factors read anew at intervals."""

from __future__ import annotations

import torch
from torch import Tensor

from blackprop.core._procedure import Procedure
from blackprop.errors import ArgumentError
from blackprop.surrogates.low_rank._base import LowRankSurrogate


class Reconstruction(LowRankSurrogate):
    """The best rank-r factors of the device, from d_in rows at every `every`-th change of θ; unchanged in between.

    Exact at every change if r = min(d_in, d_out) and `every` is 1. Needs no programming of its own.

    **Arguments:**

    - `rank` (default 10): r.
    - `every` (default 1): changes of θ between two readings.
    - `treat_as_linear` (default False): as in `LowRankSurrogate`.
    """

    steps: Tensor

    def __init__(self, rank: int = 10, every: int = 1, *, treat_as_linear: bool = False) -> None:
        super().__init__(rank, treat_as_linear)
        if every < 1:
            raise ArgumentError(f"`Reconstruction(every=...)` must be at least 1, got {every}")
        self.every = every
        self.register_buffer("steps", torch.tensor(0))

    def track(self, theta_old: Tensor, theta_new: Tensor, generator: torch.Generator) -> Procedure[None]:
        del theta_old, generator
        if (int(self.steps) + 1) % self.every == 0:
            yield from self._rebuild(theta_new)
        self.steps += 1

    def extra_repr(self) -> str:
        return f"rank={self.rank}, every={self.every}"
