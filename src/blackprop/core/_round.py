"""A round of queries: the one form in which queries are checked, counted, split, sent and recorded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import NamedTuple, final, overload

import numpy as np
import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._query import CODES, PURPOSES, Count, Query, same_setting
from blackprop.core._stacking import all_finite, equal, joined, stacked
from blackprop.core.capabilities._capability import Capability
from blackprop.errors import ArgumentError, LimitError, ShapeError


class Run(NamedTuple):
    """Consecutive queries `first` to `last` (exclusive) at one setting, `Round.settings[setting]`."""

    setting: int
    first: int
    last: int


START, SIZE, SETTING, PURPOSE, KIND = range(5)  # the columns of the table
COMPARED = 2**20  # numbers of settings that are compared at once
FEW = 16  # settings that are compared one by one, which is faster


@final
class Round(Sequence[Query]):
    """A round of queries, in three parts.

    - `settings` (T, P): the distinct settings, in the order of their first use.
    - `parts`: the distinct rows of each kind of query, `(R, *row_shape)`; the kinds are in `kinds`, None for readings.
    - `table` (Q, 5), whole numbers: for each query its first row, its number of rows, its setting, the code of its
      purpose, and its kind.

    Rows and settings that several queries share are held once. A round is a sequence of its queries; those that share
    rows or a setting share the tensor. Make one with `Round.of(queries)`. The parts are never written to.
    """

    parts: tuple[Tensor, ...]
    settings: Tensor
    kinds: tuple[type[Capability] | None, ...]
    table: np.ndarray

    def __init__(
        self,
        parts: Sequence[Tensor],
        settings: Tensor,
        table: np.ndarray,
        kinds: Sequence[type[Capability] | None] = (None,),
    ) -> None:
        self.parts, self.settings, self.table, self.kinds = tuple(parts), settings, table, tuple(kinds)
        self.plain: bool = self.kinds == (None,)
        """Whether all queries are ordinary readings."""
        self._checked: list[object] = []  # the limits it was checked against

    @classmethod
    def of(cls, queries: Iterable[Query], spec: Declaration | None = None) -> Round:
        """Return the round of these queries.

        **Raises** `ShapeError` if rows or settings do not fit together, or to `spec`.
        """
        if isinstance(queries, Round):
            return queries
        if isinstance(queries, list) and len(queries) == 1:  # the most frequent case
            (query,) = queries
            size = query.x.shape[0] if query.x.dim() else 0  # `check` refuses a single number
            only = np.array([(0, size, 0, CODES[query.purpose], 0)], np.int64)
            return cls((query.x.detach(),), query.theta.detach()[None], only, (query.capability,))
        rows: dict[type[Capability] | None, dict[int, tuple[Tensor, int]]] = {}
        settings: dict[int, tuple[Tensor, int]] = {}
        ends: dict[type[Capability] | None, int] = {}
        table: list[tuple[int, int, int, int, int]] = []
        order: dict[type[Capability] | None, int] = {}
        for query in queries:
            x, theta, kind = query.x, query.theta, query.capability
            mine = rows.setdefault(kind, {})
            known = mine.get(id(x))
            if known is None:
                if spec is not None:
                    _check_rows_shape(x, kind, spec)
                known = mine[id(x)] = (x, ends.get(kind, 0))
                ends[kind] = known[1] + len(x)
            place = settings.get(id(theta))
            if place is None:
                if spec is not None:
                    spec.theta.check_shape(theta)
                place = settings[id(theta)] = (theta, len(settings))
            code = order.setdefault(kind, len(order))
            table.append((known[1], len(x), place[1], CODES[query.purpose], code))
        parts = [joined([x for x, _ in rows[kind].values()]) for kind in order]
        thetas = [theta for theta, _ in settings.values()]
        return cls(parts, stacked(thetas), np.array(table, np.int64).reshape(-1, 5), tuple(order) or (None,))

    @property
    def rows(self) -> Tensor:
        """The distinct rows of ordinary readings (R, *in_shape)."""
        return self.parts[self.kinds.index(None)]

    @cached_property
    def _queries(self) -> list[Query]:
        # A part of a long round uses few of its settings, and makes no object of the others.
        thetas = dict(enumerate(self.settings)) if len(self.settings) <= len(self.table) else {}
        blocks: dict[tuple[int, int, int], Tensor] = {}
        found = []
        for start, size, setting, code, kind in self.table.tolist():
            x = blocks.get((kind, start, size))
            if x is None:
                part = self.parts[kind]
                x = blocks[kind, start, size] = part if size == len(part) else part[start : start + size]
            if setting not in thetas:
                thetas[setting] = self.settings[setting]
            found.append(Query(x, thetas[setting], PURPOSES[code], self.kinds[kind]))
        return found

    @cached_property
    def runs(self) -> list[Run]:
        """Consecutive queries at one setting: the programmings of the round, but for one that the device holds."""
        if len(self.table) == 1:
            return [Run(int(self.table[0, SETTING]), 0, 1)]
        starts, which = self._starts, self.table[:, SETTING].tolist()
        return [Run(which[n], n, last) for n, last in zip(starts, [*starts[1:], len(which)], strict=True)]

    @cached_property
    def _starts(self) -> list[int]:
        """The number of the first query of each run."""
        if len(self.table) < 2:
            return list(range(len(self.table)))
        which = self.table[:, SETTING]
        moved = [n + 1 for n in (which[1:] != which[:-1]).nonzero()[0].tolist()]
        if len(moved) <= FEW:
            return [0, *(n for n in moved if not equal(self.settings[which[n]], self.settings[which[n - 1]]))]
        step, found = max(1, COMPARED // max(1, self.settings.shape[1])), [0]
        for some in (np.array(moved[at : at + step]) for at in range(0, len(moved), step)):
            one, other = (self.settings[torch.from_numpy(which[some - k])] for k in (0, 1))
            found += some[(one != other).any(1).cpu().numpy()].tolist()
        return found

    @property
    def last_setting(self) -> Tensor:
        """The setting (P,) of the last query."""
        return self.settings[int(self.table[-1, SETTING])]

    def __len__(self) -> int:
        return len(self.table)

    def __iter__(self) -> Iterator[Query]:
        return iter(self._queries)

    @overload
    def __getitem__(self, index: int, /) -> Query: ...
    @overload
    def __getitem__(self, index: slice, /) -> list[Query]: ...
    def __getitem__(self, index: int | slice, /) -> Query | list[Query]:
        return self._queries[index]

    def only(self, first: int, last: int) -> Round:
        """The queries `first` to `last` (exclusive), over the same rows and settings."""
        if (first, last) == (0, len(self)):
            return self
        part = Round(self.parts, self.settings, self.table[first:last], self.kinds)
        part._checked = self._checked  # the same numbers
        return part

    def pieces(self, queries: int) -> Iterator[Round]:
        """The round in parts of at most so many queries, in order."""
        return (self.only(at, min(at + queries, len(self))) for at in range(0, len(self), queries))

    def rows_of(self, run: Run) -> Tensor:
        """The rows (rows, *in_shape) of a run of readings; one object for runs of one query that share their rows."""
        if run.last - run.first == 1:
            return self[run.first].x
        starts, ends = self.table[run.first : run.last, START], np.cumsum(self.table[run.first : run.last, SIZE])
        start = starts[0]
        if np.array_equal(starts[1:], start + ends[:-1]):  # one behind the other
            return self.rows[start : start + ends[-1]]
        return torch.cat([query.x for query in self[run.first : run.last]])

    def settings_of(self, runs: Sequence[Run]) -> Tensor:
        """The settings (S, P) of the runs; without a copy where they lie one behind the other."""
        places = [run.setting for run in runs]
        if places == list(range(places[0], places[0] + len(places))):
            return self.settings[places[0] : places[0] + len(places)]
        return self.settings[places]

    def copy(self) -> Round:
        """Return the round with copies of the rows, contiguous and without pending conjugation, for a device driver."""
        own: list[Tensor] = []
        for part in self.parts:
            plain = part.resolve_conj().resolve_neg().contiguous()
            own.append(plain.clone() if plain.data_ptr() == part.data_ptr() else plain)
        copy = Round(own, self.settings, self.table, self.kinds)
        copy._checked = self._checked  # the same numbers
        return copy

    def sizes(self) -> list[int]:
        """The number of rows of each query."""
        return self.table[:, SIZE].tolist()

    def check(self, spec: Declaration) -> None:
        """Raise unless every row and every setting of the round may be sent to the device.

        **Raises** `ShapeError` for a wrong shape, `ArgumentError` for complex rows, `LimitError` for a value that is
        not finite or outside the limits, `IncompatibleError` for a capability that the device does not declare.
        """
        limits = (id(spec.theta), spec.in_shape, spec.x_low, spec.x_high, spec.capabilities)
        if limits in self._checked:
            return
        if self.settings.dim() != 2 or self.settings.shape[1] != spec.theta.size:
            raise ShapeError(
                f"a setting of this device has shape ({spec.theta.size},), got {tuple(self.settings.shape[1:])}"
            )
        for kind, part in zip(self.kinds, self.parts, strict=True):
            _check_rows_shape(part, kind, spec)
        finite = all_finite((self.settings, *self.parts))
        if spec.theta.limited or not finite:
            spec.theta.check_all(self.settings)
        for code, (kind, part) in enumerate(zip(self.kinds, self.parts, strict=True)):
            if not finite and not bool(part.isfinite().all()):
                raise LimitError(self._not_finite(code, part, spec))
            if kind is None:
                if spec.x_limited:
                    spec.check_rows(part)
            else:
                spec.capability(kind).check_rows(part, spec)
        self._checked.append(limits)

    def _not_finite(self, code: int, part: Tensor, spec: Declaration) -> str:
        bad = int((~part.isfinite()).flatten(1).any(1).nonzero()[0])
        start, size = self.table[:, START], self.table[:, SIZE]
        reads = ((self.table[:, KIND] == code) & (start <= bad) & (bad < start + size)).nonzero()[0]
        if len(reads):
            start, _, _, purpose, _ = self.table[reads[0]].tolist()
            return f"row {bad - start} of the {PURPOSES[purpose].value} query to {spec.name} is not finite"
        return f"row {bad} of a round to {spec.name} is not finite, and no query reads it"

    def spending(self, programmed: Tensor | None, rows_each: int = 1, spec: Declaration | None = None) -> Count:
        """Return the rows, programmings and actions of the round.

        A run is one programming, booked under the purpose of its first query. The first run is free if the device holds
        its setting already.

        - `programmed` (P,): the setting that the device holds; None if unknown.
        - `rows_each` (default 1): rows with which the device is driven for one row of a reading.
        - `spec`: describes the capabilities; a round without capabilities needs none.
        """
        total = Count()
        starts = self._starts if len(self.table) > 1 else list(range(len(self.table)))
        _, sizes, settings, codes, kinds = self.table.T.tolist()
        if starts and same_setting(programmed, self.settings[settings[0]]):
            starts = starts[1:]
        for n in starts:
            total.programmings[PURPOSES[codes[n]]] += 1
        for number, (size, code, kind) in enumerate(zip(sizes, codes, kinds, strict=True)):
            capability = self.kinds[kind]
            if capability is None:
                total.rows[PURPOSES[code]] += rows_each * size
                continue
            amount = self[number].x
            spent = spec.capability(capability).amount(amount) if spec is not None else len(amount)
            total.actions[capability.name] += spent
            if capability.unit == "rows":
                total.rows[PURPOSES[code]] += spent
        return total

    def __repr__(self) -> str:
        kinds = [k.name for k in self.kinds if k is not None]
        also = f", {', '.join(kinds)}" if kinds else ""
        return f"Round({len(self)} queries, {sum(self.sizes())} rows, {len(self.settings)} settings{also})"


def _check_rows_shape(x: Tensor, kind: type[Capability] | None, spec: Declaration) -> None:
    wanted = spec.in_shape if kind is None else spec.row_shape(kind)
    if x.dim() == 0 or tuple(x.shape[1:]) != wanted:
        what = spec.name if kind is None else f"`{kind.name}` of {spec.name}"
        raise ShapeError(f"{what} takes rows of shape {wanted}, got {tuple(x.shape)}")
    if x.is_complex():
        what = spec.name if kind is None else f"`{kind.name}` of {spec.name}"
        raise ArgumentError(
            f"{what} takes real rows, got {x.dtype}: a field is sent as its real and its imaginary part, where a "
            "capability takes both"
        )
