"""What may be spent on a device that has moved, and what was: an allowance of rows, and the log of what it paid for."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from blackprop.errors import ArgumentError, BlackpropWarning

LOG = logging.getLogger("blackprop")
KEPT = 100  # events that are remembered one by one; their sums reach back to the start
FOUND, AGAIN = "displacement found", "calibrated again"
KINDS = (FOUND, AGAIN)


@dataclass(frozen=True)
class Event:
    """That the device was found displaced, and what was done about it."""

    batch: int
    """How many batches the surrogate had seen."""
    what: str
    residual: float
    """The root mean square residual of the batch that told, over what is normal."""
    rows: int
    programmings: int


class Monitor(nn.Module):
    """The allowance of a surrogate for calibrating again: `reserve` rows, and `share` of the rows that training reads.

    What is not covered is not asked: the surrogate goes on with what it knows, and says so once, as a
    `BlackpropWarning`. Every event is logged (logger `blackprop`, level INFO), counted, and of the last 100 kept.
    """

    account: Tensor
    kept: Tensor

    def __init__(self, share: float) -> None:
        super().__init__()
        if not share >= 0:
            raise ArgumentError(f"`share` must not be negative, got {share}")
        self.share = share
        # Rows allowed, batches, and of the events: rows, programmings, number; whether a want was warned of.
        self.register_buffer("account", torch.zeros(6, dtype=torch.float64))
        self.register_buffer("kept", torch.zeros(KEPT, 5, dtype=torch.float64))

    @property
    def allowance(self) -> float:
        """The rows that may be asked now."""
        return float(self.account[0])

    @property
    def events(self) -> list[Event]:
        """The last 100 of them, oldest first."""
        used = min(int(self.account[4]), KEPT)
        lines = self.kept[KEPT - used :].tolist()
        return [Event(int(batch), KINDS[int(k)], r, int(rows), int(n)) for batch, k, r, rows, n in lines]

    def reserve(self, rows: int) -> None:
        self.account[0] = rows

    def saw(self, rows: int) -> None:
        """A batch of so many rows."""
        self.account[0] += self.share * rows
        self.account[1] += 1

    def covers(self, rows: int, name: str) -> bool:
        """Whether so many rows may be asked; warns the first time that they may not."""
        if rows <= self.allowance:
            return True
        if not self.account[5]:
            self.account[5] = 1
            warnings.warn(
                f"{name}: the device has moved, and the {rows} rows to find out where to are more than the "
                f"{self.allowance:.0f} that `share={self.share}` of the training's rows allows so far: training goes "
                "on with what is known; give a larger `share`, or steady the device",
                BlackpropWarning,
                stacklevel=2,
            )
        return False

    def spend(self, name: str, what: str, residual: float, rows: int, programmings: int) -> None:
        """Book an event, and log it."""
        batch = int(self.account[1])
        line = self.kept.new_tensor([batch, KINDS.index(what), residual, rows, programmings])
        self.kept = torch.cat((self.kept[1:], line[None]))
        self.account += self.account.new_tensor([-rows, 0, rows, programmings, 1, 0])
        LOG.info(
            "%s after %d batches: residual %.2g times what is normal; %s for %d rows, %d programmings",
            *(name, batch, residual, what, rows, programmings),
        )

    def diagnosis(self) -> dict[str, float]:
        allowance, _, rows, programmings, events, _ = self.account.tolist()
        sums = {"moved": events, "moved_rows": rows, "moved_programmings": programmings}
        return {**sums, "moved_allowance": allowance}
