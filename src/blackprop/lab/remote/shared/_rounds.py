"""A round of queries as three arrays, and its readings as one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._query import Query
from blackprop.errors import ArgumentError, LimitError, ProtocolError, ReadingError, ShapeError
from blackprop.lab.remote.shared import _wire as wire
from blackprop.lab.remote.shared._messages import PURPOSES
from blackprop.lab.remote.shared._wire import HEADER_BYTES, MESSAGE_BYTES

QUERIES = 2**18
ANSWER_HEADER_BYTES = 4096
SMALL = 2**14
_CODES = {purpose: code for code, purpose in enumerate(PURPOSES)}
_TRAVEL = {torch.float32: torch.float32, torch.float64: torch.float64, torch.int64: torch.int64}
_TRAVEL |= {torch.float16: torch.float32, torch.bfloat16: torch.float32}


def pack(queries: Sequence[Query]) -> list[np.ndarray]:
    """Rows (R, *in_shape), settings (T, P), and for each query: its first row, its rows, its setting, its purpose.

    Rows and settings that several queries share are sent once.
    """
    rows: dict[int, tuple[Tensor, int]] = {}
    settings: dict[int, tuple[Tensor, int]] = {}
    table: list[tuple[int, int, int, int]] = []
    at = 0
    for query in queries:
        x, theta = query.x, query.theta
        size = x.shape[0]
        start = rows.setdefault(id(x), (x, at))[1]
        at = max(at, start + size)
        which = settings.setdefault(id(theta), (theta, len(settings)))[1]
        table.append((start, size, which, _CODES[query.purpose]))
    xs, thetas = [x for x, _ in rows.values()], [theta for theta, _ in settings.values()]
    stacked = _array(thetas[0])[None] if len(thetas) == 1 else _array(_stacked(thetas))
    return [_array(xs[0] if len(xs) == 1 else torch.cat(xs)), stacked, np.array(table, np.int64)]


def unpack(arrays: Sequence[np.ndarray], spec: Declaration) -> list[Query]:
    """The queries again, checked against the shapes of the device; what they share is shared here too."""
    rows, settings, table = _layout(arrays, spec)
    x_all, settings, many = torch.from_numpy(rows), torch.from_numpy(settings), len(rows)
    xs: dict[tuple[int, int], Tensor] = {}
    thetas: dict[int, Tensor] = {}
    queries = []
    for start, size, which, code in table.tolist():
        x, theta = xs.get((start, size)), thetas.get(which)
        if x is None:
            x = xs[start, size] = x_all if size == many else x_all[start : start + size]
        if theta is None:
            theta = thetas[which] = settings[which]
        queries.append(Query(x, theta, PURPOSES[code]))
    return queries


def _layout(arrays: Sequence[np.ndarray], spec: Declaration) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, settings and queries of a round, their shapes and the table checked; no object is made for each of them."""
    if len(arrays) != 3 or arrays[2].ndim != 2 or arrays[2].shape[1] != 4 or arrays[2].dtype != np.int64:
        raise ProtocolError("a round is three arrays: rows, settings, and four whole numbers a query")
    rows, settings, table = arrays
    if len(table) > QUERIES:
        raise ProtocolError(f"a round of {len(table)} queries; at most {QUERIES} are taken")
    if rows.ndim == 0 or rows.shape[1:] != spec.in_shape:
        raise ShapeError(f"{spec.name} takes rows of shape {spec.in_shape}, got {rows.shape[1:]}")
    if settings.dtype.kind != "f":
        raise ShapeError(f"a setting of this device is of floating point, got {settings.dtype}")
    if settings.ndim != 2 or settings.shape[1] != spec.theta.size:
        raise ShapeError(f"a setting of this device has shape ({spec.theta.size},), got {settings.shape[1:]}")
    start, size, which, code = table.T
    inside = (start >= 0) & (start <= len(rows)) & (size >= 0) & (size <= len(rows) - start)
    inside &= (which >= 0) & (which < len(settings)) & (code >= 0) & (code < len(PURPOSES))
    if not inside.all():
        raise ProtocolError("a query of the round points outside its rows, its settings or the purposes")
    return rows, settings, table


def check(arrays: Sequence[np.ndarray], spec: Declaration) -> None:
    """Raise unless a round may be measured: whatever a client sends.

    `ProtocolError` for a wrong layout; `ShapeError` for rows or settings of a wrong shape, and for more rows than an
    answer can hold; `LimitError` unless every row is finite and every setting within the limits. Takes no memory beyond
    that of the arrays, about.
    """
    rows, settings, table = _layout(arrays, spec)
    if not 0 < len(table) >= len(settings):
        raise ProtocolError(f"{len(table)} queries with {len(settings)} settings; a round has a query for each setting")
    check_answer(answer_bytes(arrays, spec), spec)
    if spec.theta.limited or not _finite(settings):
        thetas = torch.from_numpy(settings)
        low, high = spec.theta.bounds(thetas)
        right = ((thetas >= low) & (thetas <= high) & thetas.isfinite()).all(1)
        if not bool(right.all()):
            spec.theta.check(thetas[int((~right).nonzero()[0])])
            raise LimitError("a setting is outside the device's limits")
    if not _finite(rows):
        raise LimitError("a row of the round is not finite")
    spec.check_rows(torch.from_numpy(rows))


def answer_bytes(arrays: Sequence[np.ndarray], spec: Declaration) -> int:
    """The size of the answer to a round: its readings, and at most so much for the header."""
    return int(arrays[2][:, 1].sum()) * math.prod(spec.out_shape) * arrays[0].itemsize + ANSWER_HEADER_BYTES


def check_answer(size: int, spec: Declaration) -> None:
    """Raise `ShapeError` for a round whose answer, of `size` bytes, no message holds."""
    if size > MESSAGE_BYTES:
        raise ShapeError(
            f"the readings of this round of {spec.name} take {size / 2**20:.0f} MiB, and at most "
            f"{MESSAGE_BYTES // 2**20} MiB travel at once: ask for fewer rows in one round"
        )


def check_travel(queries: Sequence[Query], arrays: Sequence[np.ndarray], spec: Declaration) -> None:
    """Raise `ShapeError` for a round that is too large to be sent, or to be answered."""
    size = sum(array.nbytes for array in arrays) + HEADER_BYTES
    if size > MESSAGE_BYTES or len(queries) > QUERIES:
        raise ShapeError(
            f"a round of {len(queries):,} queries and {size / 2**20:.0f} MiB; at most {QUERIES:,} and "
            f"{MESSAGE_BYTES // 2**20} MiB travel at once: ask for less in one round"
        )
    check_answer(answer_bytes(arrays, spec), spec)


def _finite(array: np.ndarray) -> bool:
    if array.size < SMALL:
        return bool(np.isfinite(array).all())
    tensor = torch.from_numpy(array)  # a sum is finite only if every term is, and takes no memory
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def pack_readings(readings: Sequence[Tensor], queries: Sequence[Query]) -> tuple[bool, list[np.ndarray]]:
    """The readings one behind the other as one array; each as an array of its own where they do not fit together.

    What is wrong with them is for the client to judge: they are sent as they are.
    """
    for y in readings:
        if not isinstance(y, Tensor) or _TRAVEL.get(y.dtype) is not y.dtype:
            what = y.dtype if isinstance(y, Tensor) else type(y).__name__
            raise ReadingError(f"the device returned {what}; readings travel as float32, float64 or int64")
    if len(readings) == len(queries) and _fit(readings, queries):
        return True, [_array(readings[0] if len(readings) == 1 else torch.cat(list(readings)))]
    if len(readings) > wire.ARRAYS:
        raise ReadingError(f"the device returned {len(readings)} readings that do not fit together")
    return False, [_array(y) for y in readings]


def _fit(readings: Sequence[Tensor], queries: Sequence[Query]) -> bool:
    """Whether every reading has as many rows as its query, and all are alike."""
    dtype, shape = readings[0].dtype, readings[0].shape[1:]
    return all(
        y.dim() > 0 and y.shape[0] == q.x.shape[0] and y.dtype is dtype and (y is readings[0] or y.shape[1:] == shape)
        for y, q in zip(readings, queries, strict=True)
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


def _stacked(thetas: list[Tensor]) -> Tensor:
    dtype = _common(thetas)
    return torch.stack([theta.to(dtype) for theta in thetas])


def _array(tensor: Tensor) -> np.ndarray:
    if tensor.is_cpu and _TRAVEL.get(tensor.dtype) is tensor.dtype and tensor.is_contiguous():
        return tensor.detach().numpy()
    return tensor.detach().to("cpu", _common([tensor])).contiguous().numpy()
