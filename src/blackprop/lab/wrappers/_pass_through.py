"""What the wrappers of the lab share: they hand on what they are asked, and book what they asked beyond it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

from blackprop.core._capability import ALL
from blackprop.core._query import Count, Query
from blackprop.core._round import Round
from blackprop.devices import Device, Wrapper
from blackprop.errors import BusyError, UnreachableError

NOT_ASKED = (UnreachableError, BusyError)  # of other failures, nobody knows whether the device was asked
Asked = tuple[Sequence[Query], Tensor | None]  # a round, and the setting that the device held before it


class PassThrough(Wrapper):
    """A wrapper that writes the settings and sends the rows that it is given, whatever else it does; so every
    capability survives it.

    What the device holds, it holds: `programmed` is the device's own, after a failure too. So the driver's count of a
    round, from `programmed`, and `repeated`, what was asked beyond that, together are what the device was asked.
    """

    survives = ALL

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
        """Measure, and write into `asked` what may have been."""
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
        """Book what was `asked` beyond the round that the driver books, `once`."""
        for round_ in asked:
            self._again.add(self._spending(*round_))
        self._again.subtract(self._spending(*once))

    def _spending(self, queries: Sequence[Query], held: Tensor | None) -> Count:
        return Round.of(queries).spending(held, self.rows_each, self.declaration)
