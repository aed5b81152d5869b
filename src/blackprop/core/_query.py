"""Queries, their purposes, and the count of their rows, programmings and actions."""

from __future__ import annotations

import enum
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from blackprop.core._stacking import MANY, equal
from blackprop.core.capabilities._capability import Capability


class Purpose(enum.Enum):
    """The reason for a query; the ledger counts by it."""

    FORWARD = "forward"
    PARAMETER = "parameter"
    SURROGATE = "surrogate"
    EVALUATE = "evaluate"
    CALIBRATE = "calibrate"


# The numbers of the purposes in a round's table, in recordings and on the wire: they never change.
CODES = {
    Purpose.FORWARD: 0,
    Purpose.PARAMETER: 1,
    Purpose.SURROGATE: 2,
    Purpose.EVALUATE: 3,
    Purpose.CALIBRATE: 4,
}
PURPOSES = {code: purpose for purpose, code in CODES.items()}


@dataclass(frozen=True, eq=False)
class Query:
    """The rows `x` measured at the setting `theta`.

    - `x` (rows, *in_shape): the rows. For a capability, of its own row shape.
    - `theta` (P,): the setting.
    - `purpose`: the reason, by which the ledger counts.
    - `capability`: the type of the action; None for an ordinary reading.
    """

    x: Tensor
    theta: Tensor
    purpose: Purpose
    capability: type[Capability] | None = None


@dataclass
class Count:
    """Rows and programmings by purpose, and the units of each capability by its name."""

    rows: Counter[Purpose] = field(default_factory=Counter)
    programmings: Counter[Purpose] = field(default_factory=Counter)
    actions: Counter[str] = field(default_factory=Counter)

    def add(self, other: Count) -> None:
        self.rows.update(other.rows)
        self.programmings.update(other.programmings)
        self.actions.update(other.actions)

    def subtract(self, other: Count) -> None:
        self.rows.subtract(other.rows)
        self.programmings.subtract(other.programmings)
        self.actions.subtract(other.actions)

    def entries(self) -> Count:
        """Return the count without entries of zero, for comparisons."""
        return Count(*(Counter({k: n for k, n in counts.items() if n}) for counts in self._all()))

    def _all(self) -> tuple[Counter[Any], Counter[Any], Counter[Any]]:
        return self.rows, self.programmings, self.actions

    def __bool__(self) -> bool:
        return bool(self.rows or self.programmings or self.actions)


def same_setting(a: Tensor | None, b: Tensor) -> bool:
    """Return whether the settings `a` and `b` are equal in value, dtype and device; False if `a` is None."""
    if a is None or a is b:
        return a is b
    if (a.shape, a.dtype, a.device) != (b.shape, b.dtype, b.device):
        return False
    if a.numel() < MANY:
        return torch.equal(a, b)
    return torch.equal(a[:64], b[:64]) and equal(a, b)  # settings that differ mostly do so from the first numbers on
