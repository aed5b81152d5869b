"""A round on its way from a client to a server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from blackprop.errors import BusyError
from blackprop.lab.remote.shared._wire import Message


@dataclass
class Outgoing:
    """A round on its way: its number, the names of its kinds of queries, its arrays."""

    number: int
    fresh: bool
    kinds: list[str]
    arrays: list[np.ndarray]
    said: int = 0  # messages about it so far
    cancelled: bool = False

    def same(self, kinds: Sequence[str], arrays: Sequence[np.ndarray]) -> bool:
        """Whether a round of these kinds and arrays is the same one."""
        return self.kinds == kinds and all(
            a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(self.arrays, arrays, strict=True)
        )


def not_taken(reply: Message) -> bool:
    """Whether an error says that the server has no place for a round yet.

    A driver's own `BusyError` does not: it counts rows or programmings.
    """
    return reply["error"] == BusyError.__name__ and not (reply["rows"] or reply["programmings"])
