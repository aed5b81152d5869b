"""The statistics of a server, for its status."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

from blackprop.core._query import Count
from blackprop.lab.remote.shared._keys import fingerprint
from blackprop.lab.wrappers._printable import printable

WINDOW = 10  # s, over which rates are taken
FAULTS, CLIENTS = 10, 64


class Statistics:
    """Rounds, rows and programmings, their rates, the clients and the faults. Bounded, however long a server runs."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._started = clock()
        self.rounds = self.rows = self.programmings = self.faults = self.refused = 0
        self._last: deque[tuple[float, str]] = deque(maxlen=FAULTS)
        self._seconds: deque[list[int]] = deque(maxlen=WINDOW + 1)  # second, rows, programmings
        self._clients: OrderedDict[bytes, dict[str, Any]] = OrderedDict()

    def seen(self, user: bytes) -> None:
        client = self._clients.get(user)
        if client is None:
            client = self._clients[user] = {"rounds": 0, "rows": 0, "seen": 0.0}
            if len(self._clients) > CLIENTS:
                self._clients.popitem(last=False)
        client["seen"] = self._clock()
        self._clients.move_to_end(user)

    def measured(self, user: bytes, spent: Count) -> None:
        rows, programmings = sum(spent.rows.values()), sum(spent.programmings.values())
        self.rounds, self.rows, self.programmings = self.rounds + 1, self.rows + rows, self.programmings + programmings
        second = int(self._clock())
        if not self._seconds or self._seconds[-1][0] != second:
            self._seconds.append([second, 0, 0])
        self._seconds[-1][1] += rows
        self._seconds[-1][2] += programmings
        if (client := self._clients.get(user)) is not None:
            client["rounds"] += 1
            client["rows"] += rows

    def fault(self, text: str) -> None:
        self.faults += 1
        self._last.append((self._clock(), printable(text, 200)))

    def report(self) -> dict[str, Any]:
        now = self._clock()
        recent = [entry for entry in self._seconds if now - WINDOW <= entry[0]]
        span = min(float(WINDOW), max(1.0, now - self._started))
        return {
            "uptime": now - self._started,
            "rounds": self.rounds,
            "rows": self.rows,
            "programmings": self.programmings,
            "rows_per_second": sum(entry[1] for entry in recent) / span,
            "programmings_per_second": sum(entry[2] for entry in recent) / span,
            "faults": self.faults,
            "refused": self.refused,
            "last_faults": [[now - at, text] for at, text in self._last],
            "clients": [
                {
                    "key": name_of(user),
                    "seen": now - client["seen"],
                    "rounds": client["rounds"],
                    "rows": client["rows"],
                }
                for user, client in reversed(self._clients.items())
            ],
        }


def name_of(user: bytes) -> str:
    """A client as people see it."""
    return fingerprint(user) if user else "no key"
