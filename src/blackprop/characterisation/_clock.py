"""The time of a programming and of a row, measured by the clock during all other queries."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from blackprop.characterisation._findings import Finding, sure, unknown
from blackprop.core._declaration import Cost, Declaration
from blackprop.core._query import Count, Query
from blackprop.core._round import Round
from blackprop.devices import Device

ENOUGH = 12  # rounds
TOLD = 2e-6  # s: less than this is the time of our own arithmetic


class Clock:
    """A device whose rounds are timed."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.rounds: list[tuple[float, float, float]] = []  # programmings, rows, seconds

    @property
    def declaration(self) -> Declaration:
        return self.device.declaration

    @property
    def programmed(self) -> Tensor | None:
        return self.device.programmed

    def repeated(self) -> Count:
        return self.device.repeated()

    def measure(self, queries: Sequence[Query], /) -> list[Tensor]:
        spec = self.declaration
        spent = Round.of(queries).spending(self.programmed, spec.rows_each, spec)
        begun = time.perf_counter()
        readings = self.device.measure(queries)
        seconds = time.perf_counter() - begun
        self.rounds.append((sum(spent.programmings.values()), sum(spent.rows.values()), seconds))
        return readings

    def cost(self) -> Cost | None:
        """Seconds a programming and a row, by least squares relative to each round's own time; None if unknown."""
        timed = torch.tensor(self.rounds[1:], dtype=torch.float64)  # the first may include initialisation
        if len(timed) < ENOUGH:
            return None
        design = timed[:, :2] / timed[:, 2:]
        both = torch.linalg.lstsq(design, torch.ones(len(timed), 1, dtype=torch.float64)).solution[:, 0]
        if bool((both < 0).any()):  # one alone
            alone = design.sum(0) / design.square().sum(0)
            which = int(((1 - design * alone).square().sum(0)).argmin())
            both = torch.zeros(2, dtype=torch.float64)
            both[which] = alone[which]
        return replace(self.declaration.cost, programming=_rounded(float(both[0])), row=_rounded(float(both[1])))


def cost(clock: Clock) -> Finding:
    """Return the measured seconds beside the declared ones."""
    measured, said = clock.cost(), clock.declaration.cost
    if measured is None:
        return unknown("cost", f"{len(clock.rounds)} rounds are too few to time")
    text = f"by the clock, over {len(clock.rounds)} rounds; "
    text += f"declared are {_plain(said)}" if said.timed else "none is declared"
    return Finding("cost", _plain(measured), True, text, sure(len(clock.rounds)))


def _plain(cost: Cost) -> str:
    return f"{cost.programming:.3g} s a programming, {cost.row:.3g} s a row"


def _rounded(seconds: float) -> float:
    """Round to one digit, the accuracy of a clock under load; 0 for times too short to measure."""
    if seconds < TOLD:
        return 0.0
    return float(f"{seconds:.0e}")
