"""Symmetric points: led to before training, or followed in it."""

from __future__ import annotations

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._procedure import Procedure, in_rounds
from blackprop.core._query import Purpose, Query
from blackprop.core.capabilities._pulse import Pulse
from blackprop.errors import ArgumentError
from blackprop.estimators.pulsed._base import ColumnTransfer, _only, positive, share, unit_rows

AT_ONCE = 256  # trains of one round


class SymmetricPointTracking(ColumnTransfer):
    """`P ← P − α c_k ∇f` by pulses; for each column read, `Q_k ← (1 − η) Q_k + η P_k` digitally, and
    `W_k ← W_k + β c_k (P_k − Q_k)` by pulses.

    Signs c_k flip with the probability `chop` after a read, so that the gradient's part of P has the mean 0 and Q
    follows the symmetric point. It need not be known, nor be 0. The fast tile is not part of the forward pass: its gain
    is 0.

    **Costs** at most `(B + columns/every) · longest` pulses and `columns/every` rows a step.

    **Arguments:**

    - `transfer` (default 0.1): β. It does not scale with the learning rate.
    - `follow` (0 to 1, default 0.05): η.
    - `chop` (0 to 1, default 0.1): the probability of a flip.
    - `fast` (default 1): the rate of P is `fast α`.
    - `every` (steps, default 1), `columns` (default 1): how often, and how many columns are read.

    Source: the rules of arXiv 2602.21321, without its residual tile in the forward pass.
    """

    transfer: float
    follow: float
    chop: float
    fast: float

    Q: Tensor  # (d_out, d_in)
    signs: Tensor  # (d_in,)

    def __init__(
        self,
        transfer: float = 0.1,
        follow: float = 0.05,
        chop: float = 0.1,
        fast: float = 1.0,
        every: int = 1,
        columns: int = 1,
    ) -> None:
        super().__init__(every, columns)
        positive(self, transfer=transfer, fast=fast)
        share(self, follow=follow, chop=chop)
        self.transfer, self.follow, self.chop, self.fast = transfer, follow, chop, fast

    def _allocate(self, spec: Declaration) -> None:
        self.register_buffer("Q", torch.zeros(spec.d_out, spec.d_in))
        self.register_buffer("signs", torch.ones(spec.d_in))

    def _update(
        self, x: Tensor, grad_y: Tensor, rate: float, theta: Tensor, spec: Declaration, generator: torch.Generator
    ) -> Procedure[None]:
        train = self._descend(0, self.signs.to(x) * x, rate * self.fast * grad_y, theta, spec)
        due = yield from self._send_and_read(train, theta, spec)
        if due is None:
            return
        columns, read = due
        p, sign = read.mT.to(self.Q), self.signs[columns]
        self.Q[:, columns] = torch.lerp(self.Q[:, columns], p, self.follow)
        moved = self.transfer * sign * (p - self.Q[:, columns])
        drawn = torch.rand(len(columns), generator=generator, device=generator.device).to(self.Q)
        self.signs[columns] = torch.where(drawn < self.chop, -sign, sign)
        yield [self._outer(1, unit_rows(columns, x, spec.d_in), moved.mT.to(x), theta, spec)]


def shift_to_symmetric_point(spec: Declaration, tile: int = 0, pulses: int = 2000) -> Procedure[Tensor]:
    """Return the procedure that leads every cell of a tile to its symmetric point, and reads it there: (d_out, d_in).

    All cells get pulses up and down in turn. The distance to the symmetric point falls by about `(U/b₊ − D/b₋)/2` of
    itself a pulse, for soft bounds, down to a noise of the order of the step. Run it with `bp.run` and
    `blackprop.core.metered`.

    **Costs** `pulses` pulses, d_in rows and one programming, as `CALIBRATE`.

    - `spec`: the declaration of the device. `tile` (default 0): its number. `pulses` (default 2000): of each cell.

    **Raises** `ArgumentError` for a tile that the device does not have, and for fewer than 2 pulses;
    `IncompatibleError` for a device without pulses.

    Source: Kim et al., arXiv 1907.10228.
    """
    pulse = spec.capability(Pulse)
    if not 0 <= tile < spec.theta.size or pulses < 2:
        raise ArgumentError(
            f"`shift_to_symmetric_point` takes a tile from 0 to {spec.theta.size - 1} and at least 2 pulses, "
            f"got {tile} and {pulses}"
        )
    theta = _only(spec.theta.draw(torch.Generator()), tile)
    left = pulses - pulses % 2
    while left:
        count = min(left, AT_ONCE)
        x = torch.ones(count, spec.d_in).to(theta)
        d = torch.ones(count, spec.d_out).to(theta)
        d[1::2] = -1
        yield [Query(pulse.single(x, d), theta, Purpose.CALIBRATE, Pulse)]
        left -= count
    unit = torch.eye(spec.d_in).to(theta).unflatten(1, spec.in_shape)
    (read,) = yield from in_rounds([Query(unit, theta, Purpose.CALIBRATE)], spec.d_out)
    return read.mT
