"""The allowance of rows for a device that has moved, and the log of its use."""

from __future__ import annotations

import logging
import warnings
from dataclasses import asdict, dataclass

from torch import Tensor, nn

from blackprop.core._packing import pack, unpack
from blackprop.errors import ArgumentError, BlackpropWarning

LOG = logging.getLogger("blackprop")
KEPT = 100  # events that are remembered one by one; their sums reach back to the start
FOUND, AGAIN = "displacement found", "calibrated again"
KINDS = (FOUND, AGAIN)
LEFT = 3.0  # times the error that a calibration's check expects on average over the range: normal at one θ


@dataclass(frozen=True)
class Event:
    """A displacement of the device and the response to it."""

    batch: int
    """How many batches the surrogate had seen."""
    what: str
    residual: float
    """The root mean square residual of the batch that told, over what is normal."""
    rows: int
    programmings: int


class Monitor(nn.Module):
    """The allowance of a surrogate for calibrating again: `reserve` rows, and `share` of the rows that training reads.

    If the allowance does not suffice, the surrogate makes no queries, continues with its present model and warns once
    (`BlackpropWarning`). Every event is logged (logger `blackprop`, level INFO) and counted; the last 100 are kept.
    """

    allowance: float
    batches: int
    sums: dict[str, int]
    warned: bool

    def __init__(self, share: float) -> None:
        super().__init__()
        if not share >= 0:
            raise ArgumentError(f"`share` must not be negative, got {share}")
        self.share = share
        self.allowance = 0.0
        """The rows that may be asked now."""
        self.events: list[Event] = []
        """The last 100 of them, oldest first."""
        self.batches = 0
        self.sums = {"events": 0, "rows": 0, "programmings": 0}
        self.warned = False  # of an allowance that did not suffice

    def reserve(self, rows: int) -> None:
        self.allowance = float(rows)

    def saw(self, rows: int) -> None:
        """Add the rows of a batch to the allowance."""
        self.allowance += self.share * rows
        self.batches += 1

    def covers(self, rows: int, name: str) -> bool:
        """Return whether this many rows may be read; warn the first time that they may not."""
        if rows <= self.allowance:
            return True
        if not self.warned:
            self.warned = True
            warnings.warn(
                f"{name}: the device has moved, and the {rows} rows to find its displacement are more than the "
                f"{self.allowance:.0f} that `share={self.share}` of the training's rows allows so far: training "
                "continues with the present model; give a larger `share`, or steady the device",
                BlackpropWarning,
                stacklevel=2,
            )
        return False

    def spend(self, name: str, what: str, residual: float, rows: int, programmings: int) -> None:
        """Book an event, and log it."""
        self.events = [*self.events[1 - KEPT :], Event(self.batches, what, residual, rows, programmings)]
        self.allowance -= rows
        for sum_, more in (("events", 1), ("rows", rows), ("programmings", programmings)):
            self.sums[sum_] += more
        LOG.info(
            "%s after %d batches: residual %.2g times what is normal; %s for %d rows, %d programmings",
            *(name, self.batches, residual, what, rows, programmings),
        )

    def diagnosis(self) -> dict[str, float]:
        sums = {"moved": self.sums["events"], "moved_rows": self.sums["rows"]}
        return {**sums, "moved_programmings": self.sums["programmings"], "moved_allowance": self.allowance}

    # Counters are kept on the host: as buffers they would be cast with the model, and stop counting at 2^24.

    def get_extra_state(self) -> Tensor:
        own = {"allowance": self.allowance, "batches": self.batches, "sums": self.sums, "warned": self.warned}
        return pack({**own, "events": [asdict(event) for event in self.events]})

    def set_extra_state(self, state: object) -> None:
        saved = unpack(state)
        self.allowance, self.batches = float(saved["allowance"]), int(saved["batches"])
        self.sums, self.warned = dict(saved["sums"]), bool(saved["warned"])
        self.events = [Event(**event) for event in saved["events"]]
