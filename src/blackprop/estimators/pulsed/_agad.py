"""Analog gradient accumulation with dynamic reference."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._procedure import Procedure
from blackprop.core.capabilities._pulse import Pulse
from blackprop.errors import ArgumentError
from blackprop.estimators.pulsed._base import positive
from blackprop.estimators.pulsed._chopped import Chopped
from blackprop.estimators.pulsed._tiki_taka_v2 import released


class AGAD(Chopped):
    """As `ChoppedTikiTaka`, with a reference that follows the fast tile: `H_k ← H_k + c_k q (A_k − R_k)`.

    The sign of a column flips after every `n = max(⌈1/chop⌉, 2)` of its reads. R_k is the mean of A_k over about the
    last `n/tail` reads before its latest flip. The main tile is not pulsed before the first flip of a column, that is
    in the first `n every d_in/columns` steps: the training must be much longer.

    **Costs** at most `B · longest + columns/every` pulses and `columns/every` rows a step.

    **Arguments:**

    - `fast` (default 0.5), `transfer` (default 1), `every`, `columns` (default 1): as there.
    - `chop` (0 to 1, default 0.02): 1/n.
    - `tail` (default 5): as above.

    Source: Rasch, Carta, Fagbohungbe and Gokmen, Nat. Commun. 15, 7133 (2024).
    """

    tail: float
    period: int

    mean: Tensor  # (d_out, d_in)
    reference: Tensor  # (d_out, d_in)
    times_read: Tensor  # (d_in,)

    def __init__(
        self,
        fast: float = 0.5,
        transfer: float = 1.0,
        chop: float = 0.02,
        tail: float = 5.0,
        every: int = 1,
        columns: int = 1,
    ) -> None:
        super().__init__(fast, transfer, chop, every, columns)
        positive(self, tail=tail)
        if not chop:
            raise ArgumentError("`AGAD(chop=...)` must be positive: without flips the reference never follows")
        self.tail, self.period = tail, max(math.ceil(1 / chop), 2)

    def _allocate(self, spec: Declaration) -> None:
        super()._allocate(spec)
        self.register_buffer("mean", torch.zeros(spec.d_out, spec.d_in))
        self.register_buffer("reference", torch.zeros(spec.d_out, spec.d_in))
        self.register_buffer("times_read", torch.zeros(spec.d_in, dtype=torch.int64))

    def _update(
        self, x: Tensor, grad_y: Tensor, rate: float, theta: Tensor, spec: Declaration, generator: torch.Generator
    ) -> Procedure[None]:
        del generator
        pulse = spec.capability(Pulse)
        self._seen(x, grad_y)
        train = self._descend(0, self.signs.to(x) * x, self._fast_rate(pulse) * grad_y, theta, spec)
        due = yield from self._send_and_read(train, theta, spec)
        if due is None:
            return
        columns, read = due
        a = read.mT.to(self.H)  # (d_out, columns)
        begun = self.times_read[columns] >= self.period
        change = self.gain(rate, pulse) * self.signs[columns] * (a - self.reference[:, columns])
        self.H[:, columns] += torch.where(begun, change, 0.0)
        self.mean[:, columns] = torch.lerp(self.mean[:, columns], a, min(self.tail / self.period, 1.0))
        self.times_read[columns] += 1
        flips = self.times_read[columns] % self.period == 0
        self.reference[:, columns] = torch.where(flips, self.mean[:, columns], self.reference[:, columns])
        self._flip(columns, flips)
        yield from released(self, self.H, columns, pulse.granularity, 0.0, theta, spec)
