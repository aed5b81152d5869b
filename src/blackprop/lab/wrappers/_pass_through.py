"""The base of the wrappers of the lab: they pass rounds through, and book the queries that they add."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from torch import Tensor

from blackprop.core._query import Count, Query
from blackprop.core._round import Round
from blackprop.core.capabilities._capability import ALL, Survives
from blackprop.devices import Device, Wrapper
from blackprop.errors import BusyError, UnreachableError

NOT_ASKED = (UnreachableError, BusyError)  # after other failures, the round may have been measured
Asked = tuple[Sequence[Query], Tensor | None]  # a round, and the setting that the device held before it


class PassThrough(Wrapper):
    """A wrapper that writes settings and sends rows unchanged, so every capability survives it.

    `programmed` is that of the device, after a failure too. The driver's count of a round, from `programmed`, and
    `repeated`, the queries beyond it, together are the queries of the device.
    """

    survives: ClassVar[Survives] = ALL

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self._again = Count()

    @property
    def programmed(self) -> Tensor | None:
        return self.device.programmed

    def forget(self) -> None:
        self.device.forget()

    def program(self, theta: Tensor, /) -> None:
        self.forget()
        self.device.program(theta)

    def read(self, x: Tensor, /) -> Tensor:
        return self.device.read(x)

    def measure(self, queries: Sequence[Query], /) -> list[Tensor]:
        return self.device.measure(queries)

    def repeated(self) -> Count:
        inner, total = self.device.repeated(), self._again
        if not total:
            return inner  # the usual case
        self._again = Count()
        total.add(inner)
        return total.entries()

    def _asked(self, queries: Sequence[Query], asked: list[Asked]) -> list[Tensor]:
        """Measure, and append the round to `asked` if it may have been measured."""
        at = self.programmed
        try:
            readings = self.device.measure(queries)
        except NOT_ASKED:
            raise
        except BaseException:
            asked.append((queries, at))
            raise
        asked.append((queries, at))
        return readings

    def _book(self, once: Asked, asked: Iterable[Asked]) -> None:
        """Book the rounds of `asked` beyond the one that the driver books, `once`."""
        for round_ in asked:
            self._again.add(self._spending(*round_))
        self._again.subtract(self._spending(*once))

    def _spending(self, queries: Sequence[Query], held: Tensor | None) -> Count:
        return Round.of(queries).spending(held, self.rows_each, self.declaration)
