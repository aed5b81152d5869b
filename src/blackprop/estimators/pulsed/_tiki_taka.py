"""Tiki-Taka: a fast tile takes the gradient, and is transferred to the main tile by pulses."""

from __future__ import annotations

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._procedure import Procedure
from blackprop.estimators.pulsed._base import ColumnTransfer, positive, unit_rows


class TikiTaka(ColumnTransfer):
    """Version 1: `A ← A − α f Σ_b g_b x_bᵀ`, and every so many steps `C_k ← C_k + α t A_k` for the next column k.

    Both are made of pulses. The fast tile A must rest at 0: its symmetric point is where its noise leads it
    (`shift_to_symmetric_point`), and a point elsewhere is written into C.

    **Costs** at most `(B + columns/every) · longest` pulses and `columns/every` rows a step.

    **Arguments:**

    - `fast` (default 1): f. `transfer` (default 1): t.
    - `every` (steps, default 1), `columns` (default 1): how often, and how many columns are read.

    Source: Gokmen and Haensch, Front. Neurosci. 14, 103 (2020).
    """

    fast: float
    transfer: float

    def __init__(self, fast: float = 1.0, transfer: float = 1.0, every: int = 1, columns: int = 1) -> None:
        super().__init__(every, columns)
        positive(self, fast=fast, transfer=transfer)
        self.fast, self.transfer = fast, transfer

    def _update(
        self, x: Tensor, grad_y: Tensor, rate: float, theta: Tensor, spec: Declaration, generator: torch.Generator
    ) -> Procedure[None]:
        del generator
        train = self._descend(0, x, rate * self.fast * grad_y, theta, spec)
        due = yield from self._send_and_read(train, theta, spec)
        if due is None:
            return
        columns, read = due
        moved = rate * self.transfer * read
        yield [self._outer(1, unit_rows(columns, x, spec.d_in), moved, theta, spec)]
