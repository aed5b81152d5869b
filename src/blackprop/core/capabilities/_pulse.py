"""The capability of a device whose cells are moved by coincident pulses on their row and on their column."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from blackprop.core.capabilities._capability import Capability, Shape
from blackprop.errors import ArgumentError, LimitError

if TYPE_CHECKING:
    from blackprop.core._declaration import Declaration


@dataclass(frozen=True)
class Pulse(Capability):
    """Trains of pulses on the d_in columns and the d_out rows of a crossbar; a cell moves where two coincide.

    A row of a query is one train, `(d_in + d_out + 1,)`: p (d_in,), q (d_out,) and its number of slots S. In each slot
    column j fires with the probability `|p_j|` and row i with `|q_i|`, all independently. Where both fire, the cell
    (i, j) makes one step, up if `p_j q_i > 0`, else down. The trains of a query are sent one after the other. A reading
    is empty, `(0,)`.

    A cell of constant step g moves by the mean `g S p_j q_i`. `trains` finds p, q and S for a wanted mean.

    The device keeps the state of its cells itself: it is not part of a setting θ, and it is read only as the matrix. A
    setting holds the gains of the device's tiles, `y = Σ_n θ_n W_n x`. Pulses move the tiles whose gain is not zero, in
    the direction that the sign of the gain gives. The device class has a method `pulse(trains)`.

    One unit, a *pulse*, is one slot of a train: the time in which each line fires at most once.

    **Arguments:**

    - `granularity` (units of W): g, the nominal step of a pulse.
    - `low`, `high` (units of W): the nominal range of a cell.
    - `longest` (default 31): the most slots of a train.
    - `symmetric_point` (units of W, default None, unknown): the root mean square over the cells of the weight at which
      steps up and down are equal.
    - `asymmetry` (default None, unknown): the root mean square over the range of `(Δ₋ − Δ₊)/(Δ₋ + Δ₊)`, from 0 to 1.
    - `noise` (default None, unknown): the standard deviation of a step, in units of the step.

    **Raises** `ArgumentError` for a granularity that is not positive and for a range that does not contain 0.
    """

    name: ClassVar[str] = "pulse"
    unit: ClassVar[str] = "pulses"
    lasting: ClassVar[bool] = True

    granularity: float
    low: float
    high: float
    longest: int = 31
    symmetric_point: float | None = None
    asymmetry: float | None = None
    noise: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.granularity < math.inf:
            raise ArgumentError(f"`Pulse(granularity=...)` must be positive and finite, got {self.granularity}")
        if not -math.inf < self.low <= 0 <= self.high < math.inf or self.low == self.high:
            raise ArgumentError(f"`Pulse(low=..., high=...)` is a range that contains 0, got {self.low} to {self.high}")
        if not (isinstance(self.longest, int) and self.longest >= 1):
            raise ArgumentError(f"`Pulse(longest=...)` must be a whole number from 1, got {self.longest!r}")

        for name in ("symmetric_point", "asymmetry", "noise"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ArgumentError(f"`Pulse({name}=...)` must be finite and not negative, or None, got {value}")

    @property
    def states(self) -> float:
        """The number of steps from one end of the nominal range to the other."""
        return (self.high - self.low) / self.granularity

    def row_shape(self, spec: Declaration) -> Shape:
        return (spec.d_in + spec.d_out + 1,)

    def reading_shape(self, spec: Declaration) -> Shape:
        del spec
        return (0,)

    def perform(self, device: Any, x: Tensor, /) -> Tensor:
        device.pulse(x)
        return x.new_zeros(len(x), 0)

    def amount(self, x: Tensor) -> int:
        return int(x[:, -1].double().sum())

    def check_rows(self, x: Tensor, spec: Declaration) -> None:
        if not len(x):
            return
        lines, slots = x[:, :-1], x[:, -1]
        if bool((lines.abs() > 1).any()):
            raise LimitError(f"a line of {spec.name} fires with a probability of at most 1, got {lines.abs().max():g}")
        if bool((slots < 0).any() | (slots > self.longest).any() | (slots != slots.round()).any()):
            bad = slots[(slots < 0) | (slots > self.longest) | (slots != slots.round())][0]
            raise LimitError(
                f"a train to {spec.name} has a whole number of slots from 0 to {self.longest}, got {bad:g}"
            )

    def trains(self, x: Tensor, d: Tensor) -> Tensor:
        """Return trains (B, d_in + d_out + 1) that move the cells by the mean `Σ_b d_b x_bᵀ`.

        With `u = |x|/max|x|`, `v = |d|/max|d|` and `k = max|x| max|d| / g`, a train has `S = min(⌈k⌉, longest)` slots
        and the probabilities `√(k/S) u` and `√(k/S) v`. Beyond `k = longest` the largest x fires in every slot, and d
        is cut off: `p = u`, `q = min(1, k v / S)`. Vectors of zeros make no train.

        - `x` (B, d_in), `d` (B, d_out): the columns' and the rows' vectors.

        Source: Gokmen and Vlasov, Front. Neurosci. 10, 333 (2016); update management: Gokmen et al., Front. Neurosci.
        11, 538 (2017).
        """
        xm, dm = x.abs().amax(1, keepdim=True), d.abs().amax(1, keepdim=True)
        k = xm.double() * dm.double() / self.granularity
        used = (k > 0).squeeze(1)
        x, d, xm, dm, k = x[used], d[used], xm[used], dm[used], k[used]
        slots = k.ceil().clamp(max=self.longest)
        share = (k / slots).sqrt().clamp(max=1.0).to(x)
        rows = d / dm * torch.where(k > self.longest, k / slots, share.double()).to(d)
        return torch.cat((x / xm * share, rows.clamp(-1, 1), slots.to(x)), 1)

    def single(self, x: Tensor, d: Tensor) -> Tensor:
        """Return trains of one slot (B, d_in + d_out + 1) in which the lines with x, d of ±1 fire, and 0 rests."""
        return torch.cat((x, d, torch.ones_like(x[:, :1])), 1)

    def counted(self, counts: Tensor) -> Tensor:
        """Return trains of one slot that give each cell of a column exactly its number of pulses.

        - `counts` (d_out, d_in): whole numbers, negative for steps down.
        """
        most = int(counts.abs().max()) if counts.numel() else 0
        made = []
        for level in range(1, most + 1):
            mask = counts.sign() * (counts.abs() >= level)
            columns = mask.any(0).nonzero().squeeze(1)
            x = torch.zeros(len(columns), counts.shape[1]).to(counts)
            x[torch.arange(len(columns)), columns] = 1
            made.append(self.single(x, mask[:, columns].mT))
        size = sum(counts.shape) + 1
        return torch.cat(made) if made else counts.new_zeros(0, size)
