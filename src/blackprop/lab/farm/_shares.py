"""The shares of several alike devices in a round, by their declared costs alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from blackprop.core._declaration import Cost
from blackprop.core._query import Query, same_setting

UNDECLARED = Cost(programming=1.0)  # a setting weighs one, and rows are not split
WORTH = 0.9  # of the time that it takes otherwise: splitting rows must save this much, since it writes more settings


@dataclass(frozen=True, order=True)
class Piece:
    """Rows `start` to `stop` of the query at `index` of a round."""

    index: int
    start: int
    stop: int


Part = list[Piece]  # consecutive pieces at one setting, served by one device


def shares(
    queries: Sequence[Query], pieces: list[Piece], costs: Sequence[Cost], held: Sequence[Tensor | None]
) -> list[list[Piece]]:
    """Divide `pieces` of a round among devices of the given `costs` (s), which hold the settings `held`.

    Consecutive queries at one setting stay together. Each setting goes to the device that would finish it first, the
    first such device on a tie; a device does not write a setting that it holds. If it saves a tenth of the time or
    more, the rows at one setting are divided as well. Equal rounds have equal shares.
    """
    parts = _together(queries, pieces)
    names = _names(queries, parts)
    holds = [_name_of(theta, queries, parts, names) for theta in held]
    if not all(cost.programming or cost.row for cost in costs):
        costs = [UNDECLARED] * len(costs)
    best, seconds = _in_turn(parts, names, costs, holds)
    sending = sum(piece.stop - piece.start for piece in pieces) * max(cost.row for cost in costs)
    if sending < (1 - WORTH) * seconds:  # dividing rows can save no more than that
        return best
    for ways in range(2, 1 + min(len(costs), 4 * len(costs) // max(1, len(parts)))):
        divided = [_divided(part, ways) for part in parts]
        each = [name for name, some in zip(names, divided, strict=True) for _ in some]
        other, takes = _in_turn([part for some in divided for part in some], each, costs, holds)
        if takes < WORTH * seconds:
            best, seconds = other, takes
    return best


def cut(queries: Sequence[Query], pieces: list[Piece], cache: dict[tuple[int, int, int], Tensor]) -> list[Query]:
    """The pieces as queries. Rows that many queries share stay shared, by way of the `cache` of a round."""
    found = []
    for piece in pieces:
        query = queries[piece.index]
        if piece.stop - piece.start == len(query.x):
            found.append(query)
            continue
        x = cache.setdefault((id(query.x), piece.start, piece.stop), query.x[piece.start : piece.stop])
        found.append(replace(query, x=x))
    return found


def joined(queries: Sequence[Query], answers: dict[Piece, Tensor]) -> list[Tensor]:
    """The readings of the queries, in order, from those of their pieces."""
    found: list[list[Tensor]] = [[] for _ in queries]
    for piece in sorted(answers):
        found[piece.index].append(answers[piece])
    return [some[0] if len(some) == 1 else torch.cat(some) for some in found]


def _together(queries: Sequence[Query], pieces: list[Piece]) -> list[Part]:
    parts: list[Part] = []
    for piece in pieces:
        if parts and same_setting(queries[parts[-1][-1].index].theta, queries[piece.index].theta):
            parts[-1].append(piece)
        else:
            parts.append([piece])
    return parts


def _names(queries: Sequence[Query], parts: list[Part]) -> list[int]:
    """A number for the setting of each part, the same where a setting comes back as the same tensor."""
    known: dict[int, int] = {}
    return [known.setdefault(id(queries[part[0].index].theta), len(known)) for part in parts]


def _name_of(theta: Tensor | None, queries: Sequence[Query], parts: list[Part], names: list[int]) -> int | None:
    """The number of a setting that is held; None where the round does not ask for it."""
    for part, name in zip(parts, names, strict=True):
        if same_setting(theta, queries[part[0].index].theta):
            return name
    return None


def _divided(part: Part, ways: int) -> list[Part]:
    """A part's rows in so many parts of nearly equal size, as far as there are rows."""
    total = sum(piece.stop - piece.start for piece in part)
    ends = [total * (i + 1) // ways for i in range(ways)]
    found: list[Part] = [[] for _ in range(ways)]
    way = passed = 0
    for piece in part:
        start = piece.start
        while True:
            while way < ways - 1 and passed >= ends[way]:
                way += 1
            stop = min(piece.stop, start + ends[way] - passed)
            found[way].append(Piece(piece.index, start, stop))
            passed, start = passed + stop - start, stop
            if start >= piece.stop:  # at once, for a query of no rows
                break
    return [some for some in found if some]


def _in_turn(
    parts: list[Part], names: list[int], costs: Sequence[Cost], holds: Sequence[int | None]
) -> tuple[list[list[Piece]], float]:
    """The shares, and the seconds until the last device is done."""
    holds, busy = [*holds], [0.0] * len(costs)
    found: list[list[Piece]] = [[] for _ in costs]
    for part, name in zip(parts, names, strict=True):
        rows = sum(piece.stop - piece.start for piece in part)
        done = [
            so_far + rows * cost.row + (0.0 if holding == name else cost.programming)
            for so_far, cost, holding in zip(busy, costs, holds, strict=True)
        ]
        first = min(range(len(done)), key=done.__getitem__)
        busy[first], holds[first] = done[first], name
        found[first] += part
    return found, max(busy)
