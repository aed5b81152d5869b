"""Readings that cannot be right are measured again, or refused."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count as counting
from typing import Any

import torch
from torch import Tensor

from blackprop.core._query import Query
from blackprop.core._round import Round
from blackprop.devices import Device
from blackprop.errors import ArgumentError, ReadingError
from blackprop.lab.wrappers._detectors import Detector, NotFinite, Outlier, ReadingFault, Saturated, Stuck
from blackprop.lab.wrappers._pass_through import NOT_ASKED, Asked, PassThrough


@dataclass(frozen=True)
class Remeasure:
    """Measure the rows concerned again, up to `attempts` times; then refuse them."""

    attempts: int = 3

    def __post_init__(self) -> None:
        if not (isinstance(self.attempts, int) and self.attempts >= 1):
            raise ArgumentError(f"`Remeasure(attempts=...)` must be a whole number from 1, got {self.attempts}")


@dataclass(frozen=True)
class Refuse:
    """Raise `ReadingError`, naming the rows and outputs."""


Policy = Remeasure | Refuse


class Checked(PassThrough):
    """Checks every reading of a round, and measures faulty rows again or refuses them.

    The faulty rows of all queries of the round are measured again together in one round and replaced; each is booked in
    `repeated()`. Readings of capabilities, and those of direct calls of `read`, are not checked.

    **Arguments**, the first four each `Remeasure(attempts)`, `Refuse()`, or None for no check:

    - `not_finite` (default `Remeasure()`): NaN or infinite values.
    - `saturated` (default None): values at or beyond the rails of the detector, `low` and `high` (its units).
    - `stuck` (default None): outputs that do not change while the rows do (`detectors.Stuck`).
    - `outlier` (default None): rows far from all others whose repetition disagrees (`detectors.Outlier`).
    - `low`, `high` (default None): the rails.

    The rules for `stuck` and `outlier` practically never find a fault on a healthy device, at any scale. `found` counts
    the faulty rows by `ReadingFault`.

    **Raises** `ReadingError` for rows that are still faulty after the last attempt, or are to be refused.
    """

    def __init__(
        self,
        device: Device,
        *,
        not_finite: Policy | None = Remeasure(),
        saturated: Policy | None = None,
        stuck: Policy | None = None,
        outlier: Policy | None = None,
        low: float | None = None,
        high: float | None = None,
    ) -> None:
        super().__init__(device)
        policies = {"not_finite": not_finite, "saturated": saturated, "stuck": stuck, "outlier": outlier}
        for name, policy in policies.items():
            if not (policy is None or isinstance(policy, (Remeasure, Refuse))):
                raise ArgumentError(f"`Checked({name}=...)` must be Remeasure(...), Refuse() or None, got {policy!r}")
        if (saturated is None) != (low is None and high is None):
            raise ArgumentError("`Checked(saturated=..., low=..., high=...)`: a policy and a rail go together")
        if low is not None and high is not None and not low < high:
            raise ArgumentError(f"`Checked(low=..., high=...)` must have low < high, got {low} and {high}")
        self._stuck = None if stuck is None else Stuck(math.prod(self.out_shape))
        pairs = [
            (NotFinite(), not_finite),
            (Saturated(low, high), saturated),
            (self._stuck, stuck),
            (Outlier(), outlier),
        ]
        self._policies: dict[Detector, Policy] = {d: p for d, p in pairs if d is not None and p is not None}
        self.found: Counter[ReadingFault] = Counter()

    def measure(self, queries: Sequence[Query], /) -> list[Tensor]:
        held, queries = self.programmed, Round.of(queries)
        readings = self.device.measure(queries)
        if not queries.plain:
            return readings  # the detectors know ordinary readings alone
        if not self._usable(queries, readings):
            return readings  # the driver refuses it in its own words
        y = _joined(readings)
        differing = _differing(queries) if self._stuck is not None else None
        masks = {detector: detector.look(y, differing) for detector in self._policies}
        # One look at the accelerator for all of them.
        bad = torch.stack([mask.any() for mask in masks.values()]).tolist() if masks else []
        if any(bad):
            marked = {detector: mask for (detector, mask), any_ in zip(masks.items(), bad, strict=True) if any_}
            y = self._repaired(queries, y.clone(), marked, held)
            parts = y.split([len(query.x) for query in queries])
            readings = [part.reshape(len(part), *self.out_shape) for part in parts]
        if self._stuck is not None:
            self._stuck.settle(y)
        return readings

    def _repaired(
        self, queries: Sequence[Query], y: Tensor, marked: dict[Detector, Tensor], held: Tensor | None
    ) -> Tensor:
        asked: list[Asked] = [(queries, held)]
        for detector, mask in marked.items():
            if detector.convicts_at_once:
                self._count(detector, mask)
        try:
            for attempt in counting():
                for detector, mask in marked.items():
                    if attempt >= self._attempts(detector):
                        raise self._refusal(queries, detector, mask, attempt)
                rows = torch.stack(list(marked.values())).any(0).any(1).nonzero().flatten()
                again = _only(queries, rows.cpu())
                readings = self._ask_again(again, asked)
                if not self._usable(again, readings):
                    raise ReadingError(f"{self.device} was asked for {len(rows)} rows again, and answered otherwise")
                old, new = y[rows], _joined(readings)
                y[rows] = new
                marked = self._judged(queries, rows, old, new, marked, len(y))
                if not marked:
                    return y
        finally:
            self._book((queries, held), asked)
        raise AssertionError("unreachable")

    def _ask_again(self, again: Sequence[Query], asked: list[Asked]) -> list[Tensor]:
        try:
            return self._asked(again, asked)
        except NOT_ASKED as error:
            # The round was measured, these rows were not: the caller must not count the round as not measured.
            raise TimeoutError(f"{self.device} could not be asked for rows of a round again: {error}") from error

    def _judged(
        self,
        queries: Sequence[Query],
        rows: Tensor,
        old: Tensor,
        new: Tensor,
        marked: dict[Detector, Tensor],
        total: int,
    ) -> dict[Detector, Tensor]:
        still: dict[Detector, Tensor] = {}
        for detector, policy in self._policies.items():
            before = marked[detector][rows] if detector in marked else torch.zeros_like(new, dtype=torch.bool)
            wrong = guilty = detector.judge(old, new, before)
            if isinstance(detector, Outlier):
                guilty = detector.convicted(old, new, before)
            self._count(detector, guilty)
            whole = torch.zeros(total, new.shape[1], dtype=torch.bool, device=new.device)
            if isinstance(detector, Outlier) and isinstance(policy, Refuse) and bool(guilty.any()):
                whole[rows] = guilty
                raise self._refusal(queries, detector, whole, 1)
            if bool(wrong.any()):
                whole[rows] = wrong
                still[detector] = whole
        return still

    def _count(self, detector: Detector, wrong: Tensor) -> None:
        if rows := int(wrong.any(1).sum()):
            self.found[detector.finding] += rows

    def _attempts(self, detector: Detector) -> int:
        policy = self._policies[detector]
        # A suspect is refused once a repeat has convicted it.
        return policy.attempts if isinstance(policy, Remeasure) else int(not detector.convicts_at_once)

    def _refusal(self, queries: Sequence[Query], detector: Detector, mask: Tensor, attempts: int) -> ReadingError:
        rows = mask.any(1).nonzero().flatten().tolist()
        starts = torch.tensor([len(query.x) for query in queries]).cumsum(0)
        index = int(torch.searchsorted(starts, rows[0], right=True))
        row = rows[0] - (int(starts[index]) - len(queries[index].x))
        channels = mask[rows[0]].nonzero().flatten().tolist()
        outputs = ", ".join(map(str, channels[:8])) + (", …" if len(channels) > 8 else "")
        where = f"row {row} of the {queries[index].purpose.value} query {index} of {len(queries)}, output {outputs}"
        others = f" (and {len(rows) - 1} other rows)" if len(rows) > 1 else ""
        after = f", also after measuring it again, attempts: {attempts}" if attempts else ""
        return ReadingError(f"{self.device}: {where}{others} is {detector.finding.value}{after}")

    def _usable(self, queries: Sequence[Query], readings: list[Tensor]) -> bool:
        return (
            bool(queries)
            and len(readings) == len(queries)
            and all(
                isinstance(y, Tensor)
                and y.shape == (len(query.x), *self.out_shape)
                and y.dtype == query.x.dtype
                and y.device == query.x.device
                for query, y in zip(queries, readings, strict=True)
            )
            and any(len(y) for y in readings)
        )

    def state_dict(self) -> dict[str, Any]:
        own = {"found": {finding.name: n for finding, n in self.found.items()}}
        return {**super().state_dict(), **own, "stuck": self._stuck.state() if self._stuck is not None else None}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        found = Counter({ReadingFault[name]: n for name, n in state["found"].items()})
        stuck = state["stuck"]
        if (stuck is None) != (self._stuck is None):
            raise ValueError(f"{self} looks for other findings than the one whose state it was given")
        super().load_state_dict(state)
        if self._stuck is not None and stuck is not None:
            self._stuck.load(stuck)
        self.found = found


def _joined(readings: list[Tensor]) -> Tensor:
    """All rows of a round (rows, d_out)."""
    return readings[0].flatten(1) if len(readings) == 1 else torch.cat([y.flatten(1) for y in readings])


def _differing(queries: Sequence[Query]) -> Tensor:
    """Whether a row, as sent, differs from the one before it in its query (rows,)."""
    found: dict[int, Tensor] = {}  # many settings share their rows
    for query in queries:
        if id(query.x) not in found:
            rows = query.x.flatten(1)
            changes = (rows[1:] != rows[:-1]).any(1)
            found[id(query.x)] = torch.cat((changes.new_zeros(min(1, len(rows))), changes))
    return torch.cat([found[id(query.x)] for query in queries])


def _only(queries: Sequence[Query], rows: Tensor) -> list[Query]:
    """The queries, of these rows of the round alone."""
    chosen: Sequence[Query] = []
    start = 0
    for query in queries:
        mine = rows[(rows >= start) & (rows < start + len(query.x))] - start
        start += len(query.x)
        if len(mine):
            chosen.append(Query(query.x[mine.to(query.x.device)], query.theta, query.purpose))
    return chosen
