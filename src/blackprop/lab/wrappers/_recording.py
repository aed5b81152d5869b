r"""The file of a recording: records one after another, each whole or not there.

```
file    = magic, record, record, …
magic   = "blackprop recording 1\n"                                              22 bytes
record  = u64 size, u32 crc32(size), u32 crc32(payload), payload of `size` bytes   little-endian, as all numbers are
payload = u32 length, header of `length` bytes (JSON, UTF-8), the arrays' bytes one after another
```

The header's "arrays" lists `[dtype, shape]` of each array, dtype one of `<f4`, `<f8`, `|u1`; its "kind" is one of
`declaration` (always the first), `draw`, `round`, `program`, `read`. The contents of a file are never executed.

A record is handed to the system before the device's answer is handed on, so a killed process loses at most the record
that it was writing; a machine that loses power may lose more. A file that ends within a record is read up to there,
with a warning; one that is damaged elsewhere is refused.
"""

from __future__ import annotations

import json
import math
import struct
import warnings
import zlib
from collections.abc import Sequence
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._query import Query
from blackprop.errors import ArgumentError, BlackpropWarning, CheckpointError, ReadingError

MAGIC = b"blackprop recording 1\n"
SIZE, CHECKS, LENGTH = struct.Struct("<Q"), struct.Struct("<II"), struct.Struct("<I")
HEAD = SIZE.size + CHECKS.size
DTYPES = {"<f4": torch.float32, "<f8": torch.float64, "|u1": torch.uint8}

Record = tuple[dict[str, Any], list[Tensor]]


class Writer:
    """Appends records to a new file."""

    def __init__(self, path: Path) -> None:
        try:
            self.file = FileIO(path, "x")  # unbuffered: each write reaches the system at once
        except FileExistsError as error:
            raise ArgumentError(f"{path} exists already, and recordings are never overwritten") from error
        self._write(MAGIC)

    def append(self, header: dict[str, Any], arrays: list[Tensor]) -> None:
        self.require_open()
        parts = [np.ascontiguousarray(_numpy(array)) for array in arrays]
        described = {**header, "arrays": [[part.dtype.str, list(part.shape)] for part in parts]}
        text = json.dumps(described, separators=(",", ":"), allow_nan=False).encode()
        payload = b"".join([LENGTH.pack(len(text)), text, *(part.tobytes() for part in parts)])
        size = SIZE.pack(len(payload))
        self._write(size + CHECKS.pack(zlib.crc32(size), zlib.crc32(payload)) + payload)

    def require_open(self) -> None:
        if self.file.closed:
            raise ArgumentError(f"the recording {self.file.name} is closed")

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self.file.write(rest) :]
        except OSError:
            self.file.close()  # a full disk: records after half a record could not be read
            raise


class Reader:
    """The records of a file, in order, one at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise ArgumentError(f"there is no recording at {path}: {error}") from error
        try:
            self._places = self._index()
        except BaseException:
            self._file.close()
            raise

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Record:
        start, size = self._places[index]
        self._file.seek(start)
        try:
            return _parsed(self._file.read(size))
        except (ValueError, KeyError, TypeError, struct.error) as error:
            raise CheckpointError(f"record {index} of {self.path} cannot be read: {error!r}") from error

    def close(self) -> None:
        self._file.close()

    def _index(self) -> list[tuple[int, int]]:
        """Where each payload is, every checksum verified."""
        end = self.path.stat().st_size
        if self._file.read(len(MAGIC)) != MAGIC:
            raise CheckpointError(f"{self.path} is not a recording of this version")
        places: list[tuple[int, int]] = []
        at = len(MAGIC)
        while at < end:
            head = self._file.read(HEAD)
            if len(head) < HEAD:
                self._warn_torn(len(places))
                break
            (size,), (check_size, check) = SIZE.unpack_from(head), CHECKS.unpack_from(head, SIZE.size)
            if zlib.crc32(head[: SIZE.size]) != check_size:
                raise CheckpointError(f"{self.path} is damaged at byte {at:,}, in record {len(places)}")
            if at + HEAD + size > end:
                self._warn_torn(len(places))
                break
            if _checksum(self._file, size) != check:
                raise CheckpointError(f"{self.path} is damaged after byte {at:,}, in record {len(places)}")
            places.append((at + HEAD, size))
            at += HEAD + size
        return places

    def _warn_torn(self, record: int) -> None:
        text = f"{self.path} ends within record {record}, as when its writer was killed; it is left out"
        warnings.warn(text, BlackpropWarning, stacklevel=5)


def declared(spec: Declaration) -> Record:
    limits: list[float | int | None] = []
    arrays: list[Tensor] = []
    for limit in (spec.theta.low, spec.theta.high):
        if isinstance(limit, Tensor):
            limits.append(len(arrays))  # a whole number says which array
            arrays.append(limit.float() if limit.dtype != torch.float64 else limit)
        else:
            limits.append(float(limit) if limit is not None and math.isfinite(limit) else None)
    header: dict[str, Any] = {
        "kind": "declaration",
        "name": spec.name,
        "in_shape": spec.in_shape,
        "out_shape": spec.out_shape,
        "size": spec.theta.size,
        "limits": limits,
        "period": spec.theta.period,
        "harmonics": spec.theta.harmonics,
        "linear": spec.linear,
        "coupling": spec.coupling.value,
        "cost": [spec.cost.programming, spec.cost.row, dict(spec.cost.actions)],
        "energy": None if spec.cost.energy is None else spec.cost.energy.plain(),
        "rows_each": spec.rows_each,
        "noise": spec.noise,
        "input_limits": [spec.x_low, spec.x_high],
        "capabilities": {each.name: each.fields() for each in spec.capabilities},
    }
    return header, arrays


def described(queries: Sequence[Query]) -> Record:
    """The questions of a round, every tensor that they share once."""
    places: dict[int, int] = {}
    arrays: list[Tensor] = []

    def place(tensor: Tensor) -> int:
        if id(tensor) not in places:
            places[id(tensor)] = len(arrays)
            arrays.append(tensor)
        return places[id(tensor)]

    asked = [[place(q.x), place(q.theta), q.purpose.value, *_named(q)] for q in queries]
    return {"kind": "round", "queries": asked, "inputs": len(arrays)}, arrays


def _named(query: Query) -> list[str]:
    return [] if query.capability is None else [query.capability.name]


def _checksum(file: Any, size: int) -> int:
    check = 0
    while size:
        part = file.read(min(size, 2**20))
        check, size = zlib.crc32(part, check), size - len(part)
    return check


def _parsed(payload: bytes) -> Record:
    (length,) = LENGTH.unpack_from(payload)
    at = LENGTH.size + length
    header = json.loads(payload[LENGTH.size : at])
    arrays: list[Tensor] = []
    for name, shape in header.pop("arrays"):
        dtype = DTYPES[name]
        size = math.prod(shape) * dtype.itemsize
        if at + size > len(payload):
            raise ValueError("an array is longer than its record")
        part = np.frombuffer(payload, dtype=name, count=math.prod(shape), offset=at).reshape(shape)
        arrays.append(torch.from_numpy(part.astype(part.dtype.newbyteorder("="))))
        at += size
    return header, arrays


def _numpy(array: Any) -> np.ndarray:
    if not isinstance(array, Tensor):
        raise ReadingError(f"a device returned {type(array).__name__}, and only tensors can be recorded")
    name = next((name for name, dtype in DTYPES.items() if dtype == array.dtype), None)
    if name is None:
        raise ReadingError(f"{array.dtype} cannot be recorded, only {', '.join(map(str, DTYPES.values()))}")
    return array.detach().cpu().resolve_neg().numpy().astype(name, copy=False)
