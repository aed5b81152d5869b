"""Chopped Tiki-Taka: signs that flip remove the offset of the fast tile."""

from __future__ import annotations

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._procedure import Procedure
from blackprop.core.capabilities._pulse import Pulse
from blackprop.estimators.pulsed._base import ColumnTransfer, positive, share
from blackprop.estimators.pulsed._tiki_taka_v2 import released

FOLLOW = 0.01  # part of a batch in the running means of the largest inputs and cotangents


class Chopped(ColumnTransfer):
    """The common part of `ChoppedTikiTaka` and `AGAD`: signs c_k of the columns, and a scaled fast tile.

    The fast tile gets `c_k x_k` in place of x_k, at the rate `α_A = fast · longest · g/(m_x m_g)`, with running means m
    of the largest input and cotangent of a row: it does not depend on the learning rate.
    """

    fast: float
    transfer: float
    chop: float

    signs: Tensor  # (d_in,)
    H: Tensor  # (d_out, d_in)
    scales: Tensor  # (2,): running means of max|x| and max|g|

    def __init__(self, fast: float, transfer: float, chop: float, every: int, columns: int) -> None:
        super().__init__(every, columns)
        positive(self, fast=fast, transfer=transfer)
        share(self, chop=chop)
        self.fast, self.transfer, self.chop = fast, transfer, chop

    def _allocate(self, spec: Declaration) -> None:
        self.register_buffer("signs", torch.ones(spec.d_in))
        self.register_buffer("H", torch.zeros(spec.d_out, spec.d_in))
        self.register_buffer("scales", torch.zeros(2))

    def _seen(self, x: Tensor, grad_y: Tensor) -> None:
        """Follow the largest input and cotangent of a row."""
        new = torch.stack([x.abs().amax(1).mean(), grad_y.abs().amax(1).mean()]).to(self.scales)
        self.scales = torch.where(self.scales > 0, torch.lerp(self.scales, new, FOLLOW), new)

    def _fast_rate(self, pulse: Pulse) -> float:
        product = float(self.scales.double().prod())
        return self.fast * pulse.longest * pulse.granularity / product if product else 0.0

    def gain(self, rate: float, pulse: Pulse) -> float:
        """`α t/α_A`: a reading of the fast tile, times this, is the step of the weight that it stands for."""
        fast = self._fast_rate(pulse)
        return rate * self.transfer / fast if fast else 0.0

    def _flip(self, columns: Tensor, which: Tensor) -> None:
        """Flip the signs of those columns."""
        self.signs[columns] = torch.where(which, -self.signs[columns], self.signs[columns])


class ChoppedTikiTaka(Chopped):
    """c-TTv2: as `TikiTakaV2`, with signs `c_k = ±1`: A gets `c_k x_k`, and `H_k ← H_k + c_k q A_k`.

    The sign flips with the probability `chop` after a read of its column. An offset of A, such as a symmetric point
    that is not 0, then enters H with alternating signs and is averaged away.

    The fast tile is pulsed at the rate `α_A = fast · longest · g/(m_x m_g)`, with running means m of the largest input
    and cotangent of a row, whatever the learning rate α is. Then `q = α t/α_A`, which gives H the units of W. Where |H|
    passes one step, one pulse moves the main tile and H starts from 0 again. Choose t so small that an offset of A
    passes a step in many reads only, or it is written with alternating signs. Offsets were not removed in tests of this
    implementation (see the page on Tiki-Taka): prefer `AGAD`.

    **Costs** at most `B · longest + columns/every` pulses and `columns/every` rows a step.

    **Arguments:**

    - `fast` (default 0.5), `transfer` (default 1): f and t.
    - `chop` (0 to 1, default 0.1): the probability of a flip.
    - `every` (steps, default 1), `columns` (default 1): how often, and how many columns are read.

    Source: Rasch, Carta, Fagbohungbe and Gokmen, Nat. Commun. 15, 7133 (2024).
    """

    def __init__(
        self, fast: float = 0.5, transfer: float = 1.0, chop: float = 0.1, every: int = 1, columns: int = 1
    ) -> None:
        super().__init__(fast, transfer, chop, every, columns)

    def _update(
        self, x: Tensor, grad_y: Tensor, rate: float, theta: Tensor, spec: Declaration, generator: torch.Generator
    ) -> Procedure[None]:
        pulse = spec.capability(Pulse)
        self._seen(x, grad_y)
        train = self._descend(0, self.signs.to(x) * x, self._fast_rate(pulse) * grad_y, theta, spec)
        due = yield from self._send_and_read(train, theta, spec)
        if due is None:
            return
        columns, read = due
        q = self.gain(rate, pulse)
        self.H[:, columns] += q * self.signs[columns] * read.mT.to(self.H)
        drawn = torch.rand(len(columns), generator=generator, device=generator.device).to(self.H)
        self._flip(columns, drawn < self.chop)
        yield from released(self, self.H, columns, pulse.granularity, 0.0, theta, spec)
