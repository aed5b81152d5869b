"""Tiki-Taka with a digital filter between the fast tile and the main tile."""

from __future__ import annotations

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._procedure import Procedure
from blackprop.core.capabilities._pulse import Pulse
from blackprop.estimators.pulsed._base import ColumnTransfer, positive, share, unit_rows


class TikiTakaV2(ColumnTransfer):
    """Version 2: as `TikiTaka`, with a digital matrix H, `H_k ← H_k + α t A_k`.

    Where |H| passes the threshold, one pulse moves the main tile, and H is multiplied by `momentum`.

    **Costs** at most `B · longest + columns/every` pulses and `columns/every` rows a step.

    **Arguments:**

    - `fast` (default 1): f. `transfer` (default 1): t.
    - `threshold` (in steps of a pulse, default 1).
    - `momentum` (0 to 1, default 0.1): the part of H that stays after a pulse.
    - `every` (steps, default 1), `columns` (default 1): how often, and how many columns are read. A reading moves a
      cell by one pulse at most: trainings of few hundred steps need about `d_in/8` columns a step.

    Source: Gokmen, Front. Artif. Intell. 4, 699148 (2021).
    """

    fast: float
    transfer: float
    threshold: float
    momentum: float

    H: Tensor  # (d_out, d_in)

    def __init__(
        self,
        fast: float = 1.0,
        transfer: float = 1.0,
        threshold: float = 1.0,
        momentum: float = 0.1,
        every: int = 1,
        columns: int = 1,
    ) -> None:
        super().__init__(every, columns)
        positive(self, fast=fast, transfer=transfer, threshold=threshold)
        share(self, momentum=momentum)
        self.fast, self.transfer, self.threshold, self.momentum = fast, transfer, threshold, momentum

    def _allocate(self, spec: Declaration) -> None:
        self.register_buffer("H", torch.zeros(spec.d_out, spec.d_in))

    def _update(
        self, x: Tensor, grad_y: Tensor, rate: float, theta: Tensor, spec: Declaration, generator: torch.Generator
    ) -> Procedure[None]:
        del generator
        train = self._descend(0, x, rate * self.fast * grad_y, theta, spec)
        due = yield from self._send_and_read(train, theta, spec)
        if due is None:
            return
        columns, read = due
        self.H[:, columns] += rate * self.transfer * read.mT
        limit = self.threshold * spec.capability(Pulse).granularity
        yield from released(self, self.H, columns, limit, self.momentum, theta, spec)


def released(
    method: ColumnTransfer,
    H: Tensor,
    columns: Tensor,
    limit: float,
    momentum: float | None,
    theta: Tensor,
    spec: Declaration,
) -> Procedure[None]:
    """Send one pulse to each cell of the columns where |H| passes the limit. There H keeps its part `momentum`, or, for
    None, all but the limit.
    """
    full = (H[:, columns] / limit).trunc().clamp(-1, 1)  # (d_out, columns)
    if not bool(full.any()):
        return
    counts = full @ unit_rows(columns, full, spec.d_in)
    yield [method._counted(1, counts, theta, spec)]
    left = H[:, columns] - limit * full if momentum is None else momentum * H[:, columns]
    H[:, columns] = torch.where(full != 0, left, H[:, columns])
