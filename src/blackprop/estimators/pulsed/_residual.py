"""Residual learning: a fine tile that is read together with the main one learns its error."""

from __future__ import annotations

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._procedure import Procedure
from blackprop.core.capabilities._pulse import Pulse
from blackprop.estimators.pulsed._base import ColumnTransfer, positive, share, unit_rows
from blackprop.estimators.pulsed._tiki_taka_v2 import released


class ResidualLearning(ColumnTransfer):
    """`P ← P − α ∇f(W + γ P)`, `W_k ← W_k + β P_k` for the next columns k; both by pulses. γ is the gain of P.

    P follows the residual: at its equilibrium the noise that drags a cell to its symmetric point acts on P, which is
    then near 0, and not on W. The symmetric points of P must be 0 (`shift_to_symmetric_point`).

    **Costs** at most `(B + columns/every) · longest` pulses and `columns/every` rows a step.

    **Arguments:**

    - `transfer` (default 0.01): β. It does not scale with the learning rate.
    - `every` (steps, default 1), `columns` (default 1): how often, and how many columns are read.

    Source: Wu et al., arXiv 2502.06309, with γ from 0.1 to 0.4.
    """

    def __init__(self, transfer: float = 0.01, every: int = 1, columns: int = 1) -> None:
        super().__init__(every, columns)
        positive(self, transfer=transfer)
        self.transfer = transfer

    def _update(
        self, x: Tensor, grad_y: Tensor, rate: float, theta: Tensor, spec: Declaration, generator: torch.Generator
    ) -> Procedure[None]:
        del generator
        train = self._descend(0, x, rate * grad_y, theta, spec)
        due = yield from self._send_and_read(train, theta, spec)
        if due is None:
            return
        columns, read = due
        yield [self._outer(1, unit_rows(columns, x, spec.d_in), self.transfer * read, theta, spec)]


class FilteredResidual(ColumnTransfer):
    """`ResidualLearning` with a digital filter: `H_k ← (1 − β) H_k + β P_k`.

    Where |H| passes one step of the main tile, one pulse moves it and the step is subtracted from H.

    **Costs** at most `B · longest + columns/every` pulses and `columns/every` rows a step.

    **Arguments:**

    - `follow` (0 to 1, default 0.1): β.
    - `every` (steps, default 1), `columns` (default 1): how often, and how many columns are read.

    Source: Wu et al., arXiv 2502.06309.
    """

    H: Tensor  # (d_out, d_in)

    def __init__(self, follow: float = 0.1, every: int = 1, columns: int = 1) -> None:
        super().__init__(every, columns)
        share(self, follow=follow)
        self.follow = follow

    def _allocate(self, spec: Declaration) -> None:
        self.register_buffer("H", torch.zeros(spec.d_out, spec.d_in))

    def _update(
        self, x: Tensor, grad_y: Tensor, rate: float, theta: Tensor, spec: Declaration, generator: torch.Generator
    ) -> Procedure[None]:
        del generator
        train = self._descend(0, x, rate * grad_y, theta, spec)
        due = yield from self._send_and_read(train, theta, spec)
        if due is None:
            return
        columns, read = due
        self.H[:, columns] = torch.lerp(self.H[:, columns], read.mT.to(self.H), self.follow)
        yield from released(self, self.H, columns, spec.capability(Pulse).granularity, None, theta, spec)
