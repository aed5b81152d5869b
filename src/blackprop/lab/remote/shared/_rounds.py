"""Rounds and readings as arrays: a round travels as it is held."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._query import PURPOSES, Query
from blackprop.core._round import KIND, PURPOSE, SETTING, SIZE, START, Round
from blackprop.core.capabilities._capability import Capability
from blackprop.errors import ArgumentError, ProtocolError, ReadingError, ShapeError
from blackprop.lab.remote.shared import _wire as wire
from blackprop.lab.remote.shared._wire import HEADER_BYTES, MESSAGE_BYTES

QUERIES = 2**18
KINDS = 16
ANSWER_HEADER_BYTES = 4096
READ = "read"  # the kind of an ordinary reading
_TRAVEL = {torch.float32: torch.float32, torch.float64: torch.float64, torch.int64: torch.int64}
_TRAVEL |= {torch.float16: torch.float32, torch.bfloat16: torch.float32}


def pack(queries: Sequence[Query]) -> list[np.ndarray]:
    """The arrays of a round: rows (R, *in_shape), settings (T, P), the table (Q, 5), then the rows of further kinds."""
    asked = Round.of(queries)
    first, *others = map(_array, asked.parts)
    return [first, _array(asked.settings), asked.table, *others]


def names(asked: Round) -> list[str]:
    """The names of the kinds of queries of a round, in the order of their rows."""
    return [READ if kind is None else kind.name for kind in asked.kinds]


def unpack(arrays: Sequence[np.ndarray], spec: Declaration, kinds: Sequence[str] = (READ,)) -> Round:
    """Return the round of these kinds of queries, checked against the declaration (`Round.check`).

    `ProtocolError` for a wrong layout, and a `ShapeError` for more rows than an answer can hold. Takes no memory beyond
    that of the arrays, about: no object is made for a query.
    """
    first, settings, table, *others = _layout(arrays, kinds)
    parts = [torch.from_numpy(part) for part in (first, *others)]
    asked = Round(parts, torch.from_numpy(settings), table, [_kind(name, spec) for name in kinds])
    asked.check(spec)
    check_answer(answer_bytes(asked, spec), spec)
    return asked


def _kind(name: str, spec: Declaration) -> type[Capability] | None:
    for capability in spec.capabilities:
        if capability.name == name:
            return type(capability)
    if name != READ:
        raise ProtocolError(f"{spec.name} does not declare the capability {name[:40]!r}")
    return None


def _layout(arrays: Sequence[np.ndarray], kinds: Sequence[str]) -> Sequence[np.ndarray]:
    """The arrays of a round, the table checked against them."""
    if not 0 < len(kinds) <= KINDS or len(set(kinds)) < len(kinds) or not all(type(kind) is str for kind in kinds):
        raise ProtocolError(f"a round names its kinds of queries, each once and at most {KINDS}")
    if len(arrays) != 2 + len(kinds) or arrays[2].ndim != 2 or arrays[2].shape[1] != 5 or arrays[2].dtype != np.int64:
        raise ProtocolError("a round is rows, settings, a table of five whole numbers a query, and further kinds' rows")
    first, settings, table, *others = arrays
    parts = [first, *others]
    if len(table) > QUERIES:
        raise ProtocolError(f"a round of {len(table)} queries; at most {QUERIES} are taken")
    if settings.ndim != 2 or settings.dtype.kind != "f":
        raise ShapeError(f"the settings of a round are (T, P) of floating point, got {settings.shape} {settings.dtype}")
    if not 0 < len(table) >= len(settings):
        raise ProtocolError(f"{len(table)} queries with {len(settings)} settings; a round has a query for each setting")
    if any(part.ndim == 0 for part in parts):
        raise ShapeError("the rows of a round are one behind the other, got a single number")
    kind, start, size, which, code = (table[:, column] for column in (KIND, START, SIZE, SETTING, PURPOSE))
    right = (kind >= 0) & (kind < len(kinds)) & (which >= 0) & (which < len(settings))
    right &= (code >= 0) & (code < len(PURPOSES))
    if right.all():
        rows = np.array([len(part) for part in parts])[kind]
        right &= (start >= 0) & (start <= rows) & (size >= 0) & (size <= rows - start)
    if not right.all():
        raise ProtocolError("a query of the round points outside its rows, its settings or the purposes")
    return arrays


def answer_bytes(asked: Round, spec: Declaration) -> int:
    """The size of the answer to a round: its readings, and at most so much for the header."""
    total = 0
    for code, (kind, part) in enumerate(zip(asked.kinds, asked.parts, strict=True)):
        rows = int(asked.table[asked.table[:, KIND] == code, SIZE].sum())
        total += rows * math.prod(spec.reading_shape(kind)) * part.element_size()
    return total + ANSWER_HEADER_BYTES


def check_answer(size: int, spec: Declaration) -> None:
    """Raise `ShapeError` for a round whose answer, of `size` bytes, no message holds."""
    if size > MESSAGE_BYTES:
        raise ShapeError(
            f"the readings of this round of {spec.name} take {size / 2**20:.0f} MiB, and at most "
            f"{MESSAGE_BYTES // 2**20} MiB travel at once: ask for fewer rows in one round"
        )


def check_travel(asked: Round, arrays: Sequence[np.ndarray], spec: Declaration) -> None:
    """Raise `ShapeError` for a round that is too large to be sent, or to be answered."""
    size = sum(array.nbytes for array in arrays) + HEADER_BYTES
    if size > MESSAGE_BYTES or len(asked) > QUERIES:
        raise ShapeError(
            f"a round of {len(asked):,} queries and {size / 2**20:.0f} MiB; at most {QUERIES:,} and "
            f"{MESSAGE_BYTES // 2**20} MiB travel at once: ask for less in one round"
        )
    check_answer(answer_bytes(asked, spec), spec)


def pack_readings(readings: Sequence[Tensor], queries: Sequence[Query]) -> tuple[bool, list[np.ndarray]]:
    """The readings one behind the other as one array; each as an array of its own where they do not fit together.

    Faulty readings are sent unchanged: the client judges them.
    """
    for y in readings:
        if not isinstance(y, Tensor) or _TRAVEL.get(y.dtype) is not y.dtype:
            what = y.dtype if isinstance(y, Tensor) else type(y).__name__
            raise ReadingError(f"the device returned {what}; readings travel as float32, float64 or int64")
    if len(readings) == len(queries) and _fit(readings, Round.of(queries).sizes()):
        return True, [_array(readings[0] if len(readings) == 1 else torch.cat(list(readings)))]
    if len(readings) > wire.ARRAYS:
        raise ReadingError(f"the device returned {len(readings)} readings that do not fit together")
    return False, [_array(y) for y in readings]


def _fit(readings: Sequence[Tensor], sizes: Sequence[int]) -> bool:
    """Whether every reading has as many rows as its query, and all are alike."""
    dtype, shape = readings[0].dtype, readings[0].shape[1:]
    return all(
        y.dim() > 0 and y.shape[0] == size and y.dtype is dtype and (y is readings[0] or y.shape[1:] == shape)
        for y, size in zip(readings, sizes, strict=True)
    )


def unpack_readings(joined: bool, arrays: Sequence[np.ndarray], queries: Sequence[Query]) -> list[Tensor]:
    """One tensor a query, of the dtype and at the place of its rows."""
    tensors = [torch.from_numpy(array) for array in arrays]
    if joined:
        sizes = [query.x.shape[0] for query in queries]
        if len(arrays) != 1 or arrays[0].ndim == 0 or len(arrays[0]) != sum(sizes):
            raise ReadingError(f"the device answered something else than {sum(sizes)} rows in one array")
        tensors = list(tensors[0].split(sizes)) if len(sizes) > 1 else tensors
    if all(y.dtype is query.x.dtype and query.x.is_cpu for y, query in zip(tensors, queries, strict=False)):
        return tensors
    sent = _common([query.x for query in queries])
    placed = [_placed(y, query.x, sent) for y, query in zip(tensors, queries, strict=False)]
    return placed + tensors[len(queries) :]


def _placed(y: Tensor, x: Tensor, sent: torch.dtype) -> Tensor:
    """A reading beside its rows; in their dtype, where it is the one in which they were sent."""
    return y.to(x.device, x.dtype) if y.dtype == sent else y.to(x.device)


def _common(tensors: Sequence[Tensor]) -> torch.dtype:
    """The one dtype that tensors travel in, beside each other."""
    dtype = tensors[0].dtype
    for tensor in tensors:
        if tensor.dtype is not dtype:
            dtype = torch.promote_types(dtype, tensor.dtype)
    if dtype not in _TRAVEL:
        raise ArgumentError(f"rows and settings travel as float32, float64 or int64, not as {dtype}")
    return _TRAVEL[dtype]


def _array(tensor: Tensor) -> np.ndarray:
    if tensor.is_cpu and _TRAVEL.get(tensor.dtype) is tensor.dtype and tensor.is_contiguous():
        return tensor.detach().numpy()
    return tensor.detach().to("cpu", _common([tensor])).contiguous().numpy()
